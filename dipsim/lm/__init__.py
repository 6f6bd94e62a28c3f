"""Models in the loop (extra ``dipsim[torch]``): record, sparsify, judge, recover with LoRA."""
