"""Token pruning: prompt tokens that later layers leave out (LazyLLM, arXiv 2407.14057)."""

from dipsim.tokens.lazy import Depths, Pruned, Selection, account, replay_pruning
from dipsim.tokens.schedule import NOTHING, Pruning, parse_pruning
from dipsim.tokens.work import TokenBytes, aux_bytes, prefill_flops, token_bytes

__all__ = [
    "NOTHING",
    "Depths",
    "Pruned",
    "Pruning",
    "Selection",
    "TokenBytes",
    "account",
    "aux_bytes",
    "parse_pruning",
    "prefill_flops",
    "replay_pruning",
    "token_bytes",
]
