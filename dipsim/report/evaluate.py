"""What `dipsim eval` prints: methods judged on a text, and where it pays to be."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dipsim.analysis.evaluate import LOSSES, Evaluation, Row, best_rates, frontier, memory_of
from dipsim.errors import printable
from dipsim.report.files import check_series, write_flat
from dipsim.report.plots import COLOURS, DASHES, MARKERS, picture
from dipsim.report.run import table
from dipsim.units import BYTES


def render(found: Evaluation) -> RenderableType:
    """The rows, the reasons of those without figures, and with a device the best rates."""
    where = "" if found.device is None else f", on {found.device}"
    shared = _shared(found.rows)
    title = f"{found.model}: {found.tokens} tokens in windows of {found.window}{where}"
    title += f", {_asked(shared)}" if shared else ""
    parts: list[RenderableType] = [Text(printable(title), style="bold"), _rows(found)]
    parts += [
        Text(f"{_name(row, shared)}: {printable(row.reason)}", style="dim")
        for row in found.rows
        if row.reason is not None
    ]
    if any(row.open_loop for row in found.rows):
        parts += [Text(), _loops(found)]
    if found.device is not None:
        parts += [Text(), _best(found)]
    note = (
        "closed loop: masks act while the model runs. used: density; +: perplexity above dense; "
        "kept: energy of each stage's scores; flash: "
    )
    if found.device is None:
        note += "missed bytes a token."
    else:
        note += "bytes moved a token. *: no other row in the same memory is both faster and better."
    parts.append(Text(note, style="dim"))
    return Group(*parts)


def _rows(found: Evaluation) -> Table:
    timed = found.device is not None
    columns = ["method", "used", "ppl", "+", "kept", "hits", "flash", *["tok/s"] * timed]
    made = _named(*columns)
    best = frontier(found.rows) if timed else []
    shared = _shared(found.rows)
    again = any(row.method == "dense" for row in found.rows[1:])  # with caches, so with more to say
    for i, row in enumerate(found.rows):
        if row.perplexity is None or (i == 0 and again):
            continue
        cells = [
            _name(row, shared),
            _show(row.density, "{:.3f}"),
            f"{row.perplexity:.2f}",
            f"{round(row.perplexity - found.dense, 2) + 0.0:+.2f}",  # no -0.00
            "/".join(f"{share:.3f}" for share in row.energy_kept.values()) or "-",
            _show(row.hit_rate, "{:.1%}"),
            _bytes(row.flash_bytes_per_token if timed else row.flash_useful_bytes_per_token),
        ]
        if timed:
            cells.append(_show(row.tokens_per_second, "{:.4g}") + "*" * (i in best))
        made.add_row(*cells)
    return made


def _loops(found: Evaluation) -> Table:
    """What a trace of the dense model says of the same methods and caches."""
    timed = found.device is not None
    columns = ["open loop", "hits", "closed", "missed", "closed", *["tok/s", "closed"] * timed]
    made = _named(*columns)
    shared = _shared(found.rows)
    for row in found.rows:
        if row.open_loop is not None:
            opened = row.open_loop
            cells = [
                _name(row, shared),
                _show(opened["hit_rate"], "{:.1%}"),
                _show(row.hit_rate, "{:.1%}"),
                _bytes(opened["flash_useful_bytes_per_token"]),
                _bytes(row.flash_useful_bytes_per_token),
            ]
            if timed:
                cells.append(_show(opened["tokens_per_second"], "{:.4g}"))
                cells.append(_show(row.tokens_per_second, "{:.4g}"))
            made.add_row(*cells)
    return made


def _named(*columns: str) -> Table:
    """A table whose first column may take more than a line, and no other."""
    made = table(*columns, right=tuple(range(1, len(columns))))
    for column in made.columns[1:]:
        column.no_wrap = True
    return made


def _best(found: Evaluation) -> Table:
    made = _named("best tok/s at", *(f"+{loss:g}" for loss in LOSSES))
    best = best_rates(found.rows, found.dense)
    for memory, methods in best.items():
        for method, rates in methods.items():
            made.add_row(
                f"{method} {memory}" if len(best) > 1 else method,
                *(
                    _show(None if at is None else at.tokens_per_second, "{:.4g}")
                    for at in rates.values()
                ),
            )
    return made


def _shared(rows: Sequence[Row]) -> Mapping[str, Any]:
    """Settings that all rows behind the first have in common: said once. The density stays."""
    every = [row.settings for row in rows[1:]]
    return {
        name: value
        for name, value in (every[0] if every else {}).items()
        if name != "density" and all(name in other and other[name] == value for other in every)
    }


def _name(row: Row, shared: Mapping[str, Any]) -> str:
    own = {name: value for name, value in row.settings.items() if name not in shared}
    return " ".join([row.method, _asked(own)]).strip()


def _asked(settings: Mapping[str, Any]) -> str:
    """Settings in short: ``0.7 gamma 0.5/0.2 cache 0.5``."""
    parts = []
    for name, value in settings.items():
        if isinstance(value, dict):
            value = "/".join(f"{at:g}" for at in value.values())
        parts.append(f"{_SHORT.get(name, name + ' ')}{value}")
    return printable(" ".join(parts))


_SHORT = {"density": "", "gamma": "gamma ", "cache_fraction": "cache ", "policy": ""}


def _show(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _bytes(value: float | None) -> str:
    return "-" if value is None else BYTES.show(value)


def write_csv(found: Evaluation, path: Path) -> None:
    """A row per cell.

    Raises:
        DipsimError: the file cannot be written.
    """
    write_flat(path, (_flat(row) for row in found.rows))


def _flat(row: Row) -> dict[str, Any]:
    made = row.to_dict()
    gamma = made["settings"].get("gamma")
    if isinstance(gamma, dict):
        text = ",".join(f"{name}={value:g}" for name, value in gamma.items())
        made["settings"] = {**made["settings"], "gamma": text}
    return made


def plot(found: Evaluation, path: Path) -> None:
    """Perplexity against tokens per second, or without a device against density.

    Raises:
        DipsimError: nothing to draw, too many methods, or the file cannot be written.
    """
    rows = [row for row in found.rows[1:] if row.perplexity is not None]
    methods = list(dict.fromkeys(row.method for row in rows))
    check_series("methods", methods)
    timed = found.device is not None
    with picture(path, 7, 4.5) as figure:
        axes = figure.subplots()
        for i, method in enumerate(methods):
            own = [row for row in rows if row.method == method]
            axes.plot(
                [row.tokens_per_second if timed else row.density for row in own],
                [row.perplexity for row in own],
                linestyle="",
                marker=MARKERS[i],
                color=COLOURS[i],
                label=method,
            )
        if timed:
            best = [found.rows[i] for i in frontier(found.rows)]
            for i, memory in enumerate(dict.fromkeys(map(memory_of, best))):
                own = [row for row in best if memory_of(row) == memory]
                axes.step(
                    [row.tokens_per_second for row in own],
                    [row.perplexity for row in own],
                    where="post",
                    color="0.5",
                    linewidth=1,
                    linestyle=DASHES[i % len(DASHES)],
                    zorder=0,
                    label=printable(f"frontier {memory}".strip()),
                )
        axes.axhline(found.dense, color="0.5", linestyle=":", label="dense model")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.set(
            xlabel=f"tokens per second on {found.device}" if timed else "density used",
            ylabel="perplexity",
        )
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
        figure.suptitle(printable(f"{found.model}, closed loop"))
