"""Runs drawn at random: small traces on slow devices and shipped ones, and dense runs without."""

from collections.abc import Mapping
from random import Random
from typing import Any, NamedTuple

import numpy as np

import dipsim
from dipsim.flash.read_time import with_times
from dipsim.hardware import Profile, load_profile
from tools import three_layers

EXPERTS, CHOSEN = 8, 2
SHIPPED = ("snapdragon8elite", "snapdragon8gen3", "raspberrypi5", "m1max", "apple-a18", "tensor-g4")
MODELS = ("smollm2-135m", "llama-3.2-1b", "gemma-2-2b")
LAYOUTS: Mapping[str, tuple[str | None, ...]] = {
    "dense": (None, "row", "bundle"),
    "glu": (None, "bundle", "row", "permuted"),
    "dip": (None, "column", "row", "permuted"),
    "dip-ca": (None, "column", "row", "permuted"),
    "moe": (None, "expert"),
}
"""Layouts that store the units of a method."""


class Setting(NamedTuple):
    """A trace, or None for a dense model without one, on a device, with options."""

    trace: dict[str, Any] | None
    profile: Profile
    options: dict[str, Any]

    def run(self, overrides: Mapping[str, str] | None = None, **options: Any) -> dipsim.Result:
        """Simulate it with other numbers of the device, and other options."""
        given = {**self.options, **options}
        return dipsim.simulate(self.trace, self.profile, overrides=overrides or {}, **given)

    def seconds(self, overrides: Mapping[str, str] | None = None, **options: Any) -> float:
        """Return the mean seconds of a token."""
        return float(self.run(overrides, **options).timing.times.latency.mean())

    def using(self, **options: Any) -> "Setting":
        """Return the same with other options."""
        return self._replace(options={**self.options, **options})

    @property
    def backend(self) -> str:
        """Key of the backend that computes."""
        return f"backends.{self.profile.backend(None)[0]}"

    def with_flash(self, factor: float) -> "Setting":
        """Return the same on a flash ``factor`` times as fast at reads of every size."""
        flash = self.profile.flash
        if flash.reads:
            flash = with_times(flash, lambda _, seconds: seconds / factor)
        elif flash.bandwidth is not None:
            flash = flash.model_copy(update={"bandwidth": flash.bandwidth * factor})
        else:
            assert flash.fit is not None, "a flash has a speed"
            names = ("bandwidth", "cap", "iops")
            update = {name: getattr(flash.fit, name) * factor for name in names}
            fit = flash.fit.model_copy(update={**update, "t0": flash.fit.t0 / factor})
            flash = flash.model_copy(update={"fit": fit})
        return self._replace(profile=self.profile.model_copy(update={"flash": flash}))


def draw_setting(draw: Random, methods: tuple[str, ...] | None = None) -> Setting:
    """Draw a run; without ``methods``, dense ones without a trace too."""
    kinds = methods or ("dense", "glu", "dip", "dip-ca", "moe", "none", "none")
    method = draw.choice(kinds)
    shipped = draw.random() < 0.4
    options = _options(draw, method)
    if method == "none":
        profile = load_profile(draw.choice(SHIPPED)) if shipped else draw_device(draw)
        model = draw.choice(MODELS) if shipped else three_layers.MODEL
        return Setting(None, profile, {**options, "method": "dense", "model": model})
    if shipped:
        unit_bytes = draw.choice((4e3, 1e5, 5e6))
        trace = draw_trace(draw, method, unit_bytes)
        return Setting(trace, load_profile(draw.choice(SHIPPED)), {**options, "method": method})
    return Setting(draw_trace(draw, method), draw_device(draw), {**options, "method": method})


def _options(draw: Random, method: str) -> dict[str, Any]:
    """Draw the options of a run."""
    options: dict[str, Any] = {
        "cache_fraction": draw.choice((0.0, 0.3, 0.6, 0.9, 1.0)),
        "depth": draw.choice((0, 1, 30, 400)),
        "context": 500,
        "kv_bits": draw.choice((4, 8, 16)),
        "overlap": draw.choice(("serial", "pipelined", "pipelined")),
    }
    if method == "none":
        return {**options, "prompt": draw.choice((0, 5, 300)), "policy": "lru"}
    options["policy"] = draw.choice(("lru", "lfu", "none", "static"))
    options["layout"] = draw.choice(LAYOUTS[method])
    options["prefill"] = draw.choice((None, "stream", "cache"))
    options["reset"] = draw.choice(("never", "sequence"))
    if method in ("glu", "dip", "dip-ca"):
        options["density"] = draw.choice((0.75, 0.9))
    return options


