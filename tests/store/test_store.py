"""The result store: what it keeps, who may write it, and what it refuses."""

import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from dipsim.errors import StoreError
from dipsim.store import Outcome, Store, key_of
from dipsim.store.schema import APPLICATION, TABLES, VERSION


def outcome(key: str, rate: float | None = 1.5, **changes: Any) -> Outcome:
    given: dict[str, Any] = {
        "options": {"trace": "t", "cache_fraction": 0.1 + 0.2},
        "figures": None if rate is None else {"tokens_per_second": rate, "groups": [{"hits": 3}]},
        "why": None if rate is not None else "no such density",
        "marks": ("estimate",),
        "seconds": 0.25,
        "semantics": 1,
    }
    return Outcome(key=key, **(given | changes))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study.db"


# Keys ---------------------------------------------------------------------------------------------


def test_a_key_is_of_the_values_and_not_of_their_order() -> None:
    assert key_of({"a": 1, "b": [0.5, None]}) == key_of({"b": [0.5, None], "a": 1})
    assert key_of({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # {}


@pytest.mark.parametrize("other", [{"a": 1.0}, {"a": "1"}, {"b": 1}, {"a": [1]}, {"a": 1, "b": 0}])
def test_any_other_value_makes_another_key(other: dict[str, Any]) -> None:
    assert key_of(other) != key_of({"a": 1})


# What it keeps ------------------------------------------------------------------------------------


def test_cells_come_back_bit_for_bit_in_the_order_of_their_sweep(path: Path) -> None:
    places = [("b", {"policy": "lru", "share": 1 / 3}), ("a", {"policy": "lfu", "share": 0.5})]
    with Store.open(path, create=True) as store:
        store.ask("mine", places, title="A study", axes=("policy", "share"))
        store.put([outcome("a", 1e-300), outcome("b", None)])
    with Store.open(path) as store:
        first, second = store.cells()
        (sweep,) = store.sweeps()
    assert (first.key, first.place) == places[0]
    assert list(first.place) == ["policy", "share"]
    assert (first.figures, first.why) == (None, "no such density")
    assert second.figures == {"tokens_per_second": 1e-300, "groups": [{"hits": 3}]}
    assert (second.options, second.marks) == (outcome("a").options, ("estimate",))
    assert (second.sweep, second.seconds, second.semantics) == ("mine", 0.25, 1)
    assert sweep.title, sweep.axes == ("A study", ("policy", "share"))
    assert (sweep.name, sweep.cells, sweep.done, sweep.failed) == ("mine", 2, 1, 1)


def test_sweeps_share_cells_and_each_has_its_own(path: Path) -> None:
    with Store.open(path, create=True) as store:
        store.ask("one", [("a", {"x": 1}), ("b", {"x": 2})])
        store.ask("two", [("c", {"y": 1}), ("a", {"y": 2})])
        store.put([outcome("a"), outcome("b", None), outcome("nobody's")])
        assert [(each.sweep, each.key) for each in store.cells()] == [
            *(("one", "a"), ("one", "b"), ("two", "a")),
        ]
        assert [each.key for each in store.cells("one", "failed")] == ["b"]
        assert [each.key for each in store.cells(status="done")] == ["a", "a"]
        assert [(s.cells, s.done, s.failed) for s in store.sweeps()] == [(2, 1, 1), (2, 1, 0)]
        store.ask("one", [("nobody's", {"x": 3})])
        assert [each.place for each in store.cells("one")] == [{"x": 3}]
        assert store.known(["a", "b", "c"]) == {"a", "b"}


def test_a_finished_cell_stays_and_a_failed_one_gives_way(path: Path) -> None:
    with Store.open(path, create=True) as store:
        store.ask("s", [("done", {}), ("failed", {})])
        store.put([outcome("done", 1.0), outcome("failed", None)])
        assert store.known(["done", "failed", "x"], "failed") == {"failed"}
        store.put([outcome("done", 2.0), outcome("failed", 3.0)])
        store.put([outcome("failed", None)])
        rates = [cell.figures and cell.figures["tokens_per_second"] for cell in store.cells()]
    assert rates == [1.0, 3.0]


def test_all_cells_of_a_batch_are_written_or_none(path: Path) -> None:
    with Store.open(path, create=True) as store:
        with pytest.raises(StoreError):
            store.put([outcome("a"), outcome("b", figures=None, why=None)])
        assert store.known(["a", "b"]) == set()


def test_more_keys_are_looked_up_than_a_statement_takes(path: Path) -> None:
    keys = [f"{n}" for n in range(70_000)]
    with Store.open(path, create=True) as store:
        store.put([outcome(keys[-1])])
        assert store.known(keys) == {keys[-1]}


# Several programs ---------------------------------------------------------------------------------

WRITER = """
import sys
from dipsim.store import Outcome, Store
path, name, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
keys = [str(n) for n in range(first, first + 60)]
with Store.open(path, create=True) as store:
    store.ask(name, [(key, {"n": key}) for key in keys])
    for key in keys:
        figures = {"n": int(key)}
        more = {"figures": figures, "seconds": 0.0, "semantics": 1}
        store.put([Outcome(key=key, options={}, **more)])
"""


def test_programs_that_write_at_once_lose_nothing(path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [
        subprocess.Popen([*command, name, str(first)]) for name, first in (("a", 0), ("b", 30))
    ]
    with Store.open(path, create=True):
        assert [each.wait() for each in writers] == [0, 0]
    with Store.open(path) as store:
        assert [(s.cells, s.done) for s in store.sweeps()] == [(60, 60), (60, 60)]
        assert {cell.figures["n"] for cell in store.cells() if cell.figures} == set(range(90))


def test_a_store_is_read_while_another_writes(path: Path) -> None:
    with Store.open(path, create=True) as writer, Store.open(path) as reader:
        writer.ask("s", [("a", {})])
        assert reader.cells() == []
        writer.put([outcome("a")])
        assert [cell.key for cell in reader.cells()] == ["a"]


def test_a_store_that_is_locked_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dipsim.store.store.WAIT", 0.0)
    with Store.open(path, create=True) as first, Store.open(path, create=True) as second:
        with first._writing(), pytest.raises(StoreError, match="another program has been writing"):
            second.put([outcome("a")])
        second.put([outcome("a")])


# Where nothing can be written ---------------------------------------------------------------------


def test_a_full_disk_ends_in_one_line_and_keeps_what_is_done(path: Path) -> None:
    with Store.open(path, create=True) as store:
        store.ask("s", [("a", {}), ("b", {})])
        store.put([outcome("a")])
    code = (
        "import sys; from dipsim.store import Outcome, Store\n"
        "with Store.open(sys.argv[1], create=True) as store:\n"
        "    store.put([Outcome(key='b', options={}, figures={'x': 'x' * 2**20}, seconds=0.0,\n"
        "                       semantics=1)])"
    )

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, 2**18))

    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], preexec_fn=limited, capture_output=True, text=True
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "StoreError" in last
    assert "the disk is full, or failed); the cells that are finished stay" in last
    with Store.open(path, create=True) as store:
        assert [cell.key for cell in store.cells()] == ["a"]
        store.put([outcome("b")])
        assert [cell.key for cell in store.cells()] == ["a", "b"]


