"""The studies of the DIP paper (arXiv 2412.01380) that one repeats: what each of them varies.

All replay a trace open loop. The energy kept is a proxy, never accuracy: it compares runs of one
method at one stage, neither methods nor stages.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Unpack

from dipsim.analysis import study_beside
from dipsim.analysis.ttft import by_prompt
from dipsim.analysis.ttft import points as prompts
from dipsim.errors import DipsimError, MethodError, ModelError, brief, check_text
from dipsim.hardware import Profile, load_profile, override_texts
from dipsim.keywords import StudyOptions, lists_options
from dipsim.lists import several, several_names
from dipsim.methods import BUILTIN, default_method, kind_of, load_methods, runs_file
from dipsim.methods.contract import DEFAULT_DENSITY
from dipsim.methods.dip import split_density
from dipsim.option import flag
from dipsim.policies import Policy, load_policy
from dipsim.replay.replay import Progress
from dipsim.resolve import Input
from dipsim.result import Result
from dipsim.settings import HAVE_DENSITY, OWN, PRUNING, concerning, make_settings
from dipsim.sweep.point import Figures, Place, Point
from dipsim.sweep.study import Ask, Study, StudyResult, run_study, served
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
"""Rivals of pruning at equal DRAM, in study dram."""
_EQUAL = {"dram": "60%"}
NAMED_SPLITS = ("authors", "equal")
_STEP = 20
"""Input densities of study split are multiples of 1 / 20."""


# How the runs are made ----------------------------------------------------------------------------


def _density(ask: Ask) -> Iterator[Point]:
    for method in ask.methods:
        for density in (1.0,) if method == "dense" else DENSITIES:
            yield ask.point({"method": method, "density": density}, method, density=density)


def _gamma(ask: Ask) -> Iterator[Point]:
    for first in GAMMAS:
        for second in GAMMAS:
            place = {f"gamma.{INPUT}": first, f"gamma.{DOWN}": second}
            yield ask.point(place, "dip-ca", gamma={INPUT: first, DOWN: second})


def _dram(ask: Ask) -> Iterator[Point]:
    for name in ask.methods:
        sizes = [f"{share:.0%}" for share in DRAM]
        if name in COMPRESSED:  # the same bytes, though the model takes fewer
            own = _model_bytes(ask)
            sizes = [BYTES.exact(share * own) for share in DRAM]
        for share, size in zip(DRAM, sizes, strict=True):
            options = COMPRESSED.get(name, {"method": name})
            yield ask.point({"method": name, "dram": share}, **options, dram=size)


def _model_bytes(ask: Ask) -> float:
    """Return the bytes of all weights at the model's own bits.

    Raises:
        ModelError: no model.
    """
    model = ask.model_of("dense", weights=None)
    if model is None:
        raise ModelError(f"{ask.trace.name} names no model to take shares of: pass --model")
    return model.total_bytes


def _flash(ask: Ask) -> Iterator[Point]:
    for overlap in OVERLAPS:
        if "compat" in ask.options and not overlap.startswith("paper"):
            continue
        for method in ask.methods:
            for bandwidth in BANDWIDTHS:
                override = f"flash.bandwidth={BANDWIDTH.exact(bandwidth)}"
                overrides = [*ask.options.get("overrides", ()), override]
                place = {"overlap": overlap, "method": method, "flash_bandwidth": bandwidth}
                yield ask.point(place, method, overlap=overlap, overrides=overrides)


def _policies(ask: Ask) -> Iterator[Point]:
    (method,) = ask.methods
    if kind_of(method) not in HAVE_DENSITY:
        raise MethodError(f"method {method} has no density to vary: use dipsim compare instead")
    for policy in ask.policies:
        label = load_policy(policy).label
        for density in DENSITIES:
            place = {"policy": label, "density": density}
            yield ask.point(place, method, policy=policy, density=density)


def _split(ask: Ask) -> Iterator[Point]:
    """Yield pairs of densities with 3 D = 2 in + down, and the two pairs that have a name."""
    density = ask.options["density"]
    named = {_densities({"density": density, "split": name})[0]: name for name in NAMED_SPLITS}
    steps = (i / _STEP for i in range(1, _STEP + 1))
    even = [step for step in steps if 0 < round(3 * density - 2 * step, 9) <= 1]
    for entering in sorted({*even, *named}):
        down = round(3 * density - 2 * entering, 12)
        place = {
            f"density.{INPUT}": entering,
            f"density.{DOWN}": down,
            "split": named.get(entering, ""),
        }
        yield ask.point(place, "dip", density=None, group_density={INPUT: entering, DOWN: down})


def _one(ask: Ask) -> Iterator[Point]:
    (method,) = ask.methods
    yield ask.point({}, method)


def _variants(ask: Ask) -> Iterator[Point]:
    kept = _densities(ask.options)
    most = f"{(1 + max(kept)) / 2:.2f}"  # halfway between what is kept and everything
    exempt = f"{0.75 * min(kept):.2f}"
    yield ask.point({"variant": "dip, top-k"}, "dip")
    yield ask.point({"variant": "dip, threshold"}, "dip", selection="threshold")
    for masking in (
        "gamma",
        "gamma:warm_up=1",
        f"gamma:fixed_top_n={exempt}",
        "blend",
        f"approximate:top_m={most}",
        f"approximate:top_m={most},counts=0.5",
    ):
        changes = {"gamma": None} if masking.startswith("approximate") else {}
        yield ask.point({"variant": masking}, "dip-ca", masking=masking, **changes)


def _densities(options: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the densities of both stages of dip."""
    if "group_density" in options:
        given = make_settings({"group_density": options["group_density"]})
        return tuple(given.group_density.values())
    density = options["density"]
    if not 0 <= density <= 1:
        raise MethodError(f"density {density:g}: the share that is kept, from 0 to 1")
    return split_density(density, options.get("split", "authors"))


