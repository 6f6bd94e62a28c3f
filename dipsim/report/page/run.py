"""Page of a single run: sections made of the JSON of `dipsim run`."""

from pathlib import Path

from dipsim.analysis.verdict import LEAST_SHARE
from dipsim.errors import brief
from dipsim.report.page.budget import STREAMED, lines_of, parts_of, size_of
from dipsim.report.page.caveats import caveats
from dipsim.report.page.configuration import codes, options_of
from dipsim.report.page.model import (
    Bars,
    Cell,
    Chart,
    Heat,
    Lines,
    Page,
    Panel,
    Section,
    Series,
    Table,
    Tile,
)
from dipsim.report.page.saved import Baseline, Interval, LayerRow, SavedResult
from dipsim.report.page.texts import (
    RESOURCE_NAMES,
    RESOURCES,
    byte_scale,
    interval_text,
    number_of,
    rate_text,
    sentence,
    share_text,
)
from dipsim.units import BYTES, show_number


def page_of_run(result: SavedResult, *, repeated: bool = True) -> Page:
    """Return the page of a run; a section whose figures its JSON lacks is left out.

    Args:
        result: the run.
        repeated: with what repeats it.
    """
    sections = [
        _held_against(result),
        _time(result),
        _layers(result),
        _budget(result),
        _groups(result),
        _every_figure(result),
        caveats(result.marks, _caveats(result)),
        _configuration(result) if repeated else Section(""),
    ]
    return Page(
        title_of(result),
        _answer(result),
        _tiles(result),
        [section for section in sections if not section.empty],
        f"dipsim {result.version}",
        result.marks,
    )


def title_of(result: SavedResult) -> str:
    """Return what was run: trace, method, policy and device."""
    config = result.config
    trace = Path(brief(config.trace.get("name"), 200)).name
    method, policy = (brief(config.settings.get(name, "-"), 60) for name in ("method", "policy"))
    return f"{brief(trace, 60)}: {method} with {policy} on {brief(config.profile.get('name'), 40)}"


def _answer(result: SavedResult) -> str:
    moved = BYTES.show(result.flash_bytes_per_token)
    hits = f"{result.hit_rate:.1%} of the active bytes are in DRAM, {moved} a token come from flash"
    answer = f"{rate_text(result.tokens_per_second)} tokens/s: {hits}."
    dense = result.baselines.dense
    if dense is not None and dense.times is not None and dense.times < 1 / (1 + LEAST_SHARE):
        answer += f" The dense model is faster in the same DRAM: {rate_text(dense.rate)} tokens/s."
    blamed = None if result.verdict is None else result.verdict.policys_time
    if blamed is not None and LEAST_SHARE <= blamed <= 1:
        answer += f" {blamed:.0%} of the time is the policy's."
    return answer


def _tiles(result: SavedResult) -> list[Tile]:
    interval, latency = result.tokens_per_second_interval, result.latency_ms
    reads = show_number(result.flash_reads_per_token, 3)
    percentiles = [f"{name} {show_number(getattr(latency, name), 3)}" for name in ("p95", "p99")]
    return [
        Tile(
            "tokens/s",
            rate_text(result.tokens_per_second),
            "" if interval is None else _between(interval),
        ),
        Tile(
            "hit rate", f"{result.hit_rate:.1%}", f"of bytes; {result.unit_hit_rate:.1%} of units"
        ),
        Tile("flash a token", BYTES.show(result.flash_bytes_per_token), f"in {reads} reads"),
        Tile("latency", f"{show_number(latency.mean, 3)} ms", f"mean; {', '.join(percentiles)}"),
    ]


# Sections -----------------------------------------------------------------------------------------