AS_NOBODY = """
import os, sys
from dipsim.store import Store
if os.getuid() == 0:  # whom nothing is forbidden
    os.setgid(65534); os.setuid(65534)
"""


@pytest.mark.parametrize("mode", [0o555, 0o777])
def test_a_store_that_is_read_only_is_read_and_not_written(mode: int) -> None:
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    path = folder / "study.db"
    try:
        with Store.open(path, create=True) as store:
            store.ask("s", [("a", {})])
            store.put([outcome("a")])
        path.chmod(0o444)
        folder.chmod(mode)
        code = AS_NOBODY + (
            "path = sys.argv[1]\n"
            "with Store.open(path) as store: print([cell.key for cell in store.cells()])\n"
            "try: Store.open(path, create=True)\n"
            "except Exception as problem: print(type(problem).__name__, problem)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True
        )
        assert done.stderr == ""
        read, refused = done.stdout.splitlines()
        assert read == "['a']"
        assert refused.startswith(f"StoreError {path}: cannot be written (read-only")
        assert path.read_bytes()[:6] == b"SQLite"
    finally:
        folder.chmod(0o777)
        shutil.rmtree(folder)


def test_a_folder_that_is_missing_and_one_in_its_place_are_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written \\(no such folder\\)"):
        Store.open(tmp_path / "missing/study.db", create=True)
    for create in (True, False):
        with pytest.raises(StoreError, match="not a dipsim store, nor a file"):
            Store.open(tmp_path, create=create)


