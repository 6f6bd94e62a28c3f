"""The studies of the DIP paper (arXiv 2412.01380) that one repeats: what each of them varies.

All replay a trace open loop. The energy kept is a proxy, never accuracy: it compares runs of one
method at one stage, neither methods nor stages.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dipsim.analysis.ttft import by_prompt
from dipsim.analysis.ttft import points as prompts
from dipsim.errors import DipsimError, MethodError
from dipsim.hardware import Profile, load_profile
from dipsim.methods import BUILTIN, default_method
from dipsim.methods.contract import DEFAULT_DENSITY
from dipsim.methods.dip import split_density
from dipsim.model import Model
from dipsim.option import flag
from dipsim.policies import load_policies, load_policy
from dipsim.resolve import Source
from dipsim.result import Result
from dipsim.settings import PRUNING, concerning
from dipsim.simulate import Job
from dipsim.sweep.many import Ask, Figures, Found, Point, Progress, Study, run_study, served
from dipsim.trace import Trace, load_trace
from dipsim.units import BANDWIDTH, BYTES

DENSITIES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
GAMMAS = (1.0, 0.7, 0.5, 0.2)
DRAM = (0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0)
"""Shares of the model's bytes at its own bits."""
BANDWIDTHS = (0.5e9, 1e9, 2e9, 4e9, 8e9)
OVERLAPS = ("paper-serial", "paper-concurrent", "pipelined")
POLICIES = ("none", "lru", "lfu", "lfu-decay", "arc", "belady", "opt")
INPUT, DOWN = "mlp_input", "glu"
COMPRESSED: dict[str, dict[str, Any]] = {
    "dense-3bit": {"method": "dense", "bits": 3.0},
    "dense-2:4": {"method": "dense", "weights": "2:4"},
}
"""What competes with pruning at equal DRAM, in study dram."""
_EQUAL = {"dram": "60%"}
_STEP = 20
"""Input densities of study split are multiples of 1 / 20."""


# How the runs are made ----------------------------------------------------------------------------


def _density(ask: Ask) -> Iterator[Point]:
    for method in ask.methods:
        for density in (1.0,) if method == "dense" else DENSITIES:
            yield Point({"method": method, "density": density}, ask.run(method, density=density))


def _gamma(ask: Ask) -> Iterator[Point]:
    for first in GAMMAS:
        for second in GAMMAS:
            options = ask.run("dip-ca", gamma={INPUT: first, DOWN: second})
            yield Point({f"gamma.{INPUT}": first, f"gamma.{DOWN}": second}, options)


def _dram(ask: Ask) -> Iterator[Point]:
    for name in ask.methods:
        sizes = [f"{share:.0%}" for share in DRAM]
        if name in COMPRESSED:  # the same bytes, though the model takes fewer
            own = ask.model_bytes
            sizes = [BYTES.exact(share * own) for share in DRAM]
        for share, size in zip(DRAM, sizes, strict=True):
            options = ask.run(**COMPRESSED.get(name, {"method": name}), dram=size)
            yield Point({"method": name, "dram": share}, options)


def _flash(ask: Ask) -> Iterator[Point]:
    overlaps = [at for at in OVERLAPS if "compat" not in ask.options or at.startswith("paper")]
    for overlap in overlaps:
        for method in ask.methods:
            for bandwidth in BANDWIDTHS:
                override = f"flash.bandwidth={BANDWIDTH.exact(bandwidth)}"
                overrides = [*ask.options.get("overrides", ()), override]
                options = ask.run(method, overlap=overlap, overrides=overrides)
                at = {"overlap": overlap, "method": method, "flash_bandwidth": bandwidth}
                yield Point(at, options)


def _policies(ask: Ask) -> Iterator[Point]:
    (method,) = ask.methods
    if method not in PRUNING:
        raise MethodError(f"method {method} has no density to vary: use dipsim compare instead")
    for policy in ask.policies:
        for density in DENSITIES:
            options = ask.run(method, policy=policy, density=density)
            yield Point({"policy": load_policy(policy).label, "density": density}, options)