def _by_layer(result: Result) -> Iterator[tuple[Place, Figures]]:
    """Yield a cell per group and layer, numbered as in the trace."""
    layers, traffic = result.per_layer, result.traffic
    energy = traffic.energy[traffic.measured].mean(axis=0, dtype="float64")
    for i, group in enumerate(traffic.groups):
        for layer in range(result.run.trace.layers):
            place = layer, i
            accesses = int(layers["accesses"][place])
            yield (
                {"group": group, "layer": result.run.trace.first_layer + layer},
                {
                    "hit_rate": int(layers["hits"][place]) / accesses if accesses else 0.0,
                    "energy_kept": {group: float(energy[place])},
                    "flash_bytes_per_token": float(layers["flash_bytes_per_token"][place]),
                    "flash_ms_per_token": float(layers["flash_ms_per_token"][place]),
                    "capacity": None if traffic.capacity is None else int(traffic.capacity[place]),
                },
            )


# Which methods run --------------------------------------------------------------------------------


def _pruning(trace: Trace) -> tuple[str, ...]:
    """Return dense, and all methods that have a density."""
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
            figures=(
                *("hit_rate", "experts_used"),
                *("prefill_ms", "first_token_ms", "ttft_ms", "cold_ttft_ms"),
            ),
            points=prompts,
            x="prompt",
            methods=_own,
            budget=_EQUAL,
            read=by_prompt,
            note="The prompt is one batch that streams every weight once, of experts those that as "
            "many rows of the trace are sent to: prompt rows, then decode rows, as far as there "
            "are any. ttft: the first token as the trace's tokens on average; cold: as its first "
            "one, with nothing in DRAM before.",
        ),
        *study_beside.STUDIES,
    )
}


# Running one --------------------------------------------------------------------------------------


def load_study(name: str) -> Study:
    """Return a study by name.

    Raises:
        DipsimError: there is none of that name.
    """
    if not isinstance(name, str) or name not in STUDIES:
        raise DipsimError(f"no study {brief(repr(name))}: use one of {', '.join(STUDIES)}")
    return STUDIES[name]


