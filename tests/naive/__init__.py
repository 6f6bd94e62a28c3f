"""Naive twins: the slow, obvious forms of what dipsim computes; none shares code with dipsim."""
