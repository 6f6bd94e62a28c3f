"""Texts of pictures: none leaves the canvas, none lies on another, whatever the names and sizes."""

import json
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

import dipsim
from dipsim import load_trace
from dipsim.analysis.contours import contours
from dipsim.analysis.evaluate import Evaluation, judged
from dipsim.analysis.inspect import inspect
from dipsim.analysis.least import search_least
from dipsim.analysis.loss import Allowed
from dipsim.analysis.mrc import mrc
from dipsim.analysis.search import search_rate
from dipsim.analysis.study import study
from dipsim.errors import DipsimError
from dipsim.report import evaluate as of_evaluation
from dipsim.report import inspect as of_inspection
from dipsim.report import mrc as of_curves
from dipsim.report import plan as of_a_plan
from dipsim.report import run as of_run
from dipsim.report import search as of_search
from dipsim.report import study as of_study
from dipsim.report import validate as of_measurements
from dipsim.report.files import check_plot
from dipsim.report.pictures import COLOURS, Sheet, label, plain, short, trace_name
from dipsim.simulate import simulate
from dipsim.validate import Case, Judged, Validation
from dipsim.validate.runs import Prediction
from tools import three_layers
from tools.cli import Dipsim, done, refused
from tools.commands import flags_of, taking

LONG = "-".join(["a-name-that-somebody-gave"] * 4)
DEVICE = {**three_layers.DEVICE, "name": LONG, "dram": {"capacity": "5 kB", "bandwidth": "1 kB/s"}}
ROOMY = {"capacity": "20 MB"}
"""DRAM for the KV of long contexts."""
SIZES = [None, (2.0, 2.0), (9.0, 2.0), (18.0, 12.0)]
FEW_SIZES = SIZES[:2]
"""Of studies, whose many panels take long to lay out."""
Draw = Callable[[Sheet], Any]


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A trace in a file with a long name."""
    arrays = three_layers.scores(1, 24)
    path = tmp_path_factory.mktemp("traces") / f"{LONG}.npz"
    meta = json.dumps(arrays.pop("meta"))
    np.savez(path, meta=np.array(meta), **arrays)
    return load_trace(path)


def of_a_run(trace: Any) -> Draw:
    result = simulate(trace, DEVICE, policy="lru", cache="900 B")
    return lambda sheet: of_run.plot(result, sheet)


def of_policies(trace: Any) -> Draw:
    names = ["lru", "lfu", "arc", "opt", *(f"lfu-decay:half_life={1e5 + i}" for i in range(4))]
    curves = mrc(trace, names)
    return lambda sheet: of_curves.plot(curves, sheet)


def of_losses(trace: Any) -> Draw:
    found = search_rate(trace, DEVICE, Allowed(0.2), ["dip-ca"], cache_fraction=0.5)
    return lambda sheet: of_search.plot(found, sheet)


def of_least(trace: Any) -> Draw:
    found = search_least(trace, DEVICE, "flash-bandwidth", 0.02, cache_fraction=0.5)
    return lambda sheet: of_search.plot(found, sheet)


def of_contours(trace: Any) -> Draw:
    found = contours(trace, DEVICE, ("dram", "flash-bandwidth"), 6)
    return lambda sheet: of_search.plot(found, sheet)


def of_a_trace(trace: Any) -> Draw:
    found = inspect(trace)
    return lambda sheet: of_inspection.plot(found, sheet)


def of_methods(trace: Any) -> Draw:
    rows = [judged("dense", {}, perplexity=12.3, tokens_per_second=3.0, density=1.0)]
    for i, method in enumerate(["dip", "dip-ca", "glu", "gate", "up", "cats", "teal", "predictor"]):
        for share in (0.3, 0.6):
            figures = {"perplexity": 12.4 + 40 * i * share, "density": 1 - share}
            options = {"dram": f"{share:.0%} of what there is of memory"}
            rows.append(judged(method, options, tokens_per_second=9.0 + i - share, **figures))
    found = Evaluation(LONG, 1000, 100, LONG, tuple(rows))
    return lambda sheet: of_evaluation.plot(found, sheet)


def of_untimed(trace: Any) -> Draw:
    rows = [judged("dense", {}, perplexity=12.3, density=1.0)]
    rows += [judged("dip", {}, perplexity=12.3 + 1 / n, density=n / 10) for n in range(3, 10)]
    found = Evaluation(LONG, 1000, 100, None, tuple(rows))
    return lambda sheet: of_evaluation.plot(found, sheet)


def of_study_named(name: str) -> Callable[[Any], Draw]:
    def draw(trace: Any) -> Draw:
        found = study(name, trace, [DEVICE], tokens="0:8")
        return lambda sheet: of_study.plot(found, sheet)

    return draw


def of_validation(_: Any) -> Draw:
    cases = [
        Judged(
            case=Case(id=f"{n}", kind="decode", engine=f"{n % 3} {LONG}"),
            measured=10.0 * n,
            prediction=Prediction(9.0 * n, 5.0 * n, 16.0 * n),
            counted=True,
        )
        for n in range(1, 9)
    ]
    return lambda sheet: of_measurements.plot(Validation(tuple(cases)), sheet)


def of_plan(_: Any) -> Draw:
    model = {**dipsim.load_model("smollm2-135m").model_dump(exclude_none=True), "name": LONG}
    device = dipsim.load_profile("snapdragon8").model_copy(update={"name": LONG})
    found = dipsim.plan(model, device, context=256, dram=240e6, target_rate=50.0)
    return lambda sheet: of_a_plan.plot(found, sheet)


PICTURES: dict[str, Callable[[Any], Draw]] = {
    "run": of_a_run,
    "mrc": of_policies,
    "search a loss": of_losses,
    "search the least": of_least,
    "search contours": of_contours,
    "inspect": of_a_trace,
    "eval on a device": of_methods,
    "eval": of_untimed,
    "validate": of_validation,
    "plan": of_plan,
    **{f"study {name}": of_study_named(name) for name in ("density", "policies", "split")},
}


def test_every_command_that_draws_is_here() -> None:
    assert {name.split()[0] for name in PICTURES} == set(taking("--plot")) - {"compare"}


# Texts --------------------------------------------------------------------------------------------


def ticks(axis: Any) -> Iterator[Text]:
    """Yield the labels of the ticks that are drawn."""
    low, high = sorted(axis.get_view_interval())
    slack = 1e-9 * (high - low)
    for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
        if low - slack <= tick.get_loc() <= high + slack:
            yield from (tick.label1, tick.label2)


def texts(figure: Figure) -> Iterator[Text]:
    """Yield all texts of a figure that are drawn."""
    if figure._suptitle is not None:  # type: ignore[attr-defined]
        yield figure._suptitle  # type: ignore[attr-defined]
    legends = list(figure.legends)
    for axes in figure.axes:
        yield from (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts)
        for axis in (axes.xaxis, axes.yaxis):
            yield from ticks(axis)
            yield axis.get_offset_text()
        legends += [axes.get_legend()] if axes.get_legend() is not None else []
    for legend in legends:
        yield from (*legend.get_texts(), legend.get_title())


def boxes(figure: Figure) -> list[tuple[str, Bbox]]:
    """Return what each text says and where it stands, less half a point at each side."""
    figure.draw_without_rendering()
    shown = (text for text in texts(figure) if text.get_visible() and text.get_text().strip())
    slim = -0.5 * figure.dpi / 72
    return [(text.get_text(), text.get_window_extent().padded(slim)) for text in shown]


def faults(figure: Figure) -> list[str]:
    """Return texts that leave the canvas, and pairs that overlap."""
    placed = boxes(figure)
    assert len(placed) > 5
    canvas = figure.bbox
    found = [
        f"{text!r} leaves the canvas"
        for text, box in placed
        if not (canvas.contains(box.x0, box.y0) and canvas.contains(box.x1, box.y1))
    ]
    for (text, box), (other, another) in combinations(placed, 2):
        if box.overlaps(another):
            found.append(f"{text!r} lies on {other!r}")
    return found


def picture(name: str) -> Any:
    """A picture to test; most are slow tests."""
    alike = name not in ("run", "mrc", "eval")
    return pytest.param(name, marks=pytest.mark.slow if alike else [])


@pytest.mark.parametrize("name", [picture(name) for name in PICTURES])
def test_no_text_is_cut_or_lies_on_another(name: str, trace: Any) -> None:
    draw = PICTURES[name](trace)
    for size in FEW_SIZES if name.startswith("study") else SIZES:
        figure = draw(Sheet(None, size))
        assert faults(figure) == [], size
        assert size is None or tuple(figure.get_size_inches()) == size


def test_the_check_sees_faults() -> None:
    figure = Figure(figsize=(4, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1])
    figure.suptitle("a heading")
    assert faults(figure) == []
    axes.text(0.5, 0.5, "one")
    axes.text(0.5, 0.51, "two")
    figure.suptitle("far too wide " * 20)
    assert {"'one' lies on 'two'"} < set(faults(figure))
    assert any("leaves the canvas" in fault for fault in faults(figure))


@pytest.mark.parametrize("name", ["run", "mrc", "inspect", "search the least", "eval"])
def test_series_have_the_colours_of_all_pictures(name: str, trace: Any) -> None:
    from matplotlib.colors import to_hex

    figure = PICTURES[name](trace)(Sheet())
    lines = [line for axes in figure.axes for line in axes.lines]
    known = {colour.lower() for colour in COLOURS} | {"#7f7f7f", "#808080", "#999999", "#000000"}
    assert {to_hex(line.get_color()) for line in lines} <= known


def test_names_in_pictures() -> None:
    assert short("lru") == "lru"
    assert short(LONG, 20) == f"{LONG[:10]}…{LONG[-9:]}"
    assert len(short(LONG, 20)) == 20
    assert plain("$x$") == r"\$x\$"
    assert label("$" * 40, 20) == r"\$" * 10 + "…" + r"\$" * 9
    assert trace_name("/traces/smollm2-chat.npz") == "smollm2-chat"
    assert trace_name("shards/") == "shards"


# Sizes --------------------------------------------------------------------------------------------


def test_every_command_that_draws_takes_a_size() -> None:
    assert taking("--plot")
    for name in taking("--plot"):
        assert flags_of(name) >= {"--size", "--dpi"}


@pytest.mark.parametrize(("size", "dpi"), [("4x3", 50), ("2.5x2", 100)])
def test_a_picture_has_the_size_that_was_asked_for(
    dipsim: Dipsim, tmp_path: Path, size: str, dpi: int
) -> None:
    from matplotlib.image import imread

    file = tmp_path / "p.png"
    done(dipsim(f"mrc t.npz --policy lru --plot {file} --size {size} --dpi {dpi}"))
    width, height = (dpi * float(side) for side in size.split("x"))
    assert imread(file).shape[:2] == (round(height), round(width))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--size 8x4", ["--size 8x4", "--plot FILE"]),
        ("--dpi 100", ["--dpi 100", "--plot FILE"]),
        ("--plot p.png --size 8", ["--size '8'", "8x4"]),
        ("--plot p.png --size wide", ["--size 'wide'", "8x4"]),
        ("--plot p.png --size 0x4", ["0x4", "2 to 40"]),
        ("--plot p.png --size 8x400", ["8x400", "2 to 40"]),
        ("--plot p.png --size nanx4", ["nanx4", "2 to 40"]),
        ("--plot p.png --dpi 1", ["--dpi 1", "20 to 1200"]),
        ("--plot p.png --dpi 100000", ["--dpi 100000", "20 to 1200"]),
        ("--plot p.png --size 40x40 --dpi 1200", ["40x40", "1200", "at most 100 million"]),
    ],
)
@pytest.mark.parametrize("line", ["mrc t.npz", "inspect t.npz", "run t.npz -p phone.yaml"])
def test_an_impossible_size_is_refused(
    dipsim: Dipsim, line: str, options: str, said: list[str]
) -> None:
    refused(dipsim(f"{line} {options}"), *said)
    assert not Path("p.png").exists()


def test_sizes_are_judged_for_python_too() -> None:
    with pytest.raises(DipsimError, match="2 to 40 inches"):
        check_plot(None, (50, 4))
    assert check_plot(None, (5, 4), 100) is None
