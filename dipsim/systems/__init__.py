"""Systems that stand beside the weights and share their DRAM and their time: which positions of the
KV cache stay, which tokens and which layers are computed."""

from dipsim.systems.beside import NOTHING, UNDECIDED, Beside, Decided, plan_beside
from dipsim.systems.catalogue import SYSTEMS, System
from dipsim.systems.kv import KvCache
from dipsim.systems.layers import SkippedLayers, weight_share
from dipsim.systems.tokens import PrunedTokens

__all__ = [
    "NOTHING",
    "SYSTEMS",
    "UNDECIDED",
    "Beside",
    "Decided",
    "KvCache",
    "PrunedTokens",
    "SkippedLayers",
    "System",
    "plan_beside",
    "weight_share",
]
