"""A device from its benchmarks: measurements and, if any, a profile in; a profile out."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from dipsim.calibrate.dram import measure_dram, measure_efficiency
from dipsim.calibrate.engines import EngineNumbers, measure_engines
from dipsim.calibrate.evidence import TimedRate
from dipsim.calibrate.flash import FlashNumbers, measure_flash
from dipsim.calibrate.geometry import Geometries
from dipsim.calibrate.measured import Measurements
from dipsim.calibrate.number import NumberChange, nested, text_before
from dipsim.disk.fit import Calibrated, Measured
from dipsim.errors import DipsimError, brief
from dipsim.flash.read_time import speed_of
from dipsim.hardware import Overrides, Profile, load_profile, override_pairs, override_texts
from dipsim.run import replay
from dipsim.simulate import prepare
from dipsim.timeline.interval import rate_interval
from dipsim.timeline.timing import rate_tokens
from dipsim.validate.predictors import bytes_of
from dipsim.validate.runs import Prediction, with_all_dram


class ComparedRate(NamedTuple):
    """A measured rate beside those that profiles say, in tokens per second."""

    backend: str
    model: str
    """Name that the benchmark gives it."""
    test: str
    """The test that was timed: ``pp512`` for a prompt, ``tg @ 64`` for tokens at a mean depth."""
    measured: float
    before: Prediction
    after: Prediction

    @property
    def error(self) -> float:
        """Relative error of the predicted time, with the new numbers."""
        return self.measured / self.after.value - 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        both = {"before": self.before._asdict(), "after": self.after._asdict()}
        what = {"backend": self.backend, "model": self.model, "test": self.test}
        return {**what, "measured": self.measured, **both}


@dataclass(frozen=True)
class CalibratedDevice:
    """A device as its benchmarks tell it: numbers, errors, what stayed and what was refused."""

    data: dict[str, Any]
    """The new numbers as sections of a profile, with their sources."""
    profile: Profile | None
    """With the new numbers; None where there was no profile, and the numbers alone are none."""
    numbers: tuple[NumberChange, ...]
    flash: FlashNumbers
    compared: tuple[ComparedRate, ...]
    kept: tuple[str, ...]
    """Numbers that stay as they were: a sentence each."""
    refused: tuple[str, ...]
    """Measurements that were left out: a sentence each."""
    estimates: tuple[str, ...]
    """Keys of the numbers of the measured backends that are estimates still."""
    reads: tuple[tuple[Measured, float], ...]
    """Each measured point, and the bandwidth that the profile said before; without one, none."""
    next: tuple[str, ...]
    """Keys of the numbers that widen the rates most, the widest first."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        curve = self.flash.curve
        return {
            "numbers": [number.to_dict() for number in self.numbers],
            "rates": [each.to_dict() for each in self.compared],
            "curve": None if curve is None else curve.to_dict(),
            "kept": [*self.kept],
            "refused": [*self.refused],
            "estimates": [*self.estimates],
            "next": [*self.next],
        }