def _held_against(result: SavedResult) -> Section:
    """Return the rates of what the same memory could do otherwise, beside the run's own."""
    own, interval = result.tokens_per_second, result.tokens_per_second_interval
    known: dict[str, Baseline | None] = {
        "dense": result.baselines.dense,
        "no cache": result.baselines.no_cache,
        "optimum": result.baselines.optimum,
    }
    rates = {"this run": own}
    rates |= {name: baseline.rate for name, baseline in known.items() if baseline is not None}
    rates |= {
        f"with {trial.option}": trial.rate
        for trial in result.tried
        if known["dense"] is None or trial.option != "--method dense"
    }
    drawn = {name: rate for name, rate in rates.items() if rate is not None}
    if len(drawn) < 2:
        return Section("What the same memory could do")
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    notes = ["" if interval is None else _between(interval), *[""] * (len(drawn) - 1)]
    none = [None] * (len(drawn) - 1)
    series = Series("rate", list(drawn), list(drawn.values()), [low, *none], [high, *none], notes)
    chart = Lines("Rate in the same memory", "", "tokens/s", [series], joined=False)
    rows = [
        [Cell(name), Cell(show_number(rate), rate), Cell(*_times(own, rate))]
        for name, rate in drawn.items()
    ]
    table = Table("", ["run", "tokens/s", "this run is"], rows, frozenset({1, 2}))
    return Section(
        "What the same memory could do",
        ["Rates on the same tokens and device, in as much DRAM."],
        [Panel({"": chart}, "The bar is the interval of this run's rate." if interval else "")],
        [table],
    )


def _between(interval: Interval) -> str:
    return interval_text(interval.low, interval.high, interval.level)


def _times(own: float | None, other: float) -> tuple[str, float | None]:
    """Return a rate as a multiple of another one, as text and number."""
    if own is None or not other:
        return "-", None
    return f"{show_number(own / other, 3)} x", own / other


def _time(result: SavedResult) -> Section:
    """Return how the time of a token divides, and which part binds each layer."""
    total, shares = result.latency_ms.mean, result.time_share
    names = [name for name in RESOURCES if shares.get(name, 0) > 0]
    parts = {RESOURCE_NAMES.get(name, name): [total * shares[name]] for name in names}
    if not parts:
        return Section("Where the time goes")
    chart = Bars("Exposed time of a token", "milliseconds a token", ["token"], parts)
    rows = [
        [
            Cell(RESOURCE_NAMES.get(name, name)),
            Cell(f"{show_number(total * shares[name], 3)} ms", total * shares[name]),
            Cell(f"{shares[name]:.1%}", shares[name]),
        ]
        for name in sorted(names, key=lambda name: -shares[name])
    ]
    table = Table("", ["resource", "a token", "share"], rows, frozenset({1, 2}))
    panels = [Panel({"": chart})]
    by_part = _parts(result)
    if by_part is not None:
        panels.append(Panel({"": by_part}, "Exposed time, in closed form."))
    text = "Exposed time: how much each resource adds to the time of a token."
    return Section("Where the time goes", [text], panels, [table])


def _parts(result: SavedResult) -> Chart | None:
    """Return the exposed time of each part of a token by resource, where it was attributed."""
    listed = [] if result.attribution is None else result.attribution.parts
    rows = [str(part.get("part")) for part in listed]
    parts = {
        RESOURCE_NAMES.get(name, name): [
            number_of(part.get(f"{name}_ms")) or 0.0 for part in listed
        ]
        for name in RESOURCES
    }
    parts = {name: values for name, values in parts.items() if any(values)}
    if not parts:
        return None
    return Bars("Exposed time by layer", "milliseconds a token", rows, parts)


def _layers(result: SavedResult) -> Section:
    """Return maps of layers and groups."""
    if not result.per_layer:
        return Section("Layer by layer")
    charts: dict[str, Chart] = {
        "hit rate": _map(result.per_layer, "hit rate", "% of the units", "hit_rate", 100),
        "flash time": _map(result.per_layer, "Flash time", "ms a token", "flash_ms_per_token", 1),
        "flash bytes": _map(
            result.per_layer, "Flash bytes", "kB a token", "flash_bytes_per_token", 1e-3
        ),
    }
    rows = [
        [
            Cell(str(row.layer), row.layer),
            Cell(row.group),
            Cell(f"{row.hit_rate:.1%}", row.hit_rate),
            Cell(f"{show_number(row.flash_ms_per_token, 3)} ms", row.flash_ms_per_token),
            Cell(BYTES.show(row.flash_bytes_per_token), row.flash_bytes_per_token),
        ]
        for row in result.per_layer
    ]
    heads = ["layer", "group", "hits", "flash time", "flash"]
    table = Table("", heads, rows, frozenset({0, 2, 3, 4}), filters=(1,))
    text = "Hits are of units; flash is that of a token, its time busy, not exposed."
    return Section("Layer by layer", [text], [Panel(charts)], [table])


