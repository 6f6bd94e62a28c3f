"""Cache policies, one file each.

`BUILTIN`, the table of them by name, feeds command line, docs, contract tests and benchmarks.
"""

from collections.abc import Sequence

from dipsim import plugins
from dipsim.errors import PolicyError, not_taken
from dipsim.policies.arc import ARC
from dipsim.policies.belady import BELADY
from dipsim.policies.clock import CLOCK
from dipsim.policies.contract import Admission, Policy
from dipsim.policies.fifo import FIFO
from dipsim.policies.least_stale import LEAST_STALE
from dipsim.policies.lfru import LFRU, LFRU_SAMPLED
from dipsim.policies.lfu import LFU
from dipsim.policies.lfu_decay import LFU_DECAY
from dipsim.policies.lfu_resident import LFU_RESIDENT
from dipsim.policies.lirs import LIRS
from dipsim.policies.lru import LRU
from dipsim.policies.lru_heat import LRU_HEAT
from dipsim.policies.lru_k import LRU_K
from dipsim.policies.lru_throttled import LRU_THROTTLED
from dipsim.policies.mru import MRU
from dipsim.policies.none import NONE
from dipsim.policies.opt import OPT
from dipsim.policies.pinned import PINNED
from dipsim.policies.random import RANDOM
from dipsim.policies.s3fifo import S3FIFO
from dipsim.policies.sieve import SIEVE
from dipsim.policies.slru import SLRU
from dipsim.policies.static import STATIC
from dipsim.policies.two_q import TWO_Q
from dipsim.policies.w_tinylfu import W_TINYLFU
from dipsim.policies.window import WINDOW

_RANKING = (NONE, STATIC, RANDOM, FIFO, LRU, MRU, LFU, LFU_RESIDENT, LFU_DECAY, LRU_K)
_OF_EXPERTS = (LFRU, LEAST_STALE, LRU_HEAT, LRU_THROTTLED, PINNED)
_QUEUES = (WINDOW, SLRU, TWO_Q, ARC, CLOCK, SIEVE, S3FIFO, W_TINYLFU, LIRS, LFRU_SAMPLED)
BUILTIN = {policy.name: policy for policy in (*_RANKING, *_OF_EXPERTS, *_QUEUES, BELADY, OPT)}

_KIND = plugins.Kind("policy", Policy, PolicyError, BUILTIN, "lfu-decay:half_life=32")

__all__ = ["BUILTIN", "Admission", "Policy", "load_policies", "load_policy", "runs_file"]


def load_policy(given: str | Policy) -> Policy:
    """Return a policy by its name, from ``file.py:attribute``, or the object as it is.

    Parameters follow after another colon: ``lfu-decay:half_life=32``. The file is Python and is
    run, as any program of the user's would be.

    Raises:
        PolicyError: unknown name, no such file or attribute, a file that fails, an attribute that
            is not a `Policy`, or parameters that the policy does not have.
    """
    if isinstance(given, Policy):
        return given
    if not isinstance(given, str):
        raise PolicyError(not_taken("policy", given, "a name, file.py:attribute or a Policy"))
    name, _ = plugins.name_and_parameters(given)
    parameters = plugins.parse_parameters(_KIND, given)
    policy = BUILTIN[name] if name in BUILTIN else plugins.load(_KIND, name)
    return policy.with_parameters(parameters) if parameters else policy


def runs_file(given: str) -> bool:
    """Return whether `load_policy` runs a file for this text."""
    return plugins.runs_file(_KIND, given)


def load_policies(given: Sequence[str | Policy]) -> list[Policy]:
    """Return several policies, in the order given; reports tell them apart by their labels.

    Raises:
        PolicyError: as `load_policy`, or two policies have the same label.
    """
    policies = [load_policy(policy) for policy in given]
    plugins.refuse_same(_KIND, [policy.label for policy in policies])
    return policies
