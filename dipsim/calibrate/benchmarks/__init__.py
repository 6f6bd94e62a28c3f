"""Readers that turn the outputs of benchmarks into measurements."""

from collections.abc import Sequence
from dataclasses import replace

from dipsim.calibrate.agreement import agreeing
from dipsim.calibrate.benchmarks.formats import FORMATS, recognised
from dipsim.calibrate.benchmarks.source import Source, sources
from dipsim.calibrate.measured import Measurements, together
from dipsim.errors import DipsimError, printable


def read_benchmarks(paths: Sequence[str]) -> Measurements:
    """Read files, folders and archives of benchmarks; formats are recognised by content.

    In a folder or an archive, files that are unknown or damaged become sentences of ``refused``.

    Args:
        paths: each a file, a folder (with the folders in it), or a tar archive; gzipped or not.

    Returns:
        All measurements, without those that contradict each other.

    Raises:
        DipsimError: a file that is unknown, damaged, or of several devices, or nothing that tells
            anything, in one line.
    """
    parts = [part for path in paths for part in _of_path(path)]
    found = _numbered(agreeing(together(parts)))
    if not found:
        first, *others = found.refused or ("no figure in what is given",)
        more = f" (and {len(others)} more)" if others else ""
        raise DipsimError(first + more)
    return found


def _numbered(found: Measurements) -> Measurements:
    """Return measurements whose cases differ by their ids, as files may have one name."""
    taken: set[str] = set()
    rates = []
    for rate in found.rates:
        name, again = rate.case.id, 1
        while name in taken:
            again += 1
            name = f"{rate.case.id[:70]}~{again}"
        taken.add(name)
        rates.append(rate._replace(case=rate.case.model_copy(update={"id": name})))
    return replace(found, rates=tuple(rates))


def _of_path(path: str) -> list[Measurements]:
    listed, alone = sources(path)
    parts = []
    for source in listed:
        try:
            parts.append(_of_source(source, alone))
        except DipsimError as problem:
            if alone:
                raise
            parts.append(Measurements(refused=(str(problem),)))
    if not parts:
        raise DipsimError(f"{printable(path)}: no files in it")
    return parts


def _of_source(source: Source, alone: bool) -> Measurements:
    format_ = recognised(source)
    if format_ is None and not alone:
        raise DipsimError(f"{source.name}: no output of a benchmark that is known")
    if format_ is None:
        known = "; ".join(format_.name for format_ in FORMATS if not format_.beside)
        raise DipsimError(f"{source.name}: no output of a benchmark that is read: {known}")
    found = format_.read(source)
    told = f"{source.name}: output of {format_.name} that states no figure"
    return found if found or found.refused or format_.beside else Measurements(refused=(told,))
