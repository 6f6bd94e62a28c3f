"""Systems that stand beside the weights and share their DRAM and their time: which positions of the
KV cache stay, which tokens and which layers are computed. They load when a run asks for one."""

from dipsim.systems.beside import NOTHING, UNDECIDED, Beside, Decided, plan_beside
from dipsim.systems.speeds import Speeds

__all__ = ["NOTHING", "UNDECIDED", "Beside", "Decided", "Speeds", "plan_beside"]
