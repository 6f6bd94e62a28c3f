"""Summary of a result: its main figures as (label, text)."""

from dipsim.result import Result
from dipsim.timeline.interval import RateInterval
from dipsim.units import BYTES, show_number

_LATENCIES = ("mean", "p50", "p95", "p99")
Rows = list[tuple[str, str]]


def rows(result: Result) -> Rows:
    """Return the main figures of a run as (label, text), its rate first."""
    return [*_rates(result), *_counts(result), *_times(result)]


def between(interval: RateInterval) -> str:
    """Return an interval as text: ``90% between 30.1 and 55.2``."""
    low, high = (show_number(rate, 3) for rate in (interval.low, interval.high))
    return f"{interval.level:.0%} between {low} and {high}"


def worth_rows(interval: RateInterval | None) -> Rows:
    """Return the interval of a rate as (label, text), and what would narrow it."""
    if interval is None:
        return [("interval", "none: the device is what its numbers say")]
    lines = [("interval", f"{between(interval)} tok/s")]
    for i, number in enumerate(interval.first_to_measure):
        low, high = (show_number(rate, 3) for rate in (number.low, number.high))
        text = f"{number.key}, alone {low} to {high} tok/s"
        lines.append(("" if i else "first to measure", text))
    if interval.unmeasured is not None:
        lines.append(("unmeasured", interval.unmeasured))
    return lines


def _rates(result: Result) -> Rows:
    """Return rates and latencies."""
    timing, latency = result.timing, result.latency_ms
    slow, fast = timing.rate_range
    lines = [("rate", f"{show_number(result.tokens_per_second)} tok/s")]
    lines += worth_rows(result.interval)
    if slow != fast:
        band = f"{show_number(slow)} to {show_number(fast)} tok/s"
        lines.append(("rate, overlap none to full", band))
    if timing.thermal is not None:
        cold, hot = timing.thermal
        lines.append(("rate, cold / hot device", f"{show_number(cold)} / {show_number(hot)} tok/s"))
    each = " / ".join(show_number(latency[key]) for key in _LATENCIES)
    of = "" if result.step is None else " a step"
    return [*lines, ("latency mean / p50 / p95 / p99", f"{each} ms{of}")]


def _counts(result: Result) -> Rows:
    """Return hits, bytes and what the mask loses."""
    lines = [
        ("hit rate (bytes / units)", f"{result.hit_rate:.2%} / {result.unit_hit_rate:.2%}"),
        (
            "flash per token",
            f"{BYTES.show(result.flash_bytes_per_token)} in "
            f"{show_number(result.flash_reads_per_token)} reads, "
            f"{BYTES.show(result.flash_useful_bytes_per_token)} useful",
        ),
        ("DRAM per token", BYTES.show(result.dram_bytes_per_token)),
    ]
    if result.prefetch is not None:
        issued, used = result.prefetch["issued"], result.prefetch["used"]
        right = f"{used / issued:.1%} of them" if issued else "none"
        ahead = show_number(issued / result.tokens)
        said = f"{ahead} units a token, {right} used"
        if "evicted" in result.prefetch:
            evicted = show_number(result.prefetch["evicted"] / result.tokens)
            said += f", {evicted} units evicted for them"
        lines.append(("read ahead", said))
    errors = zip(result.traffic.groups, result.output_error, strict=True)
    lines += [
        (f"error of the output, {name}", show_number(error, 3))
        for name, error in errors
        if error is not None
    ]
    if result.routing_weight_lost is not None:
        lines.append(("routing weight lost", f"{result.routing_weight_lost:.2%}"))
    lines += beside_rows(result)
    if result.page_cache is not None:
        lines.append(("page cache of the system", BYTES.show(result.page_cache)))
    return lines


