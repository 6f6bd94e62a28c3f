"""Systems that stand beside the weights and share their DRAM and their time: which positions of the
KV cache stay, which tokens and which layers are computed."""

from dipsim.systems.catalogue import SYSTEMS, System
from dipsim.systems.kv import KvCache, plan_kv

__all__ = ["SYSTEMS", "KvCache", "System", "plan_kv"]
