"""Report of `dipsim eval`: methods judged on a text, as tables, CSV and picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType

from dipsim.analysis.evaluate import (
    LOSSES,
    Evaluation,
    best_rates,
    frontier,
    memory_of,
    row_dict,
    series_of,
)
from dipsim.report.files import MOST_SERIES, check_series, flat_rows, write_rows
from dipsim.report.pictures import (
    BESIDE,
    COLOURS,
    DASHES,
    MARKERS,
    Sheet,
    label,
    picture,
    scale_by_ratio,
    set_heading,
    short,
)
from dipsim.report.tables import Table, line, number
from dipsim.sweep.point import Cell
from dipsim.units import BYTES, show_number

UNITS = {
    "dense_perplexity": "perplexity",
    "loss": "nats/token",
    "window": "tokens",
    "frontier": "index of a row",
}
"""Units of figures that `dipsim.report.envelope` does not know."""


def render(evaluation: Evaluation) -> RenderableType:
    """Return the rows, why some have no figures, and with a device the best rates."""
    where = "" if evaluation.device is None else f", on {evaluation.device}"
    shared = _shared(evaluation.rows)
    title = (
        f"{evaluation.model}: {evaluation.tokens} tokens in windows of {evaluation.window}{where}"
    )
    title += f", {_short(shared)}" if shared else ""
    parts: list[RenderableType] = [line(title, style="bold"), _rows(evaluation)]
    parts += [
        line(f"{_name(row, shared)}: {row.why}", style="dim")
        for row in evaluation.rows
        if row.why is not None
    ]
    if any(row.value("open_loop") for row in evaluation.rows):
        parts += [line(), _loops(evaluation)]
    if any(_kept(row) for row in evaluation.rows):
        parts += [line(), _systems(evaluation)]
    if evaluation.device is not None:
        parts += [line(), _best(evaluation)]
    note = (
        "closed loop: masks act while the model runs. used: density; +: perplexity above dense; "
        "kept: energy of each stage's scores; flash: "
    )
    if evaluation.device is None:
        note += "missed bytes a token."
    else:
        note += "bytes moved a token. *: no other row in the same memory is both faster and better."
    if any(_kept(row) for row in evaluation.rows):
        note += (
            " mass, error: attention held, and the squared error of its output; held: positions "
            "read a token; prompt, ever: (token, layer) of the prompt computed at first, in the "
            "end; revived: a step and layer; skipped: layers a token."
        )
    parts.append(line(note, style="dim"))
    return Group(*parts)


def _rows(evaluation: Evaluation) -> Table:
    timed = evaluation.device is not None
    columns = ["method", "used", "ppl", "+", "kept", "hits", "flash", *["tok/s"] * timed]
    rows = Table(*columns, right=range(1, len(columns)))
    best = frontier(evaluation.rows) if timed else []
    shared = _shared(evaluation.rows)
    again = any(
        row.place["method"] == "dense" for row in evaluation.rows[1:]
    )  # with caches, so with more to say
    for i, row in enumerate(evaluation.rows):
        perplexity = row.value("perplexity")
        if perplexity is None or (i == 0 and again):
            continue
        cells = [
            _name(row, shared),
            number(row.value("density"), "{:.3f}"),
            f"{perplexity:.2f}",
            f"{round(perplexity - evaluation.dense, 2) + 0.0:+.2f}",  # no -0.00
            "/".join(f"{share:.3f}" for share in (row.value("energy_kept") or {}).values()) or "-",
            number(row.value("hit_rate"), "{:.1%}"),
            _bytes(row.value(f"flash_{'' if timed else 'useful_'}bytes_per_token")),
        ]
        if timed:
            cells.append(_rate(row.value("tokens_per_second")) + "*" * (i in best))
        rows.add_row(*cells)
    return rows


def _loops(evaluation: Evaluation) -> Table:
    """Return hits and bytes of the same methods and caches on a trace of the dense model."""
    timed = evaluation.device is not None
    columns = ["open loop", "hits", "closed", "missed", "closed", *["tok/s", "closed"] * timed]
    rows = Table(*columns, right=range(1, len(columns)))
    shared = _shared(evaluation.rows)
    for row in evaluation.rows:
        opened = row.value("open_loop")
        if opened is not None:
            cells = [
                _name(row, shared),
                number(opened["hit_rate"], "{:.1%}"),
                number(row.value("hit_rate"), "{:.1%}"),
                _bytes(opened["flash_useful_bytes_per_token"]),
                _bytes(row.value("flash_useful_bytes_per_token")),
            ]
            if timed:
                cells.append(_rate(opened["tokens_per_second"]))
                cells.append(_rate(row.value("tokens_per_second")))
            rows.add_row(*cells)
    return rows


_SYSTEMS = {
    "mass": ("kv", "mass_kept", "{:.3f}"),
    "error": ("kv", "output_error", "{:.3f}"),
    "held": ("kv", "positions", "{:.0f}"),
    "prompt": ("tokens", "prefill", "{:.1%}"),
    "ever": ("tokens", "computed", "{:.1%}"),
    "revived": ("tokens", "revived", "{:.2f}"),
    "skipped": ("layers", "skipped", "{:.1f}"),
}
"""Figures of systems beside the weights: column, entry of the row, key and format."""


def _kept(row: Cell) -> dict[str, str]:
    """Return what systems beside the weights kept of a row, by column; without those that did not
    act."""
    figures = {
        column: (row.value(entry) or {}).get(key) for column, (entry, key, _) in _SYSTEMS.items()
    }
    return {
        column: _SYSTEMS[column][2].format(value)
        for column, value in figures.items()
        if value is not None
    }


def _systems(evaluation: Evaluation) -> Table:
    """Return what eviction, pruned tokens and skipped layers left."""
    kept = [(_name(row, _shared(evaluation.rows)), _kept(row)) for row in evaluation.rows]
    columns = [column for column in _SYSTEMS if any(column in figures for _, figures in kept)]
    rows = Table("kept", *columns, right=range(1, 1 + len(columns)))
    for name, figures in kept:
        if figures:
            rows.add_row(name, *(figures.get(column, "-") for column in columns))
    return rows


def _best(evaluation: Evaluation) -> Table:
    columns = [f"+{show_number(loss, 6)}" for loss in LOSSES]
    rows = Table("best tok/s at", *columns, right=range(1, 1 + len(columns)))
    best = best_rates(evaluation.rows, evaluation.dense)
    for memory, methods in best.items():
        for method, rates in methods.items():
            rows.add_row(
                f"{method} {memory}" if len(best) > 1 else method,
                *(
                    _rate(None if row is None else row.value("tokens_per_second"))
                    for row in rates.values()
                ),
            )
    return rows


def _shared(rows: Sequence[Cell]) -> Mapping[str, Any]:
    """Return settings that all rows but the first have in common; the title gives them once.

    The density stays with the rows.
    """
    every = [row.options for row in rows[1:]]
    return {
        name: value
        for name, value in (every[0] if every else {}).items()
        if name != "density" and all(name in other and other[name] == value for other in every)
    }


def _name(row: Cell, shared: Mapping[str, Any]) -> str:
    own = {name: value for name, value in row.options.items() if name not in shared}
    return " ".join([row.place["method"], _short(own)]).strip()


def _short(settings: Mapping[str, Any]) -> str:
    """Return settings in short: ``0.7 gamma 0.5/0.2 cache 0.5``."""
    parts = []
    for name, value in settings.items():
        if isinstance(value, dict):
            value = "/".join(show_number(gamma, 6) for gamma in value.values())
        parts.append(f"{_PREFIXES.get(name, name + ' ')}{value}")
    return " ".join(parts)


_PREFIXES = {
    "density": "",
    "gamma": "gamma ",
    "cache_fraction": "cache ",
    "policy": "",
    "kv_policy": "",
    "kv_budget": "",
    "kv_when": "at ",
    "kv_fetch": "",
    "kv_quant": "",
    "prune_tokens": "",
    "skip_layers": "",
    "skip_kv": "",
}


def _rate(tokens_per_second: float | None) -> str:
    return "-" if tokens_per_second is None else show_number(tokens_per_second)


def _bytes(value: float | None) -> str:
    return "-" if value is None else BYTES.show(value)


def write_csv(evaluation: Evaluation, path: Path) -> None:
    """Write a row for each method and its settings.

    Raises:
        DipsimError: the file cannot be written.
    """
    write_rows(path, records(evaluation))


def records(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the rows of `write_csv`."""
    places = {"model": evaluation.model, "profile": evaluation.device}
    return flat_rows({**places, **_flat(row)} for row in evaluation.rows)


