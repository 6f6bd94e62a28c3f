"""Cache policies, one file each.

`BUILTIN`, the table of them by name, feeds command line, docs, contract tests and benchmarks.
"""

import importlib.util
import math
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path

from dipsim.errors import PolicyError, not_taken
from dipsim.policies.arc import ARC
from dipsim.policies.belady import BELADY
from dipsim.policies.clock import CLOCK
from dipsim.policies.contract import Admission, Policy
from dipsim.policies.fifo import FIFO
from dipsim.policies.lfu import LFU
from dipsim.policies.lfu_decay import LFU_DECAY
from dipsim.policies.lfu_resident import LFU_RESIDENT
from dipsim.policies.lirs import LIRS
from dipsim.policies.lru import LRU
from dipsim.policies.lru_k import LRU_K
from dipsim.policies.mru import MRU
from dipsim.policies.none import NONE
from dipsim.policies.opt import OPT
from dipsim.policies.random import RANDOM
from dipsim.policies.s3fifo import S3FIFO
from dipsim.policies.sieve import SIEVE
from dipsim.policies.slru import SLRU
from dipsim.policies.static import STATIC
from dipsim.policies.two_q import TWO_Q
from dipsim.policies.w_tinylfu import W_TINYLFU
from dipsim.policies.window import WINDOW

_RANKING = (NONE, STATIC, RANDOM, FIFO, LRU, MRU, LFU, LFU_RESIDENT, LFU_DECAY, LRU_K)
_QUEUES = (WINDOW, SLRU, TWO_Q, ARC, CLOCK, SIEVE, S3FIFO, W_TINYLFU, LIRS)
BUILTIN = {policy.name: policy for policy in (*_RANKING, *_QUEUES, BELADY, OPT)}

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
    policy, colon, parameters = given.rpartition(":")
    if "=" in parameters and colon:
        return load_policy(policy).with_parameters(_parameters(given, parameters))
    if given in BUILTIN:
        return BUILTIN[given]
    return _from_file(given)


def runs_file(given: str) -> bool:
    """Return whether `load_policy` runs a file for this text."""
    policy, colon, parameters = given.rpartition(":")
    if "=" in parameters and colon:
        return runs_file(policy)
    return given not in BUILTIN and policy.endswith(".py")


def load_policies(given: Sequence[str | Policy]) -> list[Policy]:
    """Return several policies, in the order given; reports tell them apart by their labels.

    Raises:
        PolicyError: as `load_policy`, or two policies have the same label.
    """
    policies = [load_policy(policy) for policy in given]
    labels = [policy.label for policy in policies]
    for label in labels:
        if labels.count(label) > 1:
            raise PolicyError(f"two policies are called {label!r}: name each once, or rename yours")
    return policies


def _parameters(given: str, text: str) -> dict[str, float]:
    """Parse the ``key=value,key=value`` part of ``given`` (the whole, for the message)."""
    pairs = [pair.partition("=") for pair in text.split(",")]
    try:
        values = {key.strip(): float(value) for key, _, value in pairs}
        if len(values) < len(pairs) or not all(map(math.isfinite, values.values())):
            raise ValueError
    except ValueError:
        raise PolicyError(
            f"policy {given!r}: parameters are key=number,key=number, as in lfu-decay:half_life=32"
        ) from None
    return values


def _from_file(given: str) -> Policy:
    """Run ``file.py`` of ``file.py:attribute`` and return the policy that it defines."""
    file, colon, attribute = given.rpartition(":")
    if not colon or not file.endswith(".py"):
        known = ", ".join(BUILTIN)
        name = given.partition(":")[0]
        if name in BUILTIN:
            raise PolicyError(f"policy {given!r}: write parameters as {name}:key=value")
        raise PolicyError(f"no policy {given!r}: use one of {known}, or file.py:attribute")
    path = Path(file)
    if not os.path.isfile(path):
        raise PolicyError(f"policy {given!r}: no file {file}; give path/to/file.py:attribute")
    loader = SourceFileLoader(f"dipsim_user_{path.stem}", str(path))
    module = importlib.util.module_from_spec(ModuleSpec(loader.name, loader, origin=str(path)))
    sys.modules[loader.name] = module
    try:
        loader.exec_module(module)
    except PolicyError:
        raise
    except (Exception, SystemExit) as problem:  # the user's code: show whatever it raises
        raise PolicyError(
            f"policy {given!r}: {file} fails with {type(problem).__name__}: {problem}"
        ) from problem
    policy = getattr(module, attribute, None)
    if not isinstance(policy, Policy):
        raise PolicyError(
            f"policy {given!r}: {file} has no dipsim.Policy named {attribute!r}; define one"
        )
    return policy
