"""Numbers of devices, from what is known of them: facts, cases, and other devices.

``facts/`` holds what is known of a device beside the cases of `dipsim validate`, each number once,
with its kind and source. A number of a backend is, the first that there is: a fact that is measured
or a vendor's; fitted to the cases of that device, unit and engine; an estimate among the facts;
borrowed from another device, rates in proportion to DRAM. docs/CONTRIBUTING.md: how to add one.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from dipsim.errors import ProfileError
from dipsim.hardware import FIXED_COSTS, SPREADS, Profile, load_profile
from dipsim.model import DEFAULT_BITS, FORMAT_BITS
from dipsim.units import BANDWIDTH, COMPUTE
from dipsim.validate.cases import Case, Cases
from dipsim.validate.devices import backend_of, label_of, named
from dipsim.validate.evidence import errors_left_out, evidence_of, fit_anew, median_left_out
from dipsim.validate.fit import value_of

KINDS = ("measured", "vendor", "fitted", "estimate")
FACTS = ("measured", "vendor")
"""Kinds that go before what is fitted."""
ABOUT_DEVICES = (
    *("about", "extends", "summary", "default"),
    *("like", "chip", "cases", "backends"),
)
"""Keys of a device's facts that are no numbers."""
ABOUT_BACKENDS = ("engine", "kit", "borrow", "together", "without", "spreads", "notes")
"""Keys of a backend's facts that are no numbers."""
ORDER = (
    *("dram_efficiency", "compute", "per_layer", "per_mask", "per_score"),
    *("overlap_factor", "cache_copy", "active_power"),
)
"""Order of a backend's numbers, behind its rates."""
PROMPTS = ("prefill", "ttft")
"""Kinds of cases whose figure is of a prompt."""
MODELS_OF_LAYERS = 4
"""Fewest models that tell the fixed cost of a layer from the rates of bytes."""
NAMED_CASES = 2
"""Most cases that the source of a fitted number quotes; more are counted."""
_START = {"dram_efficiency": 0.5, "compute": "1 TFLOP/s", "per_layer": "0.3 ms"}
"""Numbers that a fit starts from; rates start from half of the DRAM's. It does not matter which."""
_SKELETON: Mapping[str, Any] = {
    "dram": {"capacity": "1 GB", "bandwidth": "1 GB/s"},
    "flash": {"bandwidth": "1 GB/s"},
}
"""The least that a profile holds beside its backends."""


@dataclass(frozen=True)
class Number:
    """A number as a profile states it, and its source."""

    value: Any
    kind: str
    origin: str
    more: Mapping[str, Any] = field(default_factory=dict)
    """Other keys of its source: ``spread``, ``cases``, ``left_out``."""
    shared: bool = False
    """True if what is said of it holds for every device that has it."""

    @property
    def source(self) -> dict[str, Any]:
        """The source as a profile states it."""
        return {"kind": self.kind, "from": self.origin, **self.more}

    def elsewhere(self, owner: str) -> "Number":
        """Return the number as it is assumed of another device than its ``owner``."""
        if self.kind == "estimate" or self.shared:
            return self
        return self.assumed(self.value, f"as of {owner}: {self.origin}; assumed here")

    def assumed(self, value: Any, origin: str) -> "Number":
        """Return an estimate made of the number, whose spread is no smaller than its own."""
        spread = self.more.get("spread", 0)
        more = {"spread": spread} if spread > SPREADS["estimate"] else {}
        return Number(value, "estimate", origin, more)


Numbers = dict[str, Number]
"""Numbers by their dotted keys."""


def nested(numbers: Numbers) -> dict[str, Any]:
    """Return the values of numbers as sections of a profile."""
    tree: dict[str, Any] = {}
    for key, number in numbers.items():
        top, dot, last = key.partition(".")
        if dot:
            tree.setdefault(top, {})[last] = number.value
        else:
            tree[top] = number.value
    return tree