def _split(ask: Ask) -> Iterator[Point]:
    """Pairs with 3 D = 2 in + down, and the two that have a name."""
    density = ask.options["density"]
    named = {_densities({"density": density, "split": at})[0]: at for at in ("authors", "equal")}
    steps = (i / _STEP for i in range(1, _STEP + 1))
    even = [at for at in steps if 0 < round(3 * density - 2 * at, 9) <= 1]
    for entering in sorted({*even, *named}):
        down = round(3 * density - 2 * entering, 12)
        options = ask.run("dip", density=None, group_density={INPUT: entering, DOWN: down})
        at = {f"density.{INPUT}": entering, f"density.{DOWN}": down}
        yield Point({**at, "split": named.get(entering, "")}, options)


def _one(ask: Ask) -> Iterator[Point]:
    (method,) = ask.methods
    yield Point({}, ask.run(method))


def _variants(ask: Ask) -> Iterator[Point]:
    kept = _densities(ask.options)
    most = f"{(1 + max(kept)) / 2:.2f}"  # halfway between what is kept and everything
    exempt = f"{0.75 * min(kept):.2f}"
    yield Point({"variant": "dip, top-k"}, ask.run("dip"))
    yield Point({"variant": "dip, threshold"}, ask.run("dip", selection="threshold"))
    for masking in (
        "gamma",
        "gamma:warm_up=1",
        f"gamma:fixed_top_n={exempt}",
        "blend",
        f"approximate:top_m={most}",
        f"approximate:top_m={most},counts=0.5",
    ):
        changes = {"gamma": None} if masking.startswith("approximate") else {}
        yield Point({"variant": masking}, ask.run("dip-ca", masking=masking, **changes))


def _densities(options: Mapping[str, Any]) -> tuple[float, ...]:
    """Of both stages of dip."""
    if "group_density" in options:
        return tuple(options["group_density"].values())
    density = options["density"]
    if not 0 <= density <= 1:
        raise MethodError(f"density {density:g}: the share that is kept, from 0 to 1")
    return split_density(density, options.get("split", "authors"))


def _by_layer(job: Job, result: Result) -> Iterator[tuple[Mapping[str, Any], Figures]]:
    """A cell per group and layer, numbered as in the trace."""
    found, traffic = result.per_layer, result.traffic
    energy = traffic.energy[traffic.measured].mean(axis=0, dtype="float64")
    for i, group in enumerate(traffic.groups):
        for layer in range(job.work.trace.layers):
            place = layer, i
            accesses = int(found["accesses"][place])
            yield (
                {"group": group, "layer": job.work.trace.first_layer + layer},
                {
                    "hit_rate": int(found["hits"][place]) / accesses if accesses else 0.0,
                    "energy_kept": {group: float(energy[place])},
                    "flash_bytes_per_token": float(found["flash_bytes_per_token"][place]),
                    "flash_ms_per_token": float(found["flash_ms_per_token"][place]),
                    "capacity": None if traffic.capacity is None else int(traffic.capacity[place]),
                },
            )


# Which methods run --------------------------------------------------------------------------------


def _pruning(trace: Trace) -> tuple[str, ...]:
    """All that have a density, and dense."""
    return ("dense", *PRUNING)


def _usual(trace: Trace) -> tuple[str, ...]:
    own = default_method(trace)
    return (own,) if own == "moe" else tuple(dict.fromkeys(("dense", own, "dip-ca")))


def _competing(trace: Trace) -> tuple[str, ...]:
    usual = _usual(trace)
    return (*usual, *COMPRESSED) if "dense" in usual else usual


def _own(trace: Trace) -> tuple[str, ...]:
    return (default_method(trace),)


def _only(*names: str) -> Callable[[Trace], tuple[str, ...]]:
    return lambda _: names