def beside_rows(result: Result) -> Rows:
    """Return what becomes of keys and values, of tokens and of layers, and what a decode step
    takes, a line each that a run has something special of."""
    kv = result.kv
    others = [*_left_out(result), *_step(result)]
    if kv is None:
        return others
    held = show_number(kv["positions"], 4)
    parts = [f"{kv['fetch'] or kv['policy']}, {held} positions a layer in {kv['format']}"]
    parts.append(f"{BYTES.show(kv['read_bytes_per_token'])} read a token")
    if kv["mass_kept"] is not None:
        parts.append(f"{kv['mass_kept']:.1%} of the attention kept")
    eviction = None if result.run.kv is None else result.run.kv.eviction
    if eviction is not None and eviction.rule.beyond_vectors is not None:
        parts.append(
            f"what it loses needs the model (dipsim eval): no trace holds "
            f"{eviction.rule.beyond_vectors}"
        )
    if kv["block_hit_rate"] is not None:
        parts.append(f"{kv['block_hit_rate']:.1%} of the blocks in DRAM")
    if kv["flash_bytes_per_token"]:
        parts.append(f"{BYTES.show(kv['flash_bytes_per_token'])} of it from flash")
        wears = BYTES.show(kv["flash_write_bytes_per_million_tokens"])
        parts.append(f"{wears} written to flash in a million tokens")
    if kv["recomputed"]:
        parts.append(f"{show_number(kv['recomputed'], 3)} positions computed again")
    return [("KV", ", ".join(parts)), *others]


def _left_out(result: Result) -> Rows:
    """Return what becomes of tokens and layers that are left out, a line each."""
    rows, tokens, layers = [], result.pruned_tokens, result.skipped_layers
    if tokens is not None:
        text = f"{tokens['rule']}: {tokens['computed']:.1%} of the prompts' (token, layer) computed"
        back = show_number(tokens["revived"], 3)
        rows.append(("tokens", f"{text}, {back} come back a token and layer"))
    if layers is not None:
        text = f"{layers['rule']}: {show_number(layers['skipped'], 3)} skipped a token"
        if layers["partial"]:
            text += f", {show_number(layers['partial'], 3)} run in part"
        rows.append(("layers", f"{text}, their KV: {layers['kv']}"))
    return rows


def _step(result: Result) -> Rows:
    """Return what a decode step of several tokens takes and gives, in a line."""
    step = result.step
    if step is None:
        return []
    needed = f"{step['union_share']:.1%} of the unit bytes (one: {step['token_share']:.1%})"
    if step["batch"] is not None:
        return [("step", f"a token of {step['batch']} sequences each, {needed}")]
    chance, drawn = (
        show_number(step[name], 3) for name in ("tokens_per_step", "tokens_per_step_drawn")
    )
    drafting = (
        f"drafting {show_number(step['draft_ms'], 3)} ms"
        if step["draft_ms"]
        else "drafting is not counted"
    )
    given = f"{drawn} tokens given ({chance} by chance)"
    return [("step", f"{step['draft']} drafts, {given}, {needed}, {drafting}")]


def _times(result: Result) -> Rows:
    """Return the prompt, the start, energy, and what was measured."""
    lines, prefill, ttft = [], result.timing.prefill, result.timing.ttft
    if prefill is not None:
        first = "" if ttft is None else f", first token after {show_number(ttft, 3)} s"
        took = show_number(prefill.seconds, 3)
        lines.append(("prefill", f"{prefill.tokens} tokens in {took} s{first}"))
    if result.cold_start is not None:
        start = show_number(1e3 * result.cold_start)
        lines.append(("cold start", f"{start} ms before the first prompt"))
    if result.timing.energy is not None:
        low, high = (1e3 * joules for joules in result.timing.energy)
        lines.append(("energy per token", f"{show_number(low, 3)} to {show_number(high, 3)} mJ"))
    steps = "" if result.step is None else f" in {result.step['steps']} steps"
    measured = f"{result.tokens} tokens{steps}, {result.method}, {result.policy}"
    return [*lines, ("measured", measured)]