def draw_trace(draw: Random, method: str, unit_bytes: float | None = None) -> dict[str, Any]:
    """Draw two sequences with prompts; units take ``unit_bytes``, else what their model says."""
    tokens = draw.choice((20, 24))
    arrays = three_layers.scores(draw.getrandbits(30), tokens)
    model = three_layers.MODEL
    if method == "moe":
        model = {**model, "experts": EXPERTS, "experts_per_token": CHOSEN}
        rng = np.random.default_rng(draw.getrandbits(30))
        logits = rng.normal(size=(1, 3, EXPERTS)) + rng.normal(size=(tokens, 3, EXPERTS))
        arrays = {name: arrays[name] for name in ("sequence", "phase")}
        arrays["expert"] = logits.astype(np.float32)
    meta: dict[str, Any] = {"model": model}
    if unit_bytes is not None:
        signals = [name for name in arrays if name in ("mlp_input", "glu", "expert")]
        meta["signals"] = {name: {"unit_bytes": unit_bytes} for name in signals}
    return {**arrays, "meta": meta}


def draw_device(draw: Random) -> Profile:
    """Draw a slow device; what a profile need not say is there or not."""
    dram = draw.uniform(300, 3000)
    backend = {
        "dram_efficiency": draw.uniform(0.3, 1),
        "overlap_factor": draw.choice((0.0, 0.45, 1.0)),
        "per_layer": f"{draw.choice((0, 0.05, 1))} s",
        "per_mask": f"{draw.choice((0, 0.05, 1))} s",
        "per_score": f"{draw.choice((0, 0.01))} s",
        "compute": draw.choice(("unlimited", f"{draw.uniform(100, 3000)} FLOP/s")),
        "cache_copy": draw.choice(("unlimited", f"{draw.uniform(100, 2000)} B/s")),
    }
    if draw.random() < 0.3:
        backend["gemv"] = {"q8_0": f"{draw.uniform(100, 2000)} B/s"}
    return load_profile(
        {
            "name": "drawn",
            "dram": {
                "capacity": "1 MB",
                "bandwidth": f"{dram} B/s",
                "background": f"{dram * draw.choice((0, 0, 0.2, 0.6))} B/s",
            },
            "flash": _flash(draw),
            "backends": {draw.choice(("cpu", "npu")): backend},
            "thermal": {
                "after": f"{draw.choice((0, 3, 50))} s",
                "flash": draw.uniform(0.3, 1),
                "compute": draw.uniform(0.3, 1),
            },
        }
    )


def _flash(draw: Random) -> dict[str, Any]:
    """Draw a flash: one bandwidth, measured points, or a formula."""
    align = draw.choice(("1 B", "8 B", "16 B"))
    speed = draw.choice((30, 100, 300))
    fault = {"seconds": f"{draw.uniform(1, 5)} s", "page": "512 B"}
    common = {"align": align, "lanes": draw.choice((1, 2, 4)), "fault": fault}
    form = draw.random()
    if form < 0.25:
        return {**common, "bandwidth": f"{speed} B/s"}
    if form < 0.4:
        fit = {"t0": f"{draw.uniform(0, 0.5)} s", "bandwidth": f"{speed} B/s", "p": 3.0}
        fit |= {"cap": f"{3 * speed} B/s", "sizes": ["16 B", "512 B"], "lanes": [1, 4]}
        return {**common, "fit": fit}
    reads = []
    for lanes in sorted(draw.sample((1, 2, 4), draw.randint(1, 3))):
        share = draw.uniform(0.3, 1.5) * lanes**0.5
        for size in (16, 64, 512):
            rate = speed * share * size / (size + draw.uniform(8, 64))
            reads.append({"size": f"{size} B", "lanes": lanes, "bandwidth": f"{rate} B/s"})
    return {**common, "reads": reads}
