"""The store: cells that are finished, and the sweeps that asked for them."""

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote

from dipsim.errors import StoreError, brief
from dipsim.files import check_destination, path_of, unwritable
from dipsim.store.schema import check_file, check_tables, create_tables, no_store
from dipsim.views import shortened

Status = Literal["done", "failed"]
WAIT = 30.0
"""Seconds that a writer waits for others to be done."""
_AT_ONCE = 500
"""Keys that are looked up at a time."""
_SELECT = """SELECT sweep, place, key, options, figures, marks, why, seconds, semantics
FROM asked JOIN cells USING (key)"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Outcome of a cell, whoever asked for it: figures, or why it has none."""

    key: str
    options: Mapping[str, Any]
    """Arguments of `dipsim.simulate` that repeat the run."""
    figures: Mapping[str, Any] | None
    """Figures as ``dipsim run --json`` names them."""
    marks: tuple[str, ...] = ()
    why: str | None = None
    """Reason why the run is impossible; then there are no figures."""
    seconds: float
    """Time it took; of cells that were replayed together each has an equal part."""
    semantics: int
    """Version of what a run means, see `dipsim.simulate.SEMANTICS`."""

    __repr__ = shortened


@dataclass(frozen=True, kw_only=True)
class StoredCell(Outcome):
    """A cell at its place in a sweep."""

    sweep: str
    """Name of the sweep."""
    place: Mapping[str, Any]
    """Value of each axis, in the order of the axes; an axis that its run does not take is left
    out."""

    __repr__ = shortened


@dataclass(frozen=True)
class StoredSweep:
    """A sweep that asked for cells, and how far it is."""

    name: str
    title: str
    """Text for people; empty where it has none."""
    axes: tuple[str, ...]
    cells: int
    """Number of cells that it asked for."""
    done: int
    failed: int


class Store:
    """An open store: one SQLite file in WAL mode, which several processes may read and write.

    Made by `Store.open`; ``with`` closes it.
    """

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self.path, self._database = path, database

    @classmethod
    def open(cls, path: str | Path, *, create: bool = False) -> Self:
        """Open a store.

        Args:
            path: its file.
            create: to write to it; it is made where there is none. Otherwise it is only read.

        Raises:
            StoreError: no store, one of another version, or one that cannot be opened.
        """
        path = path_of(path, "store")
        fresh = not path.exists() or (path.is_file() and path.stat().st_size == 0)
        if not (create and fresh):
            check_file(path)
        if create:
            try:
                check_destination(path)
            except OSError as problem:
                raise unwritable(path, problem, StoreError) from None
        with _told(path):
            database = _for_writing(path) if create else _for_reading(path)
            try:
                check_tables(path, database)
            except BaseException:
                database.close()
                raise
        return cls(path, database)

    def close(self) -> None:
        """Close it."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Writing

    def ask(
        self,
        name: str,
        cells: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        title: str = "",
        axes: Sequence[str] = (),
    ) -> None:
        """Note which cells a sweep asks for; what it asked for before is forgotten, no cell is.

        Args:
            name: of the sweep.
            cells: key and place of each, in their order.
            title: text for people.
            axes: their names, in order.

        Raises:
            StoreError: it cannot be written.
        """
        rows = [(name, i, key, _json(place)) for i, (key, place) in enumerate(cells)]
        with self._writing() as database:
            database.execute("DELETE FROM asked WHERE sweep = ?", (name,))
            database.execute(
                "INSERT INTO sweeps VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE "
                "SET title = excluded.title, axes = excluded.axes",
                (name, title, _json(list(axes))),
            )
            database.executemany("INSERT INTO asked VALUES (?, ?, ?, ?)", rows)

    def put(self, outcomes: Iterable[Outcome]) -> None:
        """Add outcomes, all or none; a cell that has figures keeps them.

        Raises:
            StoreError: it cannot be written; what it held is as it was.
        """
        rows = [
            (
                each.key,
                _json(each.options),
                None if each.figures is None else _json(each.figures),
                _json(list(each.marks)),
                each.why,
                each.seconds,
                each.semantics,
            )
            for each in outcomes
        ]
        with self._writing() as database:
            database.executemany(
                "INSERT INTO cells VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
                "options = excluded.options, figures = excluded.figures, marks = excluded.marks, "
                "why = excluded.why, seconds = excluded.seconds WHERE cells.figures IS NULL",
                rows,
            )

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Wrap a transaction, the only one that writes at a time."""
        with _told(self.path):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    # Reading

    def known(self, keys: Iterable[str], status: Status | None = None) -> set[str]:
        """Return those of some keys whose cells are in the store.

        Args:
            keys: of the cells.
            status: count those alone that are ``done``, or ``failed``; default: both.

        Raises:
            StoreError: it cannot be read.
        """
        wanted = list(dict.fromkeys(keys))
        found: set[str] = set()
        with _told(self.path):
            for first in range(0, len(wanted), _AT_ONCE):
                some = wanted[first : first + _AT_ONCE]
                marks = ", ".join("?" * len(some))
                rows = self._database.execute(
                    f"SELECT key FROM cells WHERE key IN ({marks}){_only(status, ' AND ')}",  # noqa: S608
                    some,
                )
                found.update(key for (key,) in rows)
        return found

    def sweeps(self) -> list[StoredSweep]:
        """Return the sweeps by name, with how far they are.

        Raises:
            StoreError: it cannot be read, or is damaged.
        """
        with _told(self.path):
            rows = self._database.execute(
                "SELECT name, title, axes, count(position), count(figures), count(why) FROM sweeps "
                "LEFT JOIN asked ON sweep = name LEFT JOIN cells USING (key) "
                "GROUP BY name ORDER BY name"
            ).fetchall()
            return [
                StoredSweep(name, title, tuple(map(str, _read(axes, list))), *counts)
                for name, title, axes, *counts in rows
            ]

    def cells(self, sweep: str | None = None, status: Status | None = None) -> list[StoredCell]:
        """Return the cells of a sweep in its order, or of all sweeps, one sweep after another.

        Args:
            sweep: its name; a cell that several asked for is there for each of them.
            status: only those that are ``done``, or ``failed``.

        Raises:
            StoreError: it cannot be read, or is damaged.
        """
        which = [text for text in ("sweep = ?" if sweep is not None else "", _only(status)) if text]
        where = f" WHERE {' AND '.join(which)}" if which else ""
        with _told(self.path):
            rows = self._database.execute(
                f"{_SELECT}{where} ORDER BY sweep, position",
                () if sweep is None else (sweep,),
            )
            return [_cell(row) for row in rows]


