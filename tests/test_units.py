"""Quantities: what is read, what is refused and why, and that text and number agree."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipsim.units import (
    BANDWIDTH,
    BYTES,
    COMPUTE,
    ENERGY_PER_BYTE,
    POWER,
    RATE,
    TIME,
    Dimension,
    parse_share,
)

DIMENSIONS = (BYTES, BANDWIDTH, TIME, COMPUTE, RATE, POWER, ENERGY_PER_BYTE)
each_dimension = pytest.mark.parametrize("dimension", DIMENSIONS, ids=lambda d: d.name)


@pytest.mark.parametrize(
    ("dimension", "text", "value"),
    [
        (BYTES, "8 GB", 8e9),
        (BYTES, "8 GiB", 8 * 2**30),
        (BYTES, "1.5MiB", 1.5 * 2**20),
        (BYTES, "4 KiB", 4096),
        (BYTES, "4 kB", 4000),
        (BYTES, "  .5   TB ", 5e11),
        (BYTES, "1e3 B", 1000),
        (BANDWIDTH, "60 GB/s", 60e9),
        (BANDWIDTH, "60 GiB/s", 60 * 2**30),
        (BANDWIDTH, "953.6 MiB/s", 953.6 * 2**20),
        (TIME, "0.6 ms", 0.6e-3),
        (TIME, "80 ns", 80e-9),
        (TIME, "2 s", 2),
        (COMPUTE, "2 TFLOP/s", 2e12),
        (POWER, "800 mW", 0.8),
        (ENERGY_PER_BYTE, "40 pJ/B", 40e-12),
    ],
)
def test_reads_text_with_a_unit(dimension: Dimension, text: str, value: float) -> None:
    assert dimension.parse(text) == pytest.approx(value, rel=1e-15)


def test_us_may_be_written_with_a_greek_letter() -> None:
    assert TIME.parse("80 µs") == TIME.parse("80 us") == pytest.approx(8e-5, rel=1e-15)


@each_dimension
@pytest.mark.parametrize("bare", ["60", " 60 ", "1e9", 60, 60.0, 0, True, None])
def test_a_number_without_a_unit_is_refused(dimension: Dimension, bare: object) -> None:
    with pytest.raises(ValueError, match=r"has no unit: write an? ") as problem:
        dimension.parse(bare)
    assert dimension.example in str(problem.value)


@pytest.mark.parametrize(
    ("dimension", "text"),
    [
        (BANDWIDTH, "60 Gb/s"),
        (BANDWIDTH, "60 Gbit/s"),
        (BANDWIDTH, "60Gbps"),
        (BANDWIDTH, "60 Gib/s"),
        (BANDWIDTH, "60 b/s"),
        (BYTES, "8 Gb"),
        (BYTES, "8 Mbit"),
    ],
)
def test_bits_are_refused_with_the_reason(dimension: Dimension, text: str) -> None:
    with pytest.raises(ValueError, match="counts bits") as problem:
        dimension.parse(text)
    assert dimension.example in str(problem.value)


@pytest.mark.parametrize(
    ("dimension", "text"),
    [
        (BYTES, "8 gb"),
        (BYTES, "8 gB"),
        (BYTES, "8 GIB"),
        (BYTES, "8 mB"),
        (BYTES, "8 GiB/s"),
        (BYTES, "8 GB GB"),
        (BANDWIDTH, "60 GB/S"),
        (BANDWIDTH, "60 GB"),
        (TIME, "80 US"),
        (TIME, "80 MS"),
        (TIME, "1 min"),
        (COMPUTE, "2 tflop/s"),
        (POWER, "4 w"),
        (ENERGY_PER_BYTE, "40 pj/B"),
    ],
)
def test_units_are_case_sensitive_and_none_is_guessed(dimension: Dimension, text: str) -> None:
    with pytest.raises(ValueError, match="unknown unit"):
        dimension.parse(text)


@each_dimension
@pytest.mark.parametrize("number", ["-1", "-1e-9", "nan", "inf", "-inf", "1e999", "", "x", "1_000"])
def test_no_other_numbers(dimension: Dimension, number: str) -> None:
    suffix = dimension.example.split()[1]
    with pytest.raises(ValueError, match=r"write a|is not a"):
        dimension.parse(f"{number} {suffix}")


@each_dimension
def test_unlimited_only_where_it_is_allowed(dimension: Dimension) -> None:
    assert dimension.parse("unlimited", unlimited=True) == math.inf
    assert dimension.exact(math.inf) == dimension.show(math.inf) == "unlimited"
    for text, allowed in (("unlimited", False), ("Unlimited", True), ("inf", True)):
        with pytest.raises(ValueError, match="is not a"):
            dimension.parse(text, unlimited=allowed)


@each_dimension
@given(data=st.data())
def test_exact_text_reads_back_equal(dimension: Dimension, data: st.DataObject) -> None:
    value = data.draw(st.just(0.0) | st.floats(*dimension.bounds))
    assert dimension.parse(dimension.exact(value)) == value


@each_dimension
def test_a_quantity_is_0_or_within_the_range_that_the_error_names(dimension: Dimension) -> None:
    least, most = dimension.bounds
    suffix = dimension.range[0].split()[1]
    assert [dimension.parse(text) for text in dimension.range] == [least, most]
    assert dimension.parse(f"0 {suffix}") == 0
    below, above = (dimension.exact(value) for value in (least * 0.99, most * 1.01))
    huge = (f"1e9999999999 {suffix}", f"{'9' * 5000} {suffix}")
    for text in (below, above, f"5e-324 {suffix}", f"1e308 {suffix}", *huge):
        with pytest.raises(ValueError, match="out of range") as problem:
            dimension.parse(text)
        assert f"{dimension.range[0]} to {dimension.range[1]}" in str(problem.value)
        assert len(str(problem.value)) < 200


@each_dimension
def test_exact_text_of_round_numbers_reads_back_equal(dimension: Dimension) -> None:
    rng = random.Random(0)
    for number in (rng.randrange(1, 10_000) for _ in range(100)):
        for suffix, scale in dimension.units.items():
            if not dimension.believes(number * scale):
                continue
            value = dimension.parse(f"{number} {suffix}")
            assert dimension.parse(dimension.exact(value)) == value
            assert value == pytest.approx(number * scale, rel=1e-12)


@pytest.mark.parametrize("text", ["0 B", "8 GB", "450 MB", "1 TB", "999 kB", "5 B"])
def test_exact_text_of_a_decimal_size_is_short(text: str) -> None:
    assert BYTES.exact(BYTES.parse(text)) == text


@pytest.mark.parametrize(
    ("dimension", "value", "text"),
    [
        (BYTES, 0, "0 B"),
        (BYTES, 999, "999 B"),
        (BYTES, 999.4, "999 B"),
        (BYTES, 999.6, "1 kB"),
        (BYTES, 4096, "4.1 kB"),
        (BYTES, 8e9, "8 GB"),
        (BYTES, 1.2345e9, "1.23 GB"),
        (BYTES, 1.5e12, "1.5 TB"),
        (BANDWIDTH, 60e9, "60 GB/s"),
        (TIME, 0.6e-3, "600 us"),
        (TIME, 0.1234, "123 ms"),
        (TIME, 12.34, "12.3 s"),
    ],
)
def test_shown_text_has_three_figures(dimension: Dimension, value: float, text: str) -> None:
    assert dimension.show(value) == text


@each_dimension
@given(data=st.data())
def test_shown_text_is_close(dimension: Dimension, data: st.DataObject) -> None:
    least, most = dimension.bounds
    value = data.draw(st.floats(1.01 * least, 0.99 * most))
    shown = dimension.parse(dimension.show(value))
    unit = dimension.units[dimension.shown[0]]
    assert shown == pytest.approx(value, rel=0.0051, abs=1e-9 * unit)


@pytest.mark.parametrize(
    ("text", "share"),
    [("0%", 0), ("50%", 0.5), (" 12.5 % ", 0.125), ("100%", 1), ("50", None), ("8 GB", None)],
)
def test_shares_are_percentages(text: str, share: float | None) -> None:
    assert parse_share(text) == share


@pytest.mark.parametrize("text", ["1001%", "-1%", "nan%", "inf%", "%", "x%", "50%%", "8 GB%"])
def test_other_percentages_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="from 0% to 1000%"):
        parse_share(text)
