"""The page of the headline and the scripts that make it: losses, intervals, clusters, tables."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import headline
import pytest

import dipsim

PAGE = Path(__file__).parents[1] / "docs" / "headline.md"


def rows_of(name: str) -> list[list[str]]:
    """Cells of a table of the page, without its header."""
    _, _, behind = PAGE.read_text().partition(f"<!-- {name} -->\n")
    lines = behind.partition("<!-- end -->")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


# Losses


def test_between_measured_points_the_logarithm_of_the_loss_is_straight() -> None:
    measured = {0.6: 10.4, 0.8: 10.1}  # costs .4 and .1: .2 lies in the middle of the logarithms
    density, written = headline.density_at(measured, 10, 0.2)
    assert density == pytest.approx(0.7)
    assert written == "0.700"


def test_a_loss_outside_the_measured_ones_gets_no_invented_density() -> None:
    measured = {0.6: 10.4, 0.8: 10.1}
    assert headline.density_at(measured, 10, 0.5) == (0.6, "< 0.6")
    assert headline.density_at(measured, 10, 0.05) == (None, "> 0.8")


def test_losses_of_a_row_are_its_own() -> None:
    plain, joined = headline.points("dip", {}), headline.points("dip", headline.CLUSTERED)
    assert plain[0.7] == pytest.approx(17.3236, abs=1e-4)  # docs/accuracy.md
    assert all(joined[density] > plain[density] for density in headline.LAYOUT_DENSITIES)
    strong, mild = (
        headline.points("dip-ca", {"gamma": g}) for g in (headline.STRONG, headline.MILD)
    )
    assert strong[0.7] > mild[0.7] > plain[0.7]


def test_densities_and_costs_of_the_page_are_those_measured() -> None:
    dense = headline.dense_perplexity()
    rows = rows_of("equal loss")
    assert [row[0] for row in rows] == list(headline.CONTENDERS)
    step = 1 + len(headline.SIZES) * len(headline.OVERLAPS)
    for name, *cells in rows:
        contender = headline.CONTENDERS[name]
        measured = headline.points(contender.method, contender.measured)
        for i, loss in enumerate(headline.LOSSES):
            assert cells[i * step] == headline.density_at(measured, dense, loss)[1]
    for density, *cells in rows_of("layouts"):
        for cell, settings in zip(cells[4:], ({}, headline.CLUSTERED), strict=False):
            cost = headline.points("dip", settings)[float(density)] - dense
            assert cell == f"{cost:+.2f}"


# Intervals


@dataclass
class Timed:
    """A run as far as a table asks."""

    tokens_per_second: float
    interval: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        return {} if self.interval is None else {"tokens_per_second_interval": self.interval}


def test_a_table_shows_intervals_where_they_are_known() -> None:
    known = Timed(2.0, {"low": 1.5, "high": 2.5, "level": 0.8})
    rows = [(["a"], known), (["b"], Timed(3.0)), (["c"], None)]
    header, _, *lines = headline.table(["name"], rows, "lfu").splitlines()
    assert header == "| name | lfu: tok/s, 80% interval |"
    assert lines == ["| a | 2 (1.5..2.5) |", "| b |  |", "| c |  |"]


def test_without_intervals_a_table_has_no_column_for_them() -> None:
    rows = [(["a"], Timed(2.0)), (["b"], None)]
    assert headline.table(["name"], rows, "lfu") == "| name |\n|---|\n| a |\n| b |"


# Clusters


def test_a_cluster_is_kept_or_dropped_whole_by_its_energy() -> None:
    torch = pytest.importorskip("torch")
    values = torch.tensor([[3.0, 0.0, -2.0, 2.0, 2.9, 0.1, 0.0, 0.0]])
    kept = headline.headline_losses.without_weak(0.5, 2, None, (values,))
    # squares: 9, 8, 8.42, 0
    assert kept.tolist() == [[3.0, 0.0, 0.0, 0.0, *values[0, 4:6].tolist(), 0.0, 0.0]]


def test_clusters_of_one_are_the_mask_of_dip() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from dipsim import lm
    from tools.tiny_models import tiny

    model, ids = tiny(), torch.arange(12).reshape(1, -1)
    with torch.no_grad():
        with lm.sparsify(model, "dip", density=0.6):
            sparse = model(ids, use_cache=False).logits
        with headline.headline_losses.clustered(model, 0.6, 1):
            alike = model(ids, use_cache=False).logits
        dense = model(ids, use_cache=False).logits
    assert torch.allclose(sparse, alike, atol=1e-6)
    assert not torch.allclose(dense, alike, atol=1e-4)


# The page


@pytest.mark.slow
def test_the_tables_of_the_page_are_what_the_script_makes() -> None:
    """Three of six: the others take the same runs and some minutes."""
    wide = headline.tiled(dipsim.load_trace("smollm2-chat"))
    made = {
        "flash": headline.flash(),
        "layouts": headline.by_layout(wide),
        "active": headline.by_active_memory(wide),
    }
    page = PAGE.read_text()
    assert page == headline.accuracy.filled(page, made)
