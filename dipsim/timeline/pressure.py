"""Memory pressure: what a run takes beyond the DRAM an app may use is paged (docs/time.md).

The system takes pages back evenly, so of the bytes a token uses from DRAM the share that exceeds
``dram.available`` is not there, and comes in page by page as it is touched.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.flash.page_cache import page_size
from dipsim.replay.traffic import Traffic
from dipsim.run import Run
from dipsim.timeline.closed import is_paper
from dipsim.units import BYTES, TIME

PAGE_FAULTS = "page faults"
"""Place of the step in which a token waits for page faults."""


class Faults(NamedTuple):
    """Page faults of tokens, float64[tokens] each."""

    seconds: NDArray[np.float64]
    moved: NDArray[np.float64]
    """Bytes that they load."""
    number: NDArray[np.float64]
    """Number of faults: a mean, no whole number."""


def bytes_taken(run: Run) -> float:
    """Return the bytes of DRAM that weights, caches, KV, staging and overhead take.

    Where an option states a size (``--dram``, of a cache), overhead and staging come on top only if
    that size exceeds ``dram.available``: up to that, an engine is taken to have made room for them.
    """
    budget = run.budget
    resident = budget.static.total - budget.streamed + budget.cache
    taken = resident + budget.kv_in_all + budget.buffer + budget.staging + budget.overhead
    asked = min(taken, np.inf if budget.dram is None else budget.dram)
    return asked + (budget.beside if asked > run.device.dram.available else 0.0)


def paged_share(run: Run) -> float:
    """Return the share of what a run takes that exceeds ``dram.available``; 0 in the paper's
    modes."""
    taken, available = bytes_taken(run), run.device.dram.available
    if is_paper(run.settings.overlap) or taken <= available:
        return 0.0
    return 1 - available / taken


def page_fault(run: Run) -> tuple[float, float]:
    """Return the bytes and the seconds of a page fault, of the profile if it states them, else of
    a read of one page alone."""
    fault = run.device.flash.fault
    if fault is not None:
        return fault.page, fault.seconds
    page = run.flash.pages(np.array([page_size(run.device.flash)]))
    return float(page[0]), float(run.flash.seconds(page, 1)[0])


def faults_of(
    run: Run, traffic: Traffic, rows: NDArray[np.int64], kv: NDArray[np.float64]
) -> Faults | None:
    """Return the page faults that the tokens ``rows`` wait for; None without memory pressure.

    Args:
        kv: float64[rows], bytes of keys and values that each reads.
    """
    share = paged_share(run)
    if not share:
        return None
    hits = np.einsum("tlg,lg->t", traffic.hits[rows], run.unit_bytes)
    used = run.budget.static.total - run.budget.streamed + kv + hits
    page, seconds = page_fault(run)
    moved = share * used
    return Faults(moved / page * seconds, moved, moved / page)


def pressure_warning(run: Run) -> str | None:
    """Return what to say before a run that takes more DRAM than an app may; None for others."""
    share = paged_share(run)
    if not share:
        return None
    available, (page, seconds) = run.device.dram.available, page_fault(run)
    if run.budget.dram is None:
        remedy = "give the cache less"
    elif run.budget.streamed < run.budget.static.total:
        most = f"{int(available / 1e6)}MB" if available >= 1e7 else f"{int(available)}B"
        remedy = f"give at most --dram {most}"
    else:
        remedy = "take a smaller model"
    return (
        f"weights, caches, KV and overhead take {BYTES.show(bytes_taken(run))}, and "
        f"{run.device.name} leaves {BYTES.show(available)} to an app (dram.available): "
        f"{share:.1%} of what a token uses is paged, {TIME.show(seconds)} per "
        f"{BYTES.show(page)}; {remedy}"
    )
