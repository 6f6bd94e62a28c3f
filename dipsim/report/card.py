"""Card of a result in a notebook: the answer, then bars of time, hits and DRAM.

All style stands in the elements themselves, since notebooks drop style sheets of cells they do not
trust. Text takes the notebook's own colour, and the colours of the bars stand out on white and on
black; there are no scripts and nothing is loaded.
"""

from collections.abc import Callable, Mapping
from html import escape

from dipsim.errors import printable
from dipsim.report.pictures import COLOURS
from dipsim.report.summary import between
from dipsim.result import Result
from dipsim.units import BYTES

_MISSED = "#8888"
"""Colour of bytes that are not there: grey on any ground."""
_TINY = 0.005
"""Share below which a part of a bar is not named."""
_OF_RESOURCE = dict(zip(("flash", "dram", "compute", "sync", "management"), COLOURS, strict=False))
_LABELS = {"sync": "fixed costs", "dram": "DRAM"}


def html(result: Result) -> str:
    """Return the card: rate and its range, bars, marks, and all figures to be unfolded."""
    share, budget = result.hit_rate, _budget(result)
    whole = sum(budget.values())
    bars = {
        "time": _bar(result.time_share, _OF_RESOURCE, lambda part: f"{part:.1%}"),
        "active bytes": _bar(
            {"hit": share, "missed": 1 - share},
            {"hit": COLOURS[2], "missed": _MISSED},
            lambda part: f"{part:.1%}",
        ),
        f"DRAM of {BYTES.show(whole)}": _bar(
            {name: size / whole for name, size in budget.items()} if whole else {},
            {"weights": COLOURS[1], "KV": COLOURS[3], "buffers": COLOURS[7], "cache": COLOURS[2]},
            lambda part: BYTES.show(part * whole),
        ),
    }
    rows = "".join(
        '<div style="padding:.2em 1em .2em 0;opacity:.75;white-space:nowrap">'
        f"{_text(label)}</div><div>{bar}</div>"
        for label, bar in bars.items()
    )
    _, _, sentence = result.verdict.partition(": ")
    return (
        '<div style="max-width:46em;line-height:1.45">'
        f'<div style="opacity:.75">{_text(result.title)}</div>'
        f"<div>{_rate(result)}</div><div>{_text(sentence)}</div>"
        '<div style="display:grid;grid-template-columns:max-content 1fr;margin:.6em 0">'
        f"{rows}</div>{_marks(result)}{_details(result)}</div>"
    )


def _rate(result: Result) -> str:
    """Return the rate, large, and how far it may be off."""
    interval, about = result.interval, []
    if interval is not None:
        about = [between(interval)]
        about += [f"measure {number.key} first" for number in interval.first_to_measure[:1]]
    return (
        f'<span style="font-size:160%;font-weight:600">{result.tokens_per_second:.4g} tokens/s'
        f'</span><div style="opacity:.75">{_text("; ".join(about))}</div>'
    )


def _budget(result: Result) -> dict[str, float]:
    """Return the bytes of DRAM by what they hold."""
    budget = result.budget
    return {
        "weights": max(0.0, budget.static.total - budget.streamed),
        "KV": budget.kv,
        "buffers": budget.staging + budget.overhead + budget.buffer + budget.kv_in_all - budget.kv,
        "cache": budget.cache,
    }


def _bar(
    shares: Mapping[str, float], colours: Mapping[str, str], show: Callable[[float], str]
) -> str:
    """Return a bar of parts that sum to 1, and below it what they are."""
    parts = {name: share for name, share in shares.items() if share > 0}
    segments = "".join(
        f'<div style="width:{100 * share:.3f}%;background:{colours[name]}"></div>'
        for name, share in parts.items()
    )
    named = "".join(
        '<span style="white-space:nowrap;margin-right:1em">'
        f'<span style="display:inline-block;width:.7em;height:.7em;background:{colours[name]}">'
        f"</span> {_text(_LABELS.get(name, name))} {_text(show(share))}</span>"
        for name, share in parts.items()
        if share >= _TINY
    )
    return (
        f'<div style="display:flex;height:.9em;margin-top:.4em">{segments}</div>'
        f'<div style="font-size:90%">{named}</div>'
    )


def _marks(result: Result) -> str:
    chips = "".join(
        '<span style="border:1px solid;border-radius:.8em;padding:0 .6em;margin-right:.4em;'
        f'opacity:.75;white-space:nowrap;display:inline-block">{_text(mark)}</span>'
        for mark in result.marks
    )
    return f'<div style="font-size:90%">{chips}</div>' if chips else ""


def _details(result: Result) -> str:
    """Return all figures as a table that is folded at first."""
    rows = "".join(
        f'<tr><td style="text-align:left">{_text(label)}</td>'
        f'<td style="text-align:left">{_text(text)}</td></tr>'
        for label, text in result.summary()
    )
    return (
        '<details style="margin-top:.4em"><summary>all figures</summary>'
        f"<table>{rows}</table></details>"
    )


def _text(text: str) -> str:
    return escape(printable(text))
