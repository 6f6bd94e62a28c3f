"""The DIP paper's headline, replayed: Phi-3-Medium in 54 % of its memory (docs/headline.md).

    python docs/tables/headline.py [TRACE]     writes the tables of docs/headline.md

With a TRACE of SmolLM2-135M in place of the shipped one it prints them. Losses are those that
headline_losses.py and accuracy.py measured. Rates are of the trace tiled to Phi-3-Medium's shape:
layer l copies the real layer at the same relative depth; unit u copies the time series of real unit
u modulo their number, times a fixed random factor within 2 % that keeps copies from tying.
Token-to-token overlap and popularity are therefore the real model's; nothing is known of Phi-3's
own.
"""

import math
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import accuracy
import headline_losses
import numpy as np

import dipsim
from dipsim.kernels.draws import splitmix64

PAGE = Path(__file__).parent.parent / "headline.md"
PHI = dipsim.load_model("phi-3-medium", bits=4)
SMOL = dipsim.load_model("smollm2-135m", bits=4)
SIZES = {  # of the models that are timed; both leave their caches 36 % of the units
    "Phi-3-Medium": {"model": PHI, "dram": "54%", "context": 2048},
    "SmolLM2": {"model": SMOL, "dram": "80%", "context": 512},
}
WARMUP = 32  # tokens before those measured
PHONE, PAPER = "snapdragon8", "paper-a18"
OVERLAPS = {PAPER: "paper-serial", PHONE: "serial"}
LOSSES = (0.1, 0.5)
LAYOUT_DENSITIES = (0.7, 0.8, 0.9)
CLUSTER = headline_losses.CLUSTER
CLUSTERED = {"cluster": CLUSTER}
PERMUTED = {"layout": "permuted", "admission": "ranked"}
MILD, STRONG = ({"mlp_input": into, "glu": down} for into, down in headline_losses.GAMMAS)


def name_of(gamma: dict[str, float]) -> str:
    """dip-ca with its gammas, of the input and of the product."""
    return f"dip-ca {gamma['mlp_input']:g} / {gamma['glu']:g}"


@dataclass(frozen=True)
class Contender:
    """A row of the comparison at equal loss: what is timed, and whose losses it has."""

    method: str
    replayed: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)


CONTENDERS = {
    "dip": Contender("dip"),
    f"dip, cluster {CLUSTER}": Contender("dip", CLUSTERED, CLUSTERED),
    "dip, permuted, ranked": Contender("dip", PERMUTED),
    name_of(MILD): Contender("dip-ca", {"gamma": MILD}, {"gamma": MILD}),
    name_of(STRONG): Contender("dip-ca", {"gamma": STRONG}, {"gamma": STRONG}),
    "glu": Contender("glu"),
    "glu-oracle": Contender("glu-oracle"),
}


def fixed_rank(state, unit, token):  # type: ignore[no-untyped-def]
    """A rank that knows nothing of use: the same random units stay for ever."""
    return np.int64(splitmix64(np.uint64(unit)) >> np.uint64(1))


BLIND = dipsim.Policy("content-blind", rank=fixed_rank, admit="ranked")
COLUMNS: dict[str, dict[str, Any]] = {
    "content-blind": {"policy": BLIND},
    "lfu": {},
    "lfu, ranked": {"admission": "ranked"},
    "opt": {"policy": "opt"},
    name_of(MILD): {"method": "dip-ca", "gamma": MILD},
    name_of(STRONG): {"method": "dip-ca", "gamma": STRONG},
}


# Losses -------------------------------------------------------------------------------------------


@cache
def of_accuracy() -> list[Any]:
    """Rows of accuracy.json; the first is the dense model."""
    return accuracy.load()["rows"]


def dense_perplexity() -> float:
    """Perplexity of the dense model, without an adapter."""
    return float(of_accuracy()[0].value("perplexity"))


def points(method: str, settings: dict[str, Any]) -> dict[float, float]:
    """Perplexity by density as measured. Caches matter to dip-ca alone, which has its own."""
    judged = {}
    for row in headline_losses.load():
        figures = {"density": row["density"], "perplexity": row["perplexity"]}
        if row == {"method": method, **settings, **figures}:
            judged[row["density"]] = row["perplexity"]
    for row in () if settings else of_accuracy():
        known, options = row.value("perplexity"), dict(row.options)
        if row.place["method"] == method and known is not None and "split" not in options:
            judged[options["density"]] = known
    return dict(sorted(judged.items()))


def density_at(
    perplexities: dict[float, float], dense: float, loss: float
) -> tuple[float | None, str]:
    """Return the density at which a loss is met, and how it is written.

    Between measured points the logarithm of the loss is a straight line. Where even the lowest
    density costs less, it is that one (``< 0.5``); None where the highest costs more.
    """
    places = list(perplexities)
    logs = [math.log(max(value - dense, 1e-4)) for value in perplexities.values()]
    wanted = math.log(loss)
    if logs[-1] > wanted:
        return None, f"> {places[-1]:g}"
    costly = [i for i, log in enumerate(logs) if log > wanted]
    if not costly:
        return places[0], f"< {places[0]:g}"
    left = costly[-1]
    share = (logs[left] - wanted) / (logs[left] - logs[left + 1])
    density = places[left] + share * (places[left + 1] - places[left])
    return density, f"{density:.3f}"