def calibrate_device(
    measured: Measurements,
    extends: str | None = None,
    *,
    overrides: Overrides = (),
    models: Sequence[str] = (),
    backend: str | None = None,
    lanes: int | None = None,
    fit: bool = False,
) -> CalibratedDevice:
    """Make a profile's numbers of measurements.

    Args:
        extends: name or path of the profile that is changed; None makes one of the measurements
            alone, if they and ``overrides`` say enough.
        overrides: ``key=value`` texts: what nothing measured, and the user knows.
        models: ``NAME=FILE`` texts, see `Geometries`.
        backend: the one that all rates are of; default: found by unit and engine.
        lanes: reads that the runtime keeps in flight.
        fit: a formula for the flash instead of the points.

    Raises:
        DipsimError: nothing measured, several devices, too little for a profile, wrong options.
    """
    check_one_device(measured)
    before = None if extends is None else load_profile(extends)
    flash = measure_flash(measured.reads, measured.writes, before, fit=fit, lanes=lanes)
    dram, refused = measure_dram(measured, before)
    numbers = [*flash.numbers, *dram]
    start = _start(extends, numbers, overrides, measured)
    engines: list[EngineNumbers] = []
    profile = None
    if start is not None:
        numbers += _overridden(start, before, overrides)
        geometries = Geometries(models, measured.models)
        stated = override_pairs(overrides)
        engines, unused = measure_engines(start, measured.rates, geometries, backend, stated)
        refused += unused
        known = [number for engine in engines for number in engine.numbers]
        efficiency = _efficiency(measured, start, known)
        replaced = {number.key for number in efficiency}
        numbers += [number for number in known if number.key not in replaced] + efficiency
        profile = load_profile(_data(extends, numbers, engines))
    refused = [*dict.fromkeys([*measured.refused, *flash.refused, *refused])]
    if not any(number.source["kind"] == "measured" for number in numbers) and not flash.curve:
        why = [*refused, *(text for engine in engines for text in engine.kept)]
        raise DipsimError(brief(f"nothing to calibrate with: {'; '.join(why)}", 500))
    return CalibratedDevice(
        data=_data(extends, numbers, engines),
        profile=profile,
        numbers=tuple(numbers),
        flash=flash,
        compared=() if profile is None else _compared(engines, before, profile),
        kept=tuple(text for engine in engines for text in engine.kept),
        refused=tuple(refused),
        estimates=() if profile is None else _estimates(profile, engines),
        reads=() if before is None or flash.curve is None else _reads(flash.curve, before),
        next=() if profile is None else next_to_measure(profile, engines),
    )


def check_one_device(measured: Measurements) -> None:
    """Refuse measurements of several devices.

    Raises:
        DipsimError: two files of one program name different devices.
    """
    names: dict[str, tuple[str, str]] = {}
    for name, origin in measured.devices:  # one program names a processor, another a host
        one, first = names.setdefault(origin.tool, (name, origin.file))
        if one != name:
            raise DipsimError(
                f"two devices: {brief(one, 60)} in {first}, {brief(name, 60)} in {origin.file}: "
                "calibrate one at a time"
            )


def _start(
    extends: str | None,
    numbers: Sequence[NumberChange],
    overrides: Overrides,
    measured: Measurements,
) -> Profile | None:
    """Return the profile that engines are measured on; None where there is none to extend, and
    flash alone was measured.

    Raises:
        DipsimError: the measurements and overrides do not make a profile.
    """
    data = nested(numbers)
    if extends is not None:
        return load_profile({"name": extends, **data, "extends": extends}, overrides)
    if not measured.rates and not override_texts(overrides):
        return None
    stated = {number.key for number in numbers} | {*override_pairs(overrides)}
    missing = [key for key in ("dram.capacity", "dram.bandwidth") if key not in stated]
    if not any(key in stated for key in ("flash.reads", "flash.fit", "flash.bandwidth")):
        missing.append("flash.bandwidth")
    if missing or not measured.rates:
        lacks = ", ".join(missing) or "rates of a model"
        raise DipsimError(
            f"a profile of its own lacks {lacks}: measure it, state it with -s KEY=VALUE, or name "
            "a profile to --extends"
        )
    backends: dict[str, Any] = {}
    for rate in measured.rates:
        engine = {"engine": rate.case.engine} if rate.case.engine else {}
        backends.setdefault(rate.case.backend or "cpu", engine)
    return load_profile({"name": "measured", **data, "backends": backends}, overrides)


def _overridden(
    profile: Profile, before: Profile | None, overrides: Overrides
) -> list[NumberChange]:
    """Return the numbers that the user states, as the profile spells them."""
    stated = dict(profile.numbers())
    numbers = []
    for key, value in override_pairs(overrides).items():
        source = {"kind": "estimate", "from": f"stated to dipsim calibrate: {brief(value)}"}
        numbers.append(NumberChange(key, text_before(before, key), stated.get(key, value), source))
    return numbers


def _efficiency(
    measured: Measurements, device: Profile, known: Sequence[NumberChange]
) -> list[NumberChange]:
    """Return the share of the peak that the CPU reaches by memory benchmarks, for its backends of
    which no rate told it."""
    told = {number.key for number in known if number.source["kind"] == "measured"}
    names = [*device.backends, *(number.key.split(".")[1] for number in known)]
    cpus = [name for name in dict.fromkeys(names) if name.split("-")[0] == "cpu"]
    untold = [name for name in cpus if f"backends.{name}.dram_efficiency" not in told]
    return measure_efficiency(measured.transfers, device, untold)


