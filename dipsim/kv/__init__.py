"""Keys and values beside the weights: which positions stay, their bytes, where they lie, and what
each token moves."""