# Replays ------------------------------------------------------------------------------------------


def tiled(source: dipsim.Trace) -> dipsim.Trace:
    """A trace of SmolLM2 in Phi-3-Medium's shape, float16."""
    layers = np.linspace(0, source.layers - 1, PHI.layers).round().astype(int)
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {"sequence": source.sequence}
    for name, units in (("mlp_input", PHI.hidden), ("glu", PHI.intermediate)):
        real = np.concatenate([rows[name] for _, _, rows in source.blocks({name: "scores"})])
        copies = np.arange(units) % real.shape[2]
        factor = rng.uniform(0.98, 1.02, units).astype(np.float32)
        wide = np.empty((len(real), PHI.layers, units), np.float16)
        for layer, origin in enumerate(layers):
            wide[:, layer] = real[:, origin][:, copies] * factor
        arrays[name] = wide
    return dipsim.load_trace(arrays)


def run(trace: dipsim.Trace, device: str, size: str = "Phi-3-Medium", **options: Any) -> Any:
    """Replay dip, or what the options say, in the memory of a size."""
    learned = options.get("layout") == "permuted"  # those tokens are the warm-up then
    settings = {"method": "dip", "warmup": 0 if learned else WARMUP, **SIZES[size], **options}
    return dipsim.simulate(trace, device, overlap=OVERLAPS[device], **settings)


def times(found: Any, dense: Any) -> str:
    """A rate against the dense one."""
    return f"{found.tokens_per_second / dense.tokens_per_second:.2f} x"


def table(header: list[str], rows: list[tuple[list[str], Any]], whose: str) -> str:
    """Return a table; with rates of one run a row, and their intervals, where those are known.

    Args:
        rows: cells, and the run whose interval is shown, or None.
        whose: which run that is.
    """
    known = [found and found.to_dict().get("tokens_per_second_interval") for _, found in rows]
    level = next((interval["level"] for interval in known if interval), None)
    if level is not None:
        header = [*header, f"{whose}: tok/s, {level:.0%} interval"]
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for (cells, found), interval in zip(rows, known, strict=True):
        shown = ""
        if interval:
            low, high = interval["low"], interval["high"]
            shown = f"{found.tokens_per_second:.3g} ({low:.3g}..{high:.3g})"
        lines.append(f"| {' | '.join([*cells, shown][: len(header)])} |")
    return "\n".join(lines)


# Tables -------------------------------------------------------------------------------------------


class Timed:
    """Rates against dense, in both sizes and on both devices."""

    def __init__(self, traces: dict[str, dipsim.Trace]) -> None:
        self.traces = traces
        self.places = [(size, device) for size in SIZES for device in (PHONE, PAPER)]
        self.dense = {place: self.of(place, method="dense") for place in self.places}

    def of(self, place: tuple[str, str], **options: Any) -> Any:
        """The run of a size on a device."""
        size, device = place
        return run(self.traces[size], device, size, **options)

    def rates(self, contender: Contender, density: float) -> tuple[list[str], Any]:
        """A contender's rates at a density, and its run in the first place."""
        options = {"method": contender.method, "density": density, **contender.replayed}
        found = [self.of(place, **options) for place in self.places]
        dense = [self.dense[place] for place in self.places]
        return [times(*pair) for pair in zip(found, dense, strict=True)], found[0]


def at_equal_loss(timed: Timed) -> str:
    """The density at which a method costs so much, and its rates there."""
    rows = []
    for name, contender in CONTENDERS.items():
        measured = points(contender.method, contender.measured)
        cells, shown = [name], None
        for loss in LOSSES:
            density, written = density_at(measured, dense_perplexity(), loss)
            rates = ["-"] * len(timed.places)
            if density is not None:
                rates, shown = timed.rates(contender, density)
            cells += [written, *rates]
        rows.append((cells, shown))
    header = ["lfu"]
    for loss in LOSSES:
        header += [f"D at +{loss:g}", *(f"{size}, {device}" for size, device in timed.places)]
    return table(header, rows, f"Phi-3-Medium, {PHONE}, +{LOSSES[-1]:g}")


def with_adapter(timed: Timed) -> str:
    """Return a sentence: the rate with an adapter, and without it at the same loss."""
    density, perplexity = next(iter(headline_losses.ADAPTED.items()))
    loss = perplexity - dense_perplexity()
    plain, written = density_at(points("dip", {}), dense_perplexity(), loss)
    assert plain is not None
    cells, _ = timed.rates(CONTENDERS["dip"], density)
    others, _ = timed.rates(CONTENDERS["dip"], plain)
    pairs = zip(timed.places, cells, others, strict=True)
    rates = ", ".join(f"{size} on `{device}` {one} ({two})" for (size, device), one, two in pairs)
    return (
        f"With the adapter dip costs +{loss:.2f} at D = {density:g}, without it at D = {written}; "
        f"rates with it (without): {rates}."
    )