class Devices:
    """Numbers of all devices.

    Args:
        facts: ``shared``, with ``numbers`` and ``kits``, and ``devices``, all by name.
        cases: what numbers of backends are fitted to.
    """

    def __init__(self, facts: Mapping[str, Any], cases: Cases) -> None:
        self._shared, self._kits = facts["shared"]["numbers"], facts["shared"]["kits"]
        self._facts: Mapping[str, Any] = facts["devices"]
        self._cases = cases
        self._made: dict[tuple[str, str], tuple[str, Numbers]] = {}

    @property
    def names(self) -> list[str]:
        """Names of all devices, sorted."""
        return sorted(self._facts)

    def facts(self, name: str) -> Mapping[str, Any]:
        """Return the facts of a device."""
        facts: Mapping[str, Any] = self._facts[name]
        return facts

    # Numbers outside backends ---------------------------------------------------------------------

    def outside(self, name: str) -> Numbers:
        """Return the numbers of a device outside its backends: its own, and those of the device
        that it is ``like``."""
        facts = self.facts(name)
        own: dict[str, Any] = {}
        for top, section in facts.items():
            if top not in ABOUT_DEVICES:
                alone = isinstance(section, str) or "is" in section
                own |= {top: section} if alone else {f"{top}.{k}": v for k, v in section.items()}
        numbers = {key: self._number(fact) for key, fact in own.items()}
        if "like" not in facts:
            return numbers
        owner = self.facts(facts["like"])["chip"]
        lent = self.outside(facts["like"])
        return {key: each.elsewhere(owner) for key, each in lent.items()} | numbers

    def _number(self, fact: Any) -> Number:
        """Return the number of a fact: its own, or a shared one by its name.

        Raises:
            ProfileError: it has no kind, or no value.
        """
        shared = isinstance(fact, str)
        stated = self._shared.get(fact) if shared else fact
        kinds = [kind for kind in KINDS if isinstance(stated, Mapping) and kind in stated]
        if len(kinds) != 1 or "is" not in stated:
            raise ProfileError(f"facts: {fact}: write {{is: VALUE, KIND: source}} or a shared name")
        more = {key: value for key, value in stated.items() if key not in ("is", kinds[0])}
        return Number(stated["is"], kinds[0], stated[kinds[0]], more, shared)

    def _dram(self, name: str) -> float:
        """Return the peak DRAM bandwidth of a device, in bytes/s."""
        return BANDWIDTH.parse(self.outside(name)["dram.bandwidth"].value)

    # Backends -------------------------------------------------------------------------------------

    def backends(self, name: str) -> dict[str, tuple[str, Numbers]]:
        """Return engine and numbers of a device's backends."""
        return {backend: self._backend(name, backend) for backend in self._backend_names(name)}

    def _backend_names(self, name: str) -> list[str]:
        """Return the backends of a device: those of the device that it is ``like``, and its own."""
        facts = self.facts(name)
        own = facts.get("backends", {})
        lent = self._backend_names(facts["like"]) if "like" in facts else []
        return [each for each in dict.fromkeys([*lent, *own]) if own.get(each, {}) is not None]

    def _own(self, name: str, backend: str) -> Mapping[str, Any]:
        """Return the facts of a device's backend."""
        facts: Mapping[str, Any] = self.facts(name).get("backends", {}).get(backend, {})
        return facts

    def _donor(self, name: str, backend: str) -> tuple[str, str] | None:
        """Return device and backend that a backend takes its numbers from, None for none: what
        ``borrow`` says, else the backend of the same name of the device that it is ``like``."""
        stated, like = self._own(name, backend).get("borrow"), self.facts(name).get("like")
        if stated is None and like is not None and backend in self._backend_names(like):
            return like, backend
        device, _, unit = (stated or "none").partition(" ")
        return (device, unit) if unit else None

    def _engine(self, name: str, backend: str) -> str:
        """Return the engine of a backend: its own, else that of its donor."""
        own, donor = self._own(name, backend), self._donor(name, backend)
        if "engine" in own or donor is None:
            return str(own.get("engine", ""))
        return self._engine(*donor)

    def _backend(self, name: str, backend: str) -> tuple[str, Numbers]:
        """Return engine and numbers of a backend."""
        if (name, backend) not in self._made:
            self._made[name, backend] = self._make(name, backend)
        return self._made[name, backend]

    def _make(self, name: str, backend: str) -> tuple[str, Numbers]:
        """Work out engine and numbers of a backend."""
        own = self._own(name, backend)
        facts = {**self._kits.get(own.get("kit"), {}), **own}
        facts |= {f"gemv.{stored}": fact for stored, fact in facts.pop("gemv", {}).items()}
        share = facts.pop("dram_efficiency", None)
        if not (isinstance(share, Mapping) and "of" in share):
            facts |= {} if share is None else {"dram_efficiency": share}
            share = None
        stated = {
            key: self._number(fact) for key, fact in facts.items() if key not in ABOUT_BACKENDS
        }
        numbers = self._lent(name, backend) | stated
        numbers |= self._fitted(name, backend, numbers, stated)
        if share is not None:
            numbers["dram_efficiency"] = self._share(name, share, numbers)
        return self._engine(name, backend), _in_order(numbers)

    def _lent(self, name: str, backend: str) -> Numbers:
        """Return the numbers that a backend takes from its donor: rates in proportion to DRAM."""
        donor = self._donor(name, backend)
        if donor is None:
            return {}
        engine, numbers = self._backend(*donor)
        lender = f"{engine} on {self.facts(donor[0])['chip']}"
        dram, of_donor = self._dram(name), self._dram(donor[0])
        ratio = f"{dram / 1e9:.4g} / {of_donor / 1e9:.4g} GB/s"
        lent = {}
        for key, number in numbers.items():
            lent[key] = number.elsewhere(lender)
            if _scales(key) and (dram != of_donor or number.kind != "estimate"):
                unit = COMPUTE if key == "compute" else BANDWIDTH
                value = _shown(key, unit.parse(number.value) * dram / of_donor)
                lent[key] = number.assumed(value, f"{lender}, in proportion to DRAM, {ratio}")
        return lent

    def _share(self, name: str, fact: Mapping[str, Any], numbers: Numbers) -> Number:
        """Return the share of the DRAM bandwidth that the rate ``of`` a format is."""
        stored, chip = fact["of"], self.facts(name)["chip"]
        rate, dram = BANDWIDTH.parse(numbers[f"gemv.{stored}"].value), self._dram(name)
        text = f"that of {stored} on {chip}, {rate / 1e9:.3g} of {dram / 1e9:.4g} GB/s"
        more = {key: value for key, value in fact.items() if key != "of"}
        share = float(f"{rate / dram:.2g}")
        return Number(share, "estimate", f"{text}; for other formats assumed", more)

    # Fits -----------------------------------------------------------------------------------------

    def _fitted(self, name: str, backend: str, numbers: Numbers, stated: Numbers) -> Numbers:
        """Return the numbers of a backend that cases tell and that no better fact states.

        Args:
            numbers: stated and borrowed ones.
            stated: of them, those that are facts.
        """
        own = self._own(name, backend)
        told = self._told(self._cases_of(name, backend), together="together" in own)
        better = {key for key, number in stated.items() if number.kind in FACTS}
        told = {key: ids for key, ids in told.items() if key not in better}
        if not told:
            return {}
        profile = self._profile(name, backend, numbers | self._start(name, told))
        runs = {case.id for case in evidence_of(profile, backend, self._cases)}
        told = {key: tuple(each for each in ids if each in runs) for key, ids in told.items()}
        start = self._start(name, {key: ids for key, ids in told.items() if ids})
        profile = self._profile(name, backend, numbers | start)
        profile, missing = fit_anew(profile, backend, self._cases)
        errors = errors_left_out(profile, backend, self._cases)
        return {
            key: self._fit(key, value_of(profile, backend, key), told[key], errors[key], own)
            for key in start
            if key not in missing
        }

    def _start(self, name: str, told: Mapping[str, tuple[str, ...]]) -> Numbers:
        """Return numbers that a fit starts from, with the cases that tell them."""
        rate = _shown("gemv", self._dram(name) / 2)
        return {
            key: Number(_START.get(key, rate), "fitted", "to be fitted", {"cases": list(ids)})
            for key, ids in told.items()
        }

    def _fit(
        self, key: str, value: float, ids: Sequence[str], errors: Sequence[float], own: Any
    ) -> Number:
        """Return a fitted number.

        Args:
            errors: of `errors_left_out`.
            own: facts of its backend.
        """
        more = {
            "cases": list(ids),
            "left_out": median_left_out(errors),
            "spread": own.get("spreads", {}).get(key),
        }
        more = {about: stated for about, stated in more.items() if stated is not None}
        quoted = self._quoted(ids, own.get("notes", {}).get(key, ""))
        return Number(_shown(key, value), "fitted", quoted, more)

    def _profile(self, name: str, backend: str, numbers: Numbers) -> Profile:
        """Return the profile that a backend's numbers are fitted in."""
        section = {"engine": self._engine(name, backend) or None, **nested(numbers)}
        outside = self.outside(name)
        sources = {key: number.source for key, number in outside.items()}
        sources |= {f"backends.{backend}.{key}": each.source for key, each in numbers.items()}
        tree = {**nested(outside), "name": name, "backends": {backend: section}}
        return load_profile({**tree, "sources": sources})

    def _cases_of(self, name: str, backend: str) -> list[Case]:
        """Return the measured cases of a device's backend that are predicted.

        They are those whose profile is the device, unless its facts say of which profile they are,
        and what the device's text must hold.
        """
        wanted = self.facts(name).get("cases", {"profile": name})
        without = self._own(name, backend).get("without", {})
        chosen = []
        for case in self._cases.facts:
            stated = "profile" in case.model_fields_set
            profile = case.profile if stated else named(case.device, self._facts)
            counts = case.id in self._cases.measured and not case.not_predicted
            if not counts or case.id in without or profile != wanted["profile"]:
                continue
            known = backend_of(case, self._engines[name])
            if wanted.get("device", "") in case.device and known == (backend, True):
                chosen.append(case)
        return chosen

    @cached_property
    def _engines(self) -> dict[str, Profile]:
        """Profiles that know the backends of devices, and their engines, alone."""
        devices = {}
        for name in self.names:
            backends = {
                backend: {"engine": self._engine(name, backend) or None}
                for backend in self._backend_names(name)
            }
            if backends:
                devices[name] = load_profile({**_SKELETON, "name": name, "backends": backends})
        return devices

    def _told(self, cases: list[Case], together: bool) -> dict[str, tuple[str, ...]]:
        """Return the numbers that cases tell, each with the ids of its cases.

        Args:
            together: all formats reach one share of the DRAM bandwidth.
        """
        told: dict[str, list[Case]] = {}
        tokens = [case for case in cases if case.kind in ("decode", "streaming")]
        for case in tokens:
            if together or case.stored_as is not None:
                key = "dram_efficiency" if together else f"gemv.{case.stored_as}"
                told.setdefault(key, []).append(case)
        dense = [case for case in tokens if case.kind == "decode"]
        if len({label_of(case, self._cases.models) for case in dense}) >= MODELS_OF_LAYERS:
            told["per_layer"] = dense
        prompts = [case for case in cases if case.kind in PROMPTS]
        told |= {"compute": prompts} if prompts else {}
        return {key: tuple(case.id for case in some) for key, some in told.items()}

    def _quoted(self, ids: Sequence[str], note: str) -> str:
        """Return the sentence that says what a number was fitted to.

        Args:
            note: what else a reader must know; may be empty.
        """
        cases = [case for case in self._cases.facts if case.id in ids]
        if len(cases) > NAMED_CASES:
            models = {label_of(case, self._cases.models) for case in cases}
            devices, pages = (dict.fromkeys(map(each, cases)) for each in (_device, _page))
            told = f"{len(cases)} runs of {len(models)} models on {', '.join(devices)}"
            quoted = f"{told} ({', '.join(pages)})"
        else:
            quoted = "; ".join(
                f"{'prompt of ' if case.kind in PROMPTS else ''}{case.model} at "
                f"{self._cases.measured[case.id]:.4g} {case.unit} on {_device(case)} "
                f"({_page(case)})"
                for case in cases
            )
        return f"{quoted}; {note}" if note else quoted


