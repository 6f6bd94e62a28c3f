"""Keys and values beside the weights: their bytes, where they lie, what each token moves."""