def _data(
    extends: str | None, numbers: Sequence[NumberChange], engines: Sequence[EngineNumbers]
) -> dict[str, Any]:
    """Return the profile with all numbers, as a file states it."""
    data = {"name": "measured", **nested(numbers)}
    for engine in engines:
        section = data.get("backends", {}).get(engine.backend)
        if section is None:  # nothing was told of it
            continue
        name = engine.device.backends[engine.backend].engine
        if name is not None:
            data["backends"][engine.backend] = {"engine": name, **section}
    if extends is not None:
        data["extends"] = extends
        measured = [each for each in engines if each.backend in data.get("backends", {})]
        if measured:
            data["first"] = max(measured, key=fastest_of).backend
    return data


def fastest_of(engine: EngineNumbers) -> float:
    """Return the bytes per second that an engine reaches with the median of its decode rates; of
    prompts alone, 0."""
    decode = [each for each in engine.evidence if not each.is_prompt]
    reached = [bytes_of(each.run).size * each.rate.value for each in decode]
    return median(reached) if reached else 0.0


def _compared(
    engines: Sequence[EngineNumbers], before: Profile | None, profile: Profile
) -> tuple[ComparedRate, ...]:
    """Return each rate beside those that the profile says before and after."""
    rows = []
    profile, before = with_all_dram(profile), before and with_all_dram(before)
    for engine in engines:
        known = before is not None and engine.backend in before.backends
        for each in engine.evidence:
            old = each.run.on(before) if known and before is not None else each.run
            rows.append(
                ComparedRate(
                    engine.backend,
                    brief(str(each.rate.case.model), 40),
                    timed(each),
                    each.rate.value,
                    old.predict(),
                    each.run.on(profile).predict(),
                )
            )
    return tuple(rows)


def _reads(curve: Calibrated, before: Profile) -> tuple[tuple[Measured, float], ...]:
    """Return each point of a curve, and the bandwidth that a profile says."""
    pairs = []
    for point in curve.points:
        flash = before.flash.model_copy(update={"lanes": point.lanes})
        seconds = float(speed_of(flash).seconds(np.array([point.size]), point.lanes)[0])
        pairs.append((point, point.size / seconds))
    return tuple(pairs)


def timed(each: TimedRate) -> str:
    """Return what was timed, as llama-bench names it: a prompt, or tokens at a mean depth."""
    case = each.rate.case
    return f"pp{case.prompt}" if each.is_prompt else f"tg @ {case.depth}"


def _estimates(profile: Profile, engines: Sequence[EngineNumbers]) -> tuple[str, ...]:
    """Return the keys of the numbers that runs on the measured backends rest on, and that are
    estimates still."""
    names = {engine.backend for engine in engines} or {next(iter(profile.backends))}
    keys = []
    for key, _ in profile.numbers():
        section, *rest = key.split(".")
        source = profile.source(key)
        mine = section != "backends" or rest[0] in names
        if mine and section != "energy" and (source is None or source.kind == "estimate"):
            keys.append(key)
    return tuple(keys)


def next_to_measure(profile: Profile, engines: Sequence[EngineNumbers]) -> tuple[str, ...]:
    """Return the keys of the numbers that widen a rate most, the widest first: of the largest
    measured model in DRAM, then of the same with half of its weights in flash."""
    decode = [
        (engine, each) for engine in engines for each in engine.evidence if not each.is_prompt
    ]
    keys: list[str] = []
    if decode:
        engine, largest = max(decode, key=lambda pair: pair[1].run.run.budget.total)
        model: Any = largest.run.run.model
        name = engine.backend
        runs = [largest.run.on(with_all_dram(profile)).run]
    else:
        model, name, runs = _USUAL_MODEL, next(iter(profile.backends)), []
    half = prepare(
        None, profile, model=model, method="dense", backend=name, depth=_DEPTH, cache_fraction=0.5
    )
    for run in [*runs, half]:
        traffic = replay(run)
        interval = rate_interval(run, traffic, rate_tokens(run, traffic))
        keys += [] if interval is None else [each.key for each in interval.first_to_measure]
    return tuple(dict.fromkeys(keys))


_USUAL_MODEL, _DEPTH = "llama-3.2-1b", 512
