"""Columns of cells: their heads, and their values as people read them."""

from typing import Any

from dipsim.units import BYTES, show_number

HEADS = {
    "tokens_per_second": "tok/s",
    "tokens_per_second_low": "low",
    "tokens_per_second_high": "high",
    "hit_rate": "hits",
    "unit_hit_rate": "unit hits",
    "flash_bytes_per_token": "flash",
    "flash_useful_bytes_per_token": "missed",
    "flash_reads_per_token": "reads",
    "dram_bytes_per_token": "weights, KV",
    "energy_kept_mlp_input": "energy, input",
    "energy_kept_glu": "energy, glu",
    "dram_share": "DRAM share",
    "overrides.flash.bandwidth": "flash bandwidth",
    "first_token.prefill_ms": "prefill ms",
    "first_token.token_ms": "token ms",
    "first_token.ttft_ms": "ttft ms",
    "first_token.cold_ttft_ms": "cold ttft ms",
    "first_token.experts_used": "experts",
}
"""Heads of columns that their name would make too wide."""
TITLES = {
    "tokens_per_second": "tokens per second",
    "hit_rate": "active bytes found in DRAM",
    "flash_bytes_per_token": "flash read per token",
    "dram_bytes_per_token": "weights and KV a token uses",
    "budget.kv": "KV held in DRAM",
    "kv.read_bytes_per_token": "KV read per token",
    "kv.flash_bytes_per_token": "KV from flash per token",
    "first_token.prefill_ms": "prefill (ms)",
    "first_token.computed": "share of the prompt's (token, layer) computed",
}
"""Titles of tables of one figure."""
_SHARES = ("hit_rate", "unit_hit_rate", "dram_share", "first_token.computed")


def head(name: str) -> str:
    """Return the head of a column, or of an axis."""
    return HEADS.get(name, name)


def title(figure: str) -> str:
    """Return what a table shows of one figure."""
    return TITLES.get(figure, figure)


def place_text(axis: str, value: Any) -> str:
    """Return a value of an axis as people read it; ``none`` where the option is not given."""
    return "none" if value is None else text(axis, value)


def text(name: str, value: Any) -> str:
    """Return a figure as people read it; a dash for none."""
    if value is None:
        return "-"
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    if "_bytes" in name or name == "budget.kv":
        return BYTES.show(value)
    if name in _SHARES or "_share" in name:
        return f"{value:.1%}"
    if name.startswith("energy_kept"):
        return f"{value:.4f}"
    return show_number(value)