_RATES = ("hit_rate", "flash_bytes_per_token", "tokens_per_second")
STUDIES = {
    study.name: study
    for study in (
        Study(
            "density",
            "methods at MLP densities from .3 to .9",
            axes=("method", "density"),
            figures=(
                "tokens_per_second",
                "hit_rate",
                "flash_bytes_per_token",
                "dram_bytes_per_token",
                "energy_kept",
            ),
            points=_density,
            x="density",
            series="method",
            grid=True,
            methods=_pruning,
            budget=_EQUAL,
            varies=("density", "group_density"),
            repeats="method",
        ),
        Study(
            "gamma",
            "how much dip-ca prefers what is in DRAM, at both stages",
            axes=(f"gamma.{INPUT}", f"gamma.{DOWN}"),
            figures=(
                "hit_rate",
                "energy_kept",
                "flash_bytes_per_token",
                "flash_reads_per_token",
                "tokens_per_second",
            ),
            points=_gamma,
            x=f"gamma.{DOWN}",
            series=f"gamma.{INPUT}",
            methods=_only("dip-ca"),
            varies=("method", "gamma"),
            profiles=("paper-a18", "snapdragon8"),
        ),
        Study(
            "dram",
            "DRAM from 25 to 100 % of the model, also for dense at 3 bits and 2:4",
            axes=("method", "dram"),
            figures=("tokens_per_second", "hit_rate"),
            points=_dram,
            x="dram",
            series="method",
            grid=True,
            methods=_competing,
            varies=concerning("budget"),
            repeats="method",
        ),
        Study(
            "flash",
            "flash from 0.5 to 8 GB/s, serial, concurrent and pipelined",
            axes=("overlap", "method", "flash_bandwidth"),
            figures=("tokens_per_second",),
            points=_flash,
            x="flash_bandwidth",
            series="method",
            apart=("overlap",),
            grid=True,
            methods=_usual,
            budget=_EQUAL,
            varies=("overlap",),
            repeats="method",
            note="Flash reads any size at the bandwidth given, as the paper's; a profile's own "
            "curve is not used.",
        ),
        Study(
            "policies",
            "policies at MLP densities from .3 to .9",
            axes=("policy", "density"),
            figures=_RATES,
            points=_policies,
            x="density",
            series="policy",
            grid=True,
            methods=_own,
            policies=POLICIES,
            varies=("density", "group_density"),
            repeats="policy",
        ),
        Study(
            "split",
            "the density of dip divided between the input and the down stage",
            axes=(f"density.{INPUT}", f"density.{DOWN}", "split"),
            figures=("energy_kept", *_RATES),
            points=_split,
            x=f"density.{INPUT}",
            methods=_only("dip"),
            varies=("method", "group_density", "split"),
        ),
        Study(
            "layers",
            "one run, layer by layer",
            axes=("group", "layer"),
            figures=("hit_rate", "energy_kept", "flash_bytes_per_token", "flash_ms_per_token"),
            points=_one,
            x="layer",
            series="group",
            methods=_own,
            read=_by_layer,
        ),
        Study(
            "variants",
            "dip and the ways dip-ca prefers what is in DRAM",
            axes=("variant",),
            figures=("energy_kept", *_RATES),
            points=_variants,
            x="variant",
            methods=_only("dip", "dip-ca"),
            varies=("method", "masking", "selection"),
        ),
        Study(
            "ttft",
            "time to the first token against the length of the prompt",
            axes=("prompt",),
            figures=("hit_rate", "prefill_ms", "first_token_ms", "ttft_ms", "cold_ttft_ms"),
            points=prompts,
            x="prompt",
            methods=_own,
            budget=_EQUAL,
            read=by_prompt,
            note="The prompt is one batch that streams every weight once. ttft: the first token as "
            "the trace's tokens on average; cold: as its first one, with nothing in DRAM before.",
        ),
    )
}


# Running one --------------------------------------------------------------------------------------


def load_study(name: str) -> Study:
    """A study by name.

    Raises:
        DipsimError: there is none of that name.
    """
    if name not in STUDIES:
        raise DipsimError(f"no study {name!r}: use one of {', '.join(STUDIES)}")
    return STUDIES[name]