# What is no store ---------------------------------------------------------------------------------


def database(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def mark(version: int = VERSION) -> tuple[str, str]:
    return f"PRAGMA application_id = {APPLICATION}", f"PRAGMA user_version = {version}"


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (("CREATE TABLE cells (key)",), "not a dipsim store"),
        ((*mark(), "CREATE TABLE cells (key)"), "not a dipsim store"),
        (
            (*mark(), *TABLES.values(), "CREATE VIEW more AS SELECT * FROM cells"),
            "not a dipsim store",
        ),
        ((*mark(VERSION + 1), *TABLES.values()), "a newer dipsim .* upgrade"),
        ((*mark(VERSION - 1), *TABLES.values()), "an older dipsim"),
    ],
)
def test_a_database_of_another_kind_is_refused_and_not_touched(
    path: Path, statements: tuple[str, ...], said: str, create: bool
) -> None:
    database(path, *statements)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=said) as problem:
        Store.open(path, create=create)
    assert "\n" not in str(problem.value)
    if APPLICATION.to_bytes(4) not in before[:100]:
        assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("content", [b"notes", b"\0" * 4096, b"SQLite format 3\0"])
def test_a_file_of_another_kind_is_refused_and_not_touched(
    path: Path, content: bytes, create: bool
) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreError, match="not a dipsim store"):
        Store.open(path, create=create)
    assert path.read_bytes() == content


def test_a_store_that_is_not_there_is_not_made_by_reading(path: Path) -> None:
    with pytest.raises(StoreError, match="no such store"):
        Store.open(path)
    assert not path.exists()
    path.touch()
    with pytest.raises(StoreError, match="not a dipsim store"):
        Store.open(path)
    with Store.open(path, create=True) as store:  # an empty file is an empty database
        assert store.sweeps() == []


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE cells SET figures = '{'",
        "UPDATE cells SET figures = '[1]'",
        "UPDATE cells SET marks = x'00'",
        "UPDATE cells SET seconds = 'long'",
        "UPDATE cells SET seconds = 1e999",
        "UPDATE cells SET figures = '{\"rate\": 1e999}'",
        "UPDATE cells SET figures = '{\"rate\": NaN}'",
        "UPDATE asked SET place = '3'",
        "UPDATE cells SET options = '" + "[" * 100_000 + "'",
    ],
)
def test_rows_that_no_sweep_writes_are_told(path: Path, change: str) -> None:
    with Store.open(path, create=True) as store:
        store.ask("s", [("a", {})])
        store.put([outcome("a")])
    database(path, change)
    with Store.open(path) as store, pytest.raises(StoreError, match="damaged"):
        store.cells()


def test_a_store_that_is_cut_short_is_told(path: Path) -> None:
    with Store.open(path, create=True) as store:
        store.ask("s", [(str(n), {}) for n in range(500)])
        store.put([outcome(str(n)) for n in range(500)])
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(StoreError) as problem, Store.open(path) as store:
        store.cells()
    assert "damaged" in str(problem.value)