def _map(rows: list[LayerRow], title: str, meaning: str, figure: str, scale: float) -> Heat:
    layers = sorted({row.layer for row in rows})
    groups = list(dict.fromkeys(row.group for row in rows))
    known = {(row.group, row.layer): scale * getattr(row, figure) for row in rows}
    values = [[known.get((group, layer)) for layer in layers] for group in groups]
    title = title[0].upper() + title[1:]
    return Heat(
        f"{title} by layer", "layer", "group", list(map(str, layers)), groups, values, meaning
    )


def _budget(result: SavedResult) -> Section:
    """Return what DRAM holds, as a bar and as lines."""
    heading = "What DRAM holds"
    parts, lines = parts_of(result.budget), lines_of(result.budget)
    if not parts:
        return Section(heading)
    unit, scale = byte_scale(parts.values())
    bars = {label: [size / scale] for label, size in parts.items()}
    chart = Bars("Division of the DRAM", unit, ["DRAM"], bars)
    whole, streamed = sum(parts.values()), size_of(result.budget, STREAMED)
    rows = [
        [Cell(label), Cell(BYTES.show(size), size), Cell(f"{size / whole:.1%}", size / whole)]
        for label, size in lines.items()
    ]
    share = share_text(number_of(result.budget.get("cache_fraction")))
    texts = [f"{BYTES.show(whole)} in all; the caches hold {share} of the units."]
    if streamed:
        texts.append(
            f"{BYTES.show(streamed)} of static weights do not fit: they are read from flash for "
            "every token."
        )
    table = Table("", ["part", "bytes", "share"], rows, frozenset({1, 2}))
    return Section(heading, texts, [Panel({"": chart})], [table])


def _groups(result: SavedResult) -> Section:
    """Return a line for each group."""
    rows = []
    for group in result.groups:
        hits = group.hits / group.accesses if group.accesses else 0.0
        rows.append(
            [
                Cell(group.name),
                Cell(show_number(group.units), group.units),
                Cell(show_number(group.active), group.active),
                Cell(f"{hits:.1%}", hits),
                Cell(share_text(group.energy_kept, 2), group.energy_kept),
                Cell(share_text(group.mass_kept, 2), group.mass_kept),
            ]
        )
    heads = ["group", "units a layer", "active", "hits", "energy kept", "mass kept"]
    table = Table("", heads, rows, frozenset(range(1, 6)))
    text = (
        "Energy and mass are what the mask keeps of the scores. They are no measure of accuracy "
        "across methods."
    )
    return (
        Section("Groups of units", [text], tables=[table]) if rows else Section("Groups of units")
    )


def _every_figure(result: SavedResult) -> Section:
    """Return the main figures of the JSON, by their keys."""
    slow, fast = result.tokens_per_second_range
    figures = {
        "tokens_per_second": rate_text(result.tokens_per_second),
        "tokens_per_second_range": f"{rate_text(slow)} to {rate_text(fast)}, overlap none to full",
        "tokens": f"{result.tokens} measured",
        "hit_rate": f"{result.hit_rate:.2%} of the active bytes",
        "unit_hit_rate": f"{result.unit_hit_rate:.2%} of the active units",
        "flash_bytes_per_token": BYTES.show(result.flash_bytes_per_token),
        "flash_useful_bytes_per_token": BYTES.show(result.flash_useful_bytes_per_token),
        "flash_reads_per_token": show_number(result.flash_reads_per_token),
        "dram_bytes_per_token": BYTES.show(result.dram_bytes_per_token),
        **{
            f"latency_ms.{name}": f"{show_number(value)} ms"
            for name, value in result.latency_ms.model_dump().items()
        },
    }
    rows = [[Cell(key), Cell(text)] for key, text in figures.items()]
    return Section("Every figure", tables=[Table("", ["key of the JSON", "figure"], rows)])


def _caveats(result: SavedResult) -> list[str]:
    sentences, interval = [], result.tokens_per_second_interval
    if interval is None:
        sentences.append("The rate has no interval: the device is what its numbers say.")
    else:
        sentences += [] if interval.unmeasured is None else [sentence(interval.unmeasured)]
        keys = [str(number.get("key")) for number in interval.first_to_measure]
        if keys:
            sentences.append(
                f"What would narrow the interval most, if measured: {', '.join(keys)}."
            )
    if result.estimates:
        sentences.append(f"Estimates that the times rest on: {', '.join(result.estimates)}.")
    return sentences


def _configuration(result: SavedResult) -> Section:
    options, remarks = options_of(result.config)
    first = "Exactly this run: dipsim run --config with the file of this result."
    return Section("Repeat it", [first, *remarks], codes=codes(options))
