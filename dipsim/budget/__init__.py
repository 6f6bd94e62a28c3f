"""How the DRAM given to a model is divided."""
