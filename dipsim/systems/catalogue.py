"""Systems that may stand beside the weights, and the options that ask for them."""

from typing import NamedTuple

from dipsim.kv.rules import BUILTIN, load_rule
from dipsim.layers import BUILTIN as LAYER_RULES


class System(NamedTuple):
    """A system that shares DRAM and time with the weights."""

    option: str
    """Option as the command line takes it, e.g. ``--kv-policy tova``."""
    summary: str
    source: str


def _rules() -> tuple[System, ...]:
    rules = (load_rule(name) for name in BUILTIN)
    return tuple(System(f"--kv-policy {rule.name}", rule.summary, rule.source) for rule in rules)


def _layers() -> tuple[System, ...]:
    return tuple(
        System(f"--skip-layers {rule.name}", rule.summary, rule.source)
        for rule in LAYER_RULES.values()
    )


SYSTEMS: tuple[System, ...] = (
    *_rules(),
    System(
        "--kv-quant kivi",
        "keys and values in fewer bits: kivi, q8_0, q4_0, fp8 or transformers",
        "KIVI, arXiv 2402.02750; llama.cpp",
    ),
    System("--kv-dram 50%", "the oldest positions lie in flash", "FlexGen, arXiv 2303.06865"),
    System(
        "--kv-fetch top=64:block=16",
        "a token reads the best blocks of positions only, of which some come from flash",
        "in the manner of Quest, arXiv 2406.10774, and DynaKV",
    ),
    System(
        "--kv-recompute auto",
        "part of what lies in flash is computed again while the rest is read",
        "KVPR, arXiv 2411.17089",
    ),
    System(
        "--prune-tokens lazy",
        "tokens that get little attention leave later layers; they may come back",
        "LazyLLM, arXiv 2407.14057",
    ),
    System("--prune-tokens static", "prompt tokens leave for good", "a baseline of LazyLLM"),
    System("--prune-tokens random", "prompt tokens leave by chance", "a baseline of LazyLLM"),
    *_layers(),
    System(
        "--batch 4", "sequences are decoded side by side and read each weight once", "a baseline"
    ),
    System(
        "--speculate draft=4,accept=.8",
        "drafts are verified in one step, which reads each weight once",
        "Leviathan et al., arXiv 2211.17192",
    ),
)
"""Systems, in the order in which they are listed."""
