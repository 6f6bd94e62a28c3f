"""What may stand beside the weights, and the option that asks for it."""

from typing import NamedTuple

from dipsim.kv.rules import BUILTIN, load_rule


class System(NamedTuple):
    """A system that shares DRAM and time with the weights."""

    option: str
    """As the command line takes it, e.g. ``--kv-policy tova``."""
    summary: str
    source: str


def _rules() -> tuple[System, ...]:
    rules = (load_rule(name) for name in BUILTIN)
    return tuple(System(f"--kv-policy {rule.name}", rule.summary, rule.source) for rule in rules)


SYSTEMS: tuple[System, ...] = (
    *_rules(),
    System(
        "--kv-quant kivi",
        "keys and values in fewer bits: kivi, q8_0, q4_0, fp8 or transformers",
        "KIVI, arXiv 2402.02750; llama.cpp",
    ),
    System("--kv-dram 50%", "the oldest positions lie in flash", "FlexGen, arXiv 2303.06865"),
    System(
        "--kv-recompute auto",
        "part of what lies in flash is computed again while the rest is read",
        "KVPR, arXiv 2411.17089",
    ),
)
"""Systems, in the order in which they are listed."""