def by_layout(trace: dipsim.Trace) -> str:
    """Ways to store and admit on the phone, measured behind the tokens an order is learned from."""
    after = {"warmup": trace.tokens // 2}
    dense = run(trace, PHONE, method="dense", **after)
    ways: dict[str, dict[str, Any]] = {
        "plain": after,
        f"cluster {CLUSTER}": {**CLUSTERED, **after},
        "permuted": {"layout": "permuted"},
        "permuted, ranked": PERMUTED,
    }
    rows = []
    for density in LAYOUT_DENSITIES:
        found = {name: run(trace, PHONE, density=density, **way) for name, way in ways.items()}
        cells = [f"{density:g}", *(times(one, dense) for one in found.values())]
        for settings in ({}, CLUSTERED):
            cells.append(f"{points('dip', settings)[density] - dense_perplexity():+.2f}")
        rows.append((cells, found["plain"]))
    costs = ["costs", f"costs, cluster {CLUSTER}"]
    return table(["D", *ways, *costs], rows, "plain")


def by_dram(trace: dipsim.Trace) -> str:
    """Second reading: 46 % less DRAM. Rates against streaming the dense model through the same."""
    rows = []
    for device in (PAPER, PHONE):
        dense = run(trace, device, method="dense")
        for density in (0.5, 0.7):
            found = {
                name: run(trace, device, density=density, **options)
                for name, options in COLUMNS.items()
            }
            cells = [device, f"{density:g}"]
            cells += [f"{times(one, dense)} ({one.hit_rate:.0%})" for one in found.values()]
            cells += [mass(found[name]) for name in ("lfu", name_of(MILD), name_of(STRONG))]
            cells.append(" / ".join(f"{share:.2f}" for share in found["lfu"].break_even[0]))
            rows.append((cells, found["lfu"]))
        rate = f"{dense.tokens_per_second:.3f} tok/s"
        rows.append(([device, "dense", rate, *[""] * 9], dense))
    kept = ["mass, dip", f"mass, {name_of(MILD)}", f"mass, {name_of(STRONG)}"]
    return table(["device", "D", *COLUMNS, *kept, "q*"], rows, "lfu")


def mass(found: Any) -> str:
    """Score mass kept, of the input and of the product."""
    return " / ".join(f"{share:.3f}" for share in found.mass_kept)


def by_active_memory(trace: dipsim.Trace) -> str:
    """First reading: memory is what a token touches; everything active is resident."""
    mlp = PHI.layers * 3 * PHI.matrix_bytes("gate")
    static = PHI.layers * PHI.attention_bytes + PHI.head_bytes + PHI.kv_bytes(2048, 16)
    perplexities = {**points("dip", {}), 1.0: dense_perplexity()}
    costs = {density: value - dense_perplexity() for density, value in perplexities.items()}
    rows = []
    for density in (0.40, 0.5, 0.7, 1.0):
        found = run(trace, PAPER, density=density)
        active = static + density * mlp
        less = f"{1 - active / (static + mlp):.0%}"
        loss = costs.get(density)
        lost = "-" if loss is None else f"{loss:+.2f}"
        cells = [f"{density:g}", f"{active / 1e9:.2f} GB", less, mass(found), lost]
        rows.append((cells, None))
    return table(["D", "active memory", "less than dense", "mass kept, dip", "costs"], rows, "")


def flash() -> str:
    """What the phone's flash curve rests on, in a sentence."""
    device = dipsim.load_profile(PHONE)
    curve = [
        f"{read.size / 1024:g} KiB at {read.bandwidth / 1e9:g} GB/s" for read in device.flash.reads
    ]
    origin = device.sources["flash.reads"].origin
    return f"`{PHONE}`: {len(curve)} points, {', '.join(curve)} ({origin})."


def tables(source: dipsim.Trace) -> dict[str, str]:
    """The tables of the page, in Markdown."""
    wide = tiled(source)
    timed = Timed({"Phi-3-Medium": wide, "SmolLM2": source})
    return {
        "flash": flash(),
        "equal loss": at_equal_loss(timed),
        "adapter": with_adapter(timed),
        "layouts": by_layout(wide),
        "active": by_active_memory(wide),
        "dram": by_dram(wide),
    }


def main() -> None:
    """Write the tables of the page, or print those of another trace."""
    if sys.argv[1:]:
        print("\n\n".join(tables(dipsim.load_trace(sys.argv[1])).values()))
        return
    shipped = tables(dipsim.load_trace("smollm2-chat"))
    PAGE.write_text(accuracy.filled(PAGE.read_text(), shipped))


if __name__ == "__main__":
    main()
