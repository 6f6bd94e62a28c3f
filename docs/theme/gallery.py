"""Reports of the gallery: pages that `dipsim` makes of small runs, as HTML."""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import dipsim
from dipsim.analysis.study import study
from dipsim.report.page import html
from dipsim.report.page.output import figures_of
from dipsim.report.page.source import open_page, page_of
from dipsim.report.page.studies import page_of_studies

FEW = {"tokens": "0:16"}
SWEEP = {
    "name": "budgets",
    "title": "Policies and methods against DRAM",
    "trace": "smollm2-chat",
    "profile": ["snapdragon8", "paper-a18"],
    "method": ["dip", "dip-ca"],
    "policy": ["lru", "lfu", "opt"],
    "exclude": {"method": "dip-ca", "policy": "opt"},
    "dram": ["60%", "70%", "80%", "90%"],
    **FEW,
}


def run() -> str:
    """Return the report of a run."""
    result = dipsim.simulate(
        "smollm2-chat", "snapdragon8", method="dip-ca", dram="60%", policy="lru"
    )
    return html.render(page_of(figures_of(result)))


def sweep() -> str:
    """Return the report of a sweep."""
    with TemporaryDirectory() as folder:
        store = Path(folder) / "s.db"
        dipsim.sweep(SWEEP, store)
        return html.render(open_page(store))


def studies() -> str:
    """Return the page of studies."""
    names = ("flash", "gamma", "split")
    with TemporaryDirectory() as folder:
        found = [study(name, store=Path(folder) / "s.db", **FEW) for name in names]
    return html.render(page_of_studies(found))


REPORTS: dict[str, Callable[[], str]] = {"run": run, "sweep": sweep, "studies": studies}
"""What makes each report, by the name of its file."""


def reports() -> Iterator[tuple[str, str]]:
    """Yield the path of each report in the site, and its HTML."""
    for name, make in REPORTS.items():
        yield f"gallery/{name}.html", make()