def study(
    name: str,
    trace: Source | Trace,
    profiles: Sequence[Source | Profile] = (),
    *,
    methods: Sequence[str] = (),
    policies: Sequence[str] = (),
    model: Source | Model | None = None,
    overrides: Sequence[str] = (),
    progress: Progress = lambda done, total: None,
    **options: Any,
) -> Found:
    """Run a study.

    Args:
        name: one of `STUDIES`.
        profiles: devices; by default those of the study.
        methods: by default those of the study that the trace serves.
        policies: names or ``file.py:attribute``; by default lfu, or those of the study.
        model: as `simulate`.
        overrides: ``key=value`` texts for the profiles.
        progress: called with (runs done, runs).
        options: as `simulate`; they hold for all runs of methods that take them. Without a budget
            it is the study's.

    Raises:
        DipsimError: anything wrong with the input, in one line.
    """
    found = load_study(name)
    given = {key: value for key, value in options.items() if value is not None}
    _refuse(found, given, methods, policies, overrides)
    opened = load_trace(trace)
    devices = [load_profile(one) for one in profiles or found.profiles]
    names = [device.name for device in devices]
    if len(set(names)) < len(names):
        raise DipsimError(f"--profile {', '.join(names)}: name each device once")
    load_policies(policies)
    chosen = tuple(methods) or found.methods(opened)
    left_out = () if methods else tuple(at for at in chosen if not _serves(opened, at))
    runs = tuple(at for at in chosen if at not in left_out)
    if left_out and not set(runs) - {"dense", *COMPRESSED}:
        raise MethodError(
            f"study {name} runs {', '.join(left_out)}, by scores that {opened.name} does not hold "
            f"(it has {', '.join(opened.signals)}): choose another study or trace"
        )
    fixed = _fixed(found, given, runs)
    if overrides:
        fixed["overrides"] = list(overrides)
    if len(runs) == 1:
        fixed["method"] = runs[0]
    if found.repeats != "policy":
        fixed["policy"] = (policies or found.policies)[0]
    usual = tuple(policies) or found.policies
    asks = [Ask(opened, device, model, runs, usual, fixed) for device in devices]
    cells, unmeasured = run_study(found, asks, progress)
    return Found(found, opened, fixed, left_out, unmeasured, cells)


def _serves(trace: Trace, method: str) -> bool:
    return method in COMPRESSED or served(trace, method)


def _fixed(found: Study, given: Mapping[str, Any], runs: Sequence[str]) -> dict[str, Any]:
    """Options of all runs, with the defaults that studies have."""
    fixed = dict(given)
    if not {*given, *found.varies} & set(concerning("budget")):
        fixed |= found.budget
    prunes = any(method in PRUNING for method in runs)
    if prunes and "density" not in found.varies and not {"density", "group_density"} & set(given):
        fixed["density"] = DEFAULT_DENSITY
    return fixed


def _refuse(
    found: Study,
    given: Mapping[str, Any],
    methods: Sequence[str],
    policies: Sequence[str],
    overrides: Sequence[str],
) -> None:
    """Refuse what is an axis of the study, and methods that are none.

    Raises:
        DipsimError: in one line.
    """
    for name in found.varies:
        if name in given or (name == "method" and methods):
            raise DipsimError(f"{flag(name)}: study {found.name} sets it itself; drop it")
    if found.name == "gamma" and str(given.get("masking", "")).startswith("approximate"):
        raise DipsimError("--masking approximate has no gamma for study gamma to vary; drop it")
    if found.name == "flash" and any(at.strip().startswith("flash.bandwidth") for at in overrides):
        raise DipsimError("-s flash.bandwidth: study flash sets it itself; drop it")
    for what, names in (("method", methods), ("policy", policies)):
        if len(names) > 1 and found.repeats != what:
            raise DipsimError(f"--{what} {', '.join(names)}: study {found.name} runs one; name one")
        if len(set(names)) < len(names):
            raise DipsimError(f"--{what} {', '.join(names)}: name each once")
    known = [*BUILTIN, *(COMPRESSED if found.name == "dram" else ())]
    for method in methods:
        if method not in known:
            raise MethodError(f"no method {method!r}: use one of {', '.join(known)}")
