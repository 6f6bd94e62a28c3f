"""Cache policies, one file each. `BUILTIN` feeds command line, docs, contract tests, benchmarks."""

import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path

from dipsim.errors import PolicyError
from dipsim.policies.belady import BELADY
from dipsim.policies.contract import Admission, Policy
from dipsim.policies.fifo import FIFO
from dipsim.policies.lfu import LFU
from dipsim.policies.lru import LRU
from dipsim.policies.none import NONE
from dipsim.policies.opt import OPT
from dipsim.policies.random import RANDOM
from dipsim.policies.static import STATIC

BUILTIN: dict[str, Policy] = {
    policy.name: policy for policy in (NONE, STATIC, RANDOM, LRU, FIFO, LFU, BELADY, OPT)
}

__all__ = ["BUILTIN", "Admission", "Policy", "load_policy"]


def load_policy(given: str | Policy) -> Policy:
    """A policy by name, from ``file.py:attribute``, or the object itself.

    A file is Python and is run, as any program of the user's would be.

    Raises:
        PolicyError: unknown name, no such file or attribute, a file that fails, not a `Policy`.
    """
    if isinstance(given, Policy):
        return given
    if given in BUILTIN:
        return BUILTIN[given]
    file, colon, attribute = given.rpartition(":")
    if not colon or not file.endswith(".py"):
        known = ", ".join(BUILTIN)
        if given.partition(":")[0] in BUILTIN:
            raise PolicyError(f"policy {given!r}: {given.partition(':')[0]} takes no parameters")
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
    except (Exception, SystemExit) as problem:  # the user's own code: any failure is theirs to read
        raise PolicyError(
            f"policy {given!r}: {file} fails with {type(problem).__name__}: {problem}"
        ) from problem
    policy = getattr(module, attribute, None)
    if not isinstance(policy, Policy):
        raise PolicyError(
            f"policy {given!r}: {file} has no dipsim.Policy named {attribute!r}; define one"
        )
    return policy
