"""Budgets: the division of the DRAM given to a model."""
