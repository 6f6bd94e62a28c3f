"""Models in the loop (extra ``dipsim[torch]``): record, sparsify, judge, recover with LoRA.

>>> from dipsim import lm
>>> loaded = lm.load("SmolLM2-135M-Instruct.Q4_1.gguf")
>>> with lm.record(loaded.model, "t.npz"):
...     loaded.model.generate(ids, max_new_tokens=64)
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dipsim.lm.distil import Recipe, train_adapter
    from dipsim.lm.evaluate import evaluate
    from dipsim.lm.eviction import Evicting, evicting
    from dipsim.lm.harness import harness
    from dipsim.lm.lazy import PrunedPerplexity, PrunedSequence, prune_tokens, pruned_perplexity
    from dipsim.lm.load import Loaded, load
    from dipsim.lm.loops import dense_trace, open_loop
    from dipsim.lm.lora import fuse, load_adapter
    from dipsim.lm.perplexity import perplexity
    from dipsim.lm.record import Recorder, record, record_arrays
    from dipsim.lm.retrieving import Retrieving, retrieving
    from dipsim.lm.rounding import Rounding, rounding
    from dipsim.lm.skipping import Skipping, layer_states, skip_layers
    from dipsim.lm.sparse import Sparse, sparsify
    from dipsim.lm.structure import Structure, find_structure
    from dipsim.lm.text import prefix_of, read_ids, windows_of

__all__ = [
    "Evicting",
    "Loaded",
    "PrunedPerplexity",
    "PrunedSequence",
    "Recipe",
    "Recorder",
    "Retrieving",
    "Rounding",
    "Skipping",
    "Sparse",
    "Structure",
    "dense_trace",
    "evaluate",
    "evicting",
    "find_structure",
    "fuse",
    "harness",
    "layer_states",
    "load",
    "load_adapter",
    "open_loop",
    "perplexity",
    "prefix_of",
    "prune_tokens",
    "pruned_perplexity",
    "read_ids",
    "record",
    "record_arrays",
    "retrieving",
    "rounding",
    "skip_layers",
    "sparsify",
    "train_adapter",
    "windows_of",
]

_HOMES = {
    "Evicting": "eviction",
    "Loaded": "load",
    "PrunedPerplexity": "lazy",
    "PrunedSequence": "lazy",
    "Recipe": "distil",
    "Recorder": "record",
    "Retrieving": "retrieving",
    "Rounding": "rounding",
    "Skipping": "skipping",
    "Sparse": "sparse",
    "Structure": "structure",
    "dense_trace": "loops",
    "evaluate": "evaluate",
    "evicting": "eviction",
    "find_structure": "structure",
    "harness": "harness",
    "fuse": "lora",
    "layer_states": "skipping",
    "load": "load",
    "load_adapter": "lora",
    "open_loop": "loops",
    "perplexity": "perplexity",
    "prune_tokens": "lazy",
    "pruned_perplexity": "lazy",
    "prefix_of": "text",
    "read_ids": "text",
    "record": "record",
    "record_arrays": "record",
    "retrieving": "retrieving",
    "rounding": "rounding",
    "skip_layers": "skipping",
    "sparsify": "sparse",
    "train_adapter": "distil",
    "windows_of": "text",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used; torch is loaded then, and not before.

    Raises:
        DipsimError: the extra is not installed.
    """
    if name not in _HOMES:
        raise AttributeError(f"module 'dipsim.lm' has no attribute {name!r}")
    from dipsim.lm.extra import need_torch

    need_torch()
    value = getattr(import_module(f"dipsim.lm.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """A module that keeps a function under its name when the submodule of that name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if _HOMES.get(name) == name and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
