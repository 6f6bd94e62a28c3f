"""Flash: where units lie, and what reading them costs."""