def _flat(row: Cell) -> dict[str, Any]:
    columns = row_dict(row)
    gamma = columns["settings"].get("gamma")
    if isinstance(gamma, dict):
        text = ",".join(f"{name}={show_number(value, 6)}" for name, value in gamma.items())
        columns["settings"] = {**columns["settings"], "gamma": text}
    return columns


def plot(evaluation: Evaluation, sheet: Sheet) -> Any:
    """Draw perplexity against tokens per second, or without a device against density.

    Methods are told apart, and the systems beside them as long as all are few enough.

    Returns:
        The matplotlib figure.

    Raises:
        DipsimError: nothing to draw, too many methods, or the file cannot be written.
    """
    rows = [row for row in evaluation.rows[1:] if row.value("perplexity") is not None]
    names = [series_of(row) for row in rows]
    if len(set(names)) > MOST_SERIES:
        names = [row.place["method"] for row in rows]
    series = list(dict.fromkeys(names))
    check_series("methods", series)
    timed = evaluation.device is not None
    with picture(sheet, 8, 4.5) as figure:
        axes = figure.subplots()
        for i, name in enumerate(series):
            own = [row for row, its in zip(rows, names, strict=True) if its == name]
            axes.plot(
                [row.value("tokens_per_second" if timed else "density") for row in own],
                [row.value("perplexity") for row in own],
                linestyle="",
                marker=MARKERS[i],
                color=COLOURS[i],
                label=name,
            )
        if timed:
            best = [evaluation.rows[i] for i in frontier(evaluation.rows)]
            for i, memory in enumerate(dict.fromkeys(map(memory_of, best))):
                own = [row for row in best if memory_of(row) == memory]
                axes.step(
                    [row.value("tokens_per_second") for row in own],
                    [row.value("perplexity") for row in own],
                    where="post",
                    color="0.5",
                    linewidth=1,
                    linestyle=DASHES[i % len(DASHES)],
                    zorder=0,
                    label=label(f"frontier {memory}".strip()),
                )
        axes.axhline(evaluation.dense, color="0.5", linestyle=":", label="dense model")
        perplexities = [evaluation.dense, *(row.value("perplexity") for row in rows)]
        scale_by_ratio(axes.yaxis, min(perplexities), max(perplexities))
        across = "tokens per second" if timed else "density used"
        axes.set(xlabel=across, ylabel="perplexity")
        axes.grid(alpha=0.3, which="both")
        figure.legend(*axes.get_legend_handles_labels(), **BESIDE)
        where = f" on {short(evaluation.device)}" if evaluation.device else ""
        what = f"{short(evaluation.model)}{where}, closed loop"
        set_heading(figure, f"Perplexity against {across}: {what}")
    return figure
