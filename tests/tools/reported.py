"""Results and stores for tests of reports: made by hand, quickly, with figures that follow laws."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dipsim.report.page.entry import Entry
from dipsim.report.page.model import Page, Section
from dipsim.report.page.sweep import page_of_sweep
from dipsim.store import Outcome, Store, key_of

HOSTILE = "</script><img src=x onerror=alert(1)>|`$x$`%{y}\"'\u202e\x1b[31m"
"""A name that tries to be a tag, a table, a formula, a template and a terminal."""
POLICIES = ("lru", "lfu", "arc", "sieve", "opt")
PROFILES = ("phone-a", "phone-b", "phone-c", "phone-d", "phone-e")
METHODS = ("dip", "dip-ca")
DRAM = tuple(f"{share}%" for share in range(2, 42, 2))


def figures(rate: float, hits: float = 0.5, **more: Any) -> dict[str, Any]:
    """Figures of a cell as a store holds them."""
    return {
        "tokens_per_second": rate,
        "tokens_per_second_range": [0.9 * rate, 1.2 * rate],
        "hit_rate": hits,
        "flash_bytes_per_token": 1e6 / rate,
        "flash_reads_per_token": 100.0 / rate,
        **more,
    }


def cell(
    place: Mapping[str, Any], known: Mapping[str, Any] | None, marks: Iterable[str] = ("estimate",)
) -> tuple[Mapping[str, Any], Outcome]:
    """A place and what came of it; impossible where there are no figures."""
    options = {"trace": "smollm2-chat", "profile": "snapdragon8", **place}
    outcome = Outcome(
        key=key_of(options),
        options=options,
        figures=known,
        marks=tuple(marks),
        why=None if known is not None else "no such density",
        seconds=0.1,
        semantics=1,
    )
    return place, outcome


def fill_store(
    path: Path, cells: Iterable[tuple[Mapping[str, Any], Outcome]], name: str = "mine"
) -> Path:
    """Write a store with one sweep more, whose cells are finished."""
    listed = list(cells)
    axes = tuple(dict.fromkeys(axis for place, _ in listed for axis in place))
    with Store.open(path, create=True) as store:
        store.ask(name, [(outcome.key, place) for place, outcome in listed], axes=axes)
        store.put(outcome for _, outcome in listed)
    return path


def thousand() -> list[tuple[Mapping[str, Any], Outcome]]:
    """A thousand cells: 5 devices, 2 methods, 5 policies, 20 sizes of DRAM."""
    cells = []
    for i, profile in enumerate(PROFILES):
        for j, method in enumerate(METHODS):
            for k, policy in enumerate(POLICIES):
                for size in DRAM:
                    share = float(size[:-1]) / 100
                    rate = (10 + 5 * i) * (1 + share) * (1 + 0.1 * j + 0.05 * k)
                    place = {"profile": profile, "method": method, "policy": policy, "dram": size}
                    marks = ["open-loop", "estimate"] + ["clairvoyant"] * (policy == "opt")
                    times = {"flash": 0.5, "dram": 0.2, "compute": 0.1, "sync": 0.2}
                    known = figures(rate, min(1.0, 2 * share), time_share=times)
                    cells.append(cell(place, None if (j, k) == (1, 4) else known, marks))
    return cells


def entry(place: dict[str, Any], known: Any, marks: tuple[str, ...] = ()) -> Entry:
    """A cell as a page reads it."""
    return Entry(place, {"trace": "t", "profile": "p", **place}, known, marks, "", 1)


def sweep_page(entries: list[Entry], asked: int = 0) -> Page:
    """The page of some cells."""
    return page_of_sweep("mine", entries, max(asked, len(entries)), "1")


def section(page: Page, name: str) -> Section:
    """The section of a page with a heading."""
    (found,) = [each for each in page.sections if each.name == name]
    return found


def names(page: Page) -> list[str]:
    """The headings of a page."""
    return [each.name for each in page.sections]
