"""Questions that look at a whole trace or run the pipeline many times."""
