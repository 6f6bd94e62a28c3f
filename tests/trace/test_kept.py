"""Arrays that stay inflated, and items that are made ahead of their use."""

import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dipsim.errors import TraceError
from dipsim.trace import Trace, load_trace, trace
from dipsim.trace.kept import Kept
from dipsim.trace.npz import InMemory, open_npz
from dipsim.trace.parts import SparsePart
from dipsim.trace.read_ahead import read_ahead
from dipsim.trace.writer import TraceWriter

RNG = np.random.default_rng(4)
SCORES = RNG.random((40, 3, 70)).astype(np.float32)


def stored(path: Path, encoding: str = "log8") -> Trace:
    glu = SCORES > 0.5 if encoding == "sparse" else SCORES
    with TraceWriter(path, encodings={"glu": encoding}) as out:
        out.append({"glu": glu})
    return load_trace(path)


@pytest.mark.parametrize("encoding", ["log8", "sparse", "float16"])
def test_a_kept_trace_reads_the_same(encoding: str, tmp_path: Path) -> None:
    plain = stored(tmp_path / "t.npz", encoding)
    kept = plain.kept()
    for part in (kept.window(5, 23), kept, kept.layer_window(1, 2)):
        cut = plain.window(part.first, part.first + part.tokens)
        cut = cut.layer_window(part.first_layer, part.first_layer + part.layers)
        for one, other in zip(
            *(list(t.blocks({"glu": t.signals["glu"].holds})) for t in (part, cut)), strict=True
        ):
            assert one[:2] == other[:2]
            np.testing.assert_array_equal(one[2]["glu"], other[2]["glu"])
    assert kept.hash == plain.hash


def test_an_array_is_inflated_once_as_far_as_it_is_read(tmp_path: Path) -> None:
    array = RNG.integers(0, 9, (50, 4))
    read = []

    class Counting(InMemory):
        def rows(self, first: int, counts: object) -> Iterator[np.ndarray]:
            for rows in super().rows(first, counts):  # type: ignore[arg-type]
                read.append(len(rows))
                yield rows

    kept = Kept(Counting(array))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dipsim.trace.kept._PIECE", 10 * array[0].nbytes)
        np.testing.assert_array_equal(next(kept.rows(3, [5])), array[3:8])
        assert sum(read) == 10
        for _ in range(2):
            (whole,) = kept.rows(0, [50])
            np.testing.assert_array_equal(whole, array)
        assert sum(read) == 50
    with pytest.raises(ValueError, match="read-only"):
        whole[0] = 1


def test_large_traces_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = stored(tmp_path / "t.npz", "sparse")
    (part,) = plain.kept().signals["glu"].parts
    assert isinstance(part, SparsePart)
    assert isinstance(part.indices, Kept)
    monkeypatch.setattr(trace, "KEPT_BYTES", 100)
    assert plain.kept() is plain


def test_damage_is_met_by_every_reader(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    np.savez_compressed(path, glu=SCORES)
    member = open_npz(path)["glu"]
    with zipfile.ZipFile(path) as archive:
        middle = archive.infolist()[0].header_offset + path.stat().st_size // 2
    data = bytearray(path.read_bytes())
    data[middle : middle + 100] = bytes(100)
    path.write_bytes(data)
    kept = Kept(member)
    for _ in range(2):
        with pytest.raises(TraceError, match="damaged"):
            list(kept.rows(0, [40]))


def test_items_come_in_order_and_are_made_by_another_thread() -> None:
    makers = []

    def items() -> Iterator[int]:
        for i in range(5):
            makers.append(threading.get_ident())
            yield i

    assert list(read_ahead(items())) == [0, 1, 2, 3, 4]
    mine = threading.get_ident()
    assert makers[0] == mine
    assert len(set(makers[1:]) - {mine}) == 1
    assert mine not in makers[1:]
    assert list(read_ahead([])) == []


def test_a_last_item_that_is_known_starts_no_thread() -> None:
    makers = []

    def items() -> Iterator[int]:
        for i in range(2):
            makers.append(threading.get_ident())
            yield i

    assert list(read_ahead(items(), lambda i: i == 1)) == [0, 1]
    assert makers[0] == threading.get_ident()
    makers.clear()
    assert next(read_ahead(items(), lambda i: i == 0)) == 0
    assert makers == [threading.get_ident()]


def test_an_error_comes_in_the_place_of_its_item() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise TraceError("bad")

    ahead = read_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(TraceError, match="bad"):
        next(ahead)
