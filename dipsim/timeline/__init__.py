"""Time: what reads cost in flash, and how flash, DRAM and compute add up."""
