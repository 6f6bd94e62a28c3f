"""Are keys and values rounded as the formats say?"""

import numpy as np
import pytest

from dipsim.errors import DipsimError
from dipsim.kv.bits import BUILTIN, Part, parse_format
from dipsim.kv.rounding import check_rounds, rounded
from naive import kv_rounding as naive

ROWS, WIDTH = 70, 80  # of which no group of 32 or 64 is a divisor


def rows_of(seed: int = 0) -> np.ndarray:
    """Numbers of many sizes, as keys have: a few channels are much larger than the others."""
    draws = np.random.default_rng(seed)
    sizes = np.exp(draws.normal(0, 2, WIDTH))
    return (draws.normal(0, 1, (ROWS, WIDTH)) * sizes).astype(np.float32)


def by_hand(part: Part, rows: np.ndarray) -> np.ndarray:
    """Every group for itself."""

    def coded(block: list[float]) -> list[float]:
        if part.code == "range":
            return naive.by_range(block, int(part.bits))
        return naive.q8_0(block) if part.bits == 8 else naive.q4_0(block)

    if part.along == "tokens":
        whole = len(rows) // part.group * part.group
        turned = by_hand(Part(part.bits, part.group, code=part.code), rows[:whole].T).T
        return np.concatenate([turned, rows[whole:]])
    rounded_rows = [
        [x for block in naive.blocks_of(row, part.group) for x in coded(block)]
        for row in rows.tolist()
    ]
    return np.array(rounded_rows, np.float32)


@pytest.mark.parametrize(
    "text", ["q8_0", "q4_0", "kivi:bits=2", "kivi:bits=4,group=16", "kivi-code", "transformers"]
)
def test_groups_are_rounded_as_by_hand(text: str) -> None:
    """float32 and float64 may choose the neighbouring step, for a number halfway between two."""
    format_, rows = parse_format(text), rows_of()
    for part in (format_.key, format_.value):
        found, wanted = rounded(part, rows), by_hand(part, rows)
        assert found.dtype == np.float32
        other = ~np.isclose(found, wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max())
        assert other.mean() < 2e-3
        assert not np.array_equal(found, rows)


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0"])
def test_llama_cpp_rounds_alike(name: str) -> None:
    gguf = pytest.importorskip("gguf", reason="gguf comes with dipsim[torch]")
    kind = getattr(gguf.GGMLQuantizationType, name)
    rows = rows_of(1)[:, :64]
    wanted = gguf.quants.dequantize(gguf.quants.quantize(rows, kind), kind)
    np.testing.assert_allclose(rounded(parse_format(name.lower()).key, rows), wanted, rtol=1e-6)


def test_floats_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch", reason="needs dipsim[torch]")
    rows = np.concatenate([rows_of(2), rows_of(3) * 1e-3, [[0, 448, 500, -1e9, 2**-9] * 16]])
    rows = rows.astype(np.float32)
    fp8 = torch.from_numpy(rows).clamp(-448, 448).to(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_array_equal(rounded(parse_format("fp8").key, rows), fp8)
    halves = torch.from_numpy(rows_of()).half().float().numpy()
    np.testing.assert_array_equal(rounded(parse_format("fp16").key, rows_of()), halves)


@pytest.mark.parametrize("name", BUILTIN)
def test_what_is_rounded_stays(name: str) -> None:
    part = parse_format(name).value
    once = rounded(part, rows_of())
    np.testing.assert_allclose(rounded(part, once), once, rtol=2e-2, atol=1e-2)
    assert not rounded(part, np.zeros((3, WIDTH), np.float32)).any()


def test_more_bits_are_nearer() -> None:
    rows = rows_of()
    off = [
        np.abs(rounded(parse_format(f"kivi:bits={bits}").value, rows) - rows).mean()
        for bits in (1, 2, 4, 8)
    ]
    assert off == sorted(off, reverse=True)
    assert off[3] < off[0] / 50


def test_a_group_along_tokens_waits_until_it_is_full() -> None:
    part = parse_format("kivi:bits=2,group=32").key
    rows = rows_of()
    found = rounded(part, rows)
    np.testing.assert_array_equal(found[64:], rows[64:])
    np.testing.assert_array_equal(found[:32], rounded(part, rows[:32]))


@pytest.mark.parametrize("text", ["kivi:bits=2.5", "q8_0/transformers:bits=3.5"])
def test_broken_bits_are_counted_and_not_computed(text: str) -> None:
    with pytest.raises(DipsimError, match=r"numbers of \d.5 bits are counted, not computed"):
        check_rounds(parse_format(text))