def _only(status: Status | None, before: str = "") -> str:
    """Return the condition that cells of a status meet, behind a text; empty for all."""
    columns = {"done": "figures", "failed": "why"}
    return "" if status is None else f"{before}{columns[status]} IS NOT NULL"


def _for_writing(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=WAIT, isolation_level=None)
    try:
        database.execute("PRAGMA trusted_schema = OFF")
        create_tables(database)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        database.close()
        raise
    return database


def _for_reading(path: Path) -> sqlite3.Connection:
    """Return a connection that only reads, also where nothing may be written beside the file."""
    name = f"file:{quote(str(path.resolve()))}"
    database = sqlite3.connect(f"{name}?mode=ro", uri=True, timeout=WAIT, isolation_level=None)
    try:
        database.execute("PRAGMA trusted_schema = OFF")
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        database.close()
        waiting = path.with_name(f"{path.name}-wal")
        if waiting.exists() and waiting.stat().st_size:
            raise
        return sqlite3.connect(f"{name}?immutable=1", uri=True, isolation_level=None)
    return database


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what goes wrong in a database into one line.

    Raises:
        StoreError: in place of the errors of sqlite3, and of values that none of ours holds.
    """
    try:
        yield
    except sqlite3.Error as problem:
        name = getattr(problem, "sqlite_errorname", "")
        if name == "SQLITE_NOTADB":
            raise no_store(path) from None
        raise StoreError(f"{path}: {_reason(name, problem)}") from None
    except (ValueError, TypeError, RecursionError):
        raise StoreError(f"{path}: damaged: a row holds what no sweep writes") from None


def _reason(name: str, problem: sqlite3.Error) -> str:
    """Return what went wrong, and what can be done."""
    kept = "the cells that are finished stay"
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return f"cannot be written (the disk is full, or failed); {kept}: make room and go on"
    if name.startswith("SQLITE_READONLY"):
        return f"cannot be written (read-only); {kept}: chmod +w it and its folder, or copy it"
    if name.startswith("SQLITE_CANTOPEN"):
        return "cannot be opened: its folder must exist, and be writable for a sweep"
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"another program has been writing to it for {WAIT:.0f} s; {kept}: try again"
    if name.startswith("SQLITE_CORRUPT"):
        return "damaged; restore a copy, or sweep anew to another file"
    return f"cannot be used as a store ({brief(problem, 160)})"


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _read(text: Any, kind: type) -> Any:
    """Return a value out of a store.

    Raises:
        ValueError: not JSON, or of another kind.
    """
    value = None
    if isinstance(text, str):
        value = json.loads(text, parse_float=_finite, parse_constant=_finite)
    if not isinstance(value, kind):
        raise ValueError("another kind of value")
    return value


def _finite(text: Any) -> float:
    """Return a number.

    Raises:
        ValueError: infinite, or none.
    """
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


def _cell(row: Sequence[Any]) -> StoredCell:
    """Return the cell of a row of `_SELECT`.

    Raises:
        ValueError, TypeError: a row that no sweep writes.
    """
    sweep, place, key, options, figures, marks, why, seconds, semantics = row
    return StoredCell(
        sweep=str(sweep),
        place=_read(place, dict),
        key=str(key),
        options=_read(options, dict),
        figures=None if figures is None else _read(figures, dict),
        marks=tuple(map(str, _read(marks, list))),
        why=None if why is None else str(why),
        seconds=_finite(seconds),
        semantics=int(semantics),
    )
