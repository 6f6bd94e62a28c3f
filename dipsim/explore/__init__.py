"""The explorer: a local app in which a browser's page asks the simulator, figure by figure."""