@lists_options
def study(
    name: str,
    trace: Input | Trace,
    profiles: Input | Profile | Sequence[Input | Profile] = (),
    *,
    methods: str | Sequence[str] = (),
    policies: str | Policy | Sequence[str | Policy] = (),
    progress: Progress | None = None,
    **options: Unpack[StudyOptions],
) -> StudyResult:
    """Run a study of the DIP paper.

    Args:
        name: one of `STUDIES`.
        trace: path, name of a shipped trace, arrays, or a `Trace`.
        profiles: a device, or several; by default those of the study.
        methods: names or ``file.py:attribute``; by default those of the study that the trace
            serves.
        policies: names, ``file.py:attribute`` or objects; by default lfu, or those of the study.
            Texts of methods and policies may be comma lists, as on the command line.
        progress: called with (runs done, runs).
        options: they hold for all runs of methods that take them. Without a budget it is the
            study's.

    Raises:
        DipsimError: anything wrong with the input, in one line.
    """
    wanted = load_study(name)
    methods, policies = several_names(methods), several_names(policies)
    for method in methods:
        check_text("methods", method, "a name, or file.py:attribute")
    model, overrides = options.pop("model", None), override_texts(options.pop("overrides", ()))
    given = {key: value for key, value in options.items() if value is not None}
    labels = [load_policy(policy).label for policy in policies]
    _refuse(wanted, given, methods, labels, overrides)
    opened = load_trace(trace).kept()
    devices = [load_profile(profile) for profile in several(profiles) or wanted.profiles]
    names = [device.name for device in devices]
    if len(set(names)) < len(names):
        raise DipsimError(f"--profile {', '.join(names)}: name each device once")
    runs, left_out = _methods(wanted, opened, methods)
    fixed = _fixed(wanted, given, runs)
    if overrides:
        fixed["overrides"] = list(overrides)
    if len(runs) == 1:
        fixed["method"] = runs[0]
    chosen = tuple(policies) or wanted.policies
    if wanted.repeats != "policy":
        fixed["policy"] = chosen[0]
    asks = [Ask(opened, device, model, runs, chosen, fixed) for device in devices]
    cells, unmeasured = run_study(wanted, asks, progress)
    shown = [load_profile(device, overrides) for device in devices]
    return StudyResult(wanted, opened, fixed, left_out, unmeasured, cells, shown)


def _methods(
    study: Study, trace: Trace, methods: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the methods that run, and those of the study that the trace does not serve.

    Args:
        methods: those the user named.

    Raises:
        MethodError: the trace serves none of them.
    """
    if methods:
        return tuple(methods), ()
    usual = study.methods(trace)
    left_out = tuple(name for name in usual if not _serves(trace, name))
    runs = tuple(name for name in usual if name not in left_out)
    if left_out and not set(runs) - {"dense", *COMPRESSED}:
        raise MethodError(
            f"study {study.name} runs {', '.join(left_out)}, by scores that {trace.name} does not "
            f"hold (it has {', '.join(trace.signals)}): choose another study or trace"
        )
    return runs, left_out


def _serves(trace: Trace, method: str) -> bool:
    return method in COMPRESSED or served(trace, method)


def _fixed(study: Study, given: Mapping[str, Any], runs: Sequence[str]) -> dict[str, Any]:
    """Return the options of all runs, with the defaults that studies have."""
    fixed = dict(given)
    if not {*given, *study.varies} & set(concerning("budget")):
        fixed |= study.budget
    prunes = any(kind_of(method) in HAVE_DENSITY for method in runs)
    if prunes and "density" not in study.varies and not {"density", "group_density"} & set(given):
        fixed["density"] = DEFAULT_DENSITY
    return fixed


def _refuse(
    study: Study,
    given: Mapping[str, Any],
    methods: Sequence[str],
    policies: Sequence[str],
    overrides: Sequence[str],
) -> None:
    """Refuse what is an axis of the study, and methods that are none.

    Raises:
        DipsimError: in one line.
    """
    for name in study.varies:
        if name in given or (name == "method" and methods):
            raise DipsimError(f"{flag(name)}: study {study.name} sets it itself; drop it")
    if study.name == "gamma" and str(given.get("masking", "")).startswith("approximate"):
        raise DipsimError("--masking approximate has no gamma for study gamma to vary; drop it")
    if study.name == "flash" and any(
        text.strip().startswith("flash.bandwidth") for text in overrides
    ):
        raise DipsimError("-s flash.bandwidth: study flash sets it itself; drop it")
    for what, names in (("method", methods), ("policy", policies)):
        if len(names) > 1 and study.repeats != what:
            raise DipsimError(f"--{what} {', '.join(names)}: study {study.name} runs one; name one")
        if len(set(names)) < len(names):
            raise DipsimError(f"--{what} {', '.join(names)}: name each once")
    more = COMPRESSED if study.name == "dram" else {}
    for method in methods:
        if method not in (*BUILTIN, *more) and not runs_file(method):
            known = ", ".join([*BUILTIN, *more])
            raise MethodError(f"no method {method!r}: use one of {known}, or {OWN}")
    load_methods([method for method in methods if method not in more])