def _device(case: Case) -> str:
    """Return the device of a case, up to a bracket or a comma."""
    return re.split(r" ?[(,;]", case.device)[0]


def _page(case: Case) -> str:
    """Return the name of the repository, or of the page, that a case's source begins with."""
    words = case.source.split() or ["no source"]
    return words[0].partition("@")[0].split("/")[-1] if "/" in words[0] else " ".join(words[:2])


def _scales(key: str) -> bool:
    """Return whether another device has a backend's number in proportion to its DRAM."""
    return key == "compute" or key.startswith("gemv.")


def _shown(key: str, value: float) -> Any:
    """Return a number of a backend as a profile states it, to three digits."""
    if key == "dram_efficiency":
        return float(f"{value:.3g}")
    if key in FIXED_COSTS:
        return f"{value * 1e3:.3g} ms"
    if key != "compute":
        return f"{value / 1e9:.3g} GB/s"
    return f"{value / 1e12:.3g} TFLOP/s" if value >= 1e11 else f"{value / 1e9:.3g} GFLOP/s"


def _in_order(numbers: Numbers) -> Numbers:
    """Return a backend's numbers in the order in which profiles state them: formats by bits.

    Raises:
        ProfileError: a key that no backend has.
    """
    formats = [key for key in numbers if key.startswith("gemv.")]
    formats.sort(key=lambda key: (FORMAT_BITS.get(key[5:], DEFAULT_BITS), key))
    order = [*formats, *(key for key in ORDER if key in numbers)]
    unknown = {*numbers} - {*order}
    if unknown:
        raise ProfileError(f"facts: {', '.join(sorted(unknown))}: no number of a backend")
    return {key: numbers[key] for key in order}
