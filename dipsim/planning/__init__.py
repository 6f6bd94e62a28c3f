"""A plan: whether a model fits a device, what it does there, and the ways to run it."""

from dipsim.planning.plan import Plan, plan

__all__ = ["Plan", "plan"]
