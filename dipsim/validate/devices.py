"""The profile, the backend and the model that a published run is predicted with."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from dipsim.errors import DipsimError
from dipsim.hardware import Profile, load_profile, profile_names
from dipsim.model import Model, load_model, model_names
from dipsim.validate.cases import Case, Cases, load_cases

_LEAST_NAME = 5
"""Fewest characters of a model's name that is looked for in a text."""
_VARIANTS = "pro|max|ultra|plus|elite|fe|gen"
"""Words behind a device's name that make it another device."""


def profile_of(case: Case) -> Profile | None:
    """Return the profile of a case, None for none.

    It is the one that the case names (null: none). Where it says nothing of a profile, it is the
    shipped one whose name begins the text of its device (see `named`), else that of a shipped case
    with the very same text.

    Raises:
        DipsimError: a profile that does not exist, or is wrong.
    """
    if isinstance(case.profile, Mapping):
        return load_profile(dict(case.profile))
    unstated = "profile" not in case.model_fields_set
    name = _shipped(case.device) or _of_same_text(case.device) if unstated else case.profile
    if name is None:
        return None
    try:
        return _loaded(name)
    except DipsimError as problem:
        raise DipsimError(f"case {case.id}: {problem}") from None


@cache
def _loaded(name: str) -> Profile:
    """Return a profile by its name or path, loaded once."""
    return load_profile(name)


def _plain(text: str) -> str:
    """Return the letters and digits of a text, in lower case."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


@cache
def _shipped(device: str) -> str | None:
    """Return the shipped profile that a device's text names; None for none."""
    return named(device, profile_names())


def named(device: str, profiles: Iterable[str]) -> str | None:
    """Return the longest of some profiles whose name a device's text begins with; None for none.

    Spaces and case do not matter. The name ends a word, and no word behind it makes it another
    device: an M1 Ultra is no M1.
    """
    known = []
    for name in profiles:
        parts = r"[\W_]*".join(re.findall(r"[a-z0-9]", name.lower()))
        if re.match(rf"[\W_]*{parts}(?![a-z0-9])(?![\W_]*({_VARIANTS})\b)", device.lower()):
            known.append(name)
    return max(known, key=len, default=None)


def _of_same_text(device: str) -> str | None:
    """Return the profile that a shipped case of a device with this text names; None for none."""
    same = (c.profile for c in shipped().facts if c.device == device != "" and c.profile)
    name = next(same, None)
    return name if isinstance(name, str) else None


def backend_of(case: Case, profile: Profile) -> tuple[str, bool]:
    """Return the backend of a profile that a case ran on, and whether its engine is the case's.

    Its unit is that of ``backend`` (or the backend of just that name), its engine the one that
    shares most of the words of ``engine``; without either the profile's first.
    """
    if case.backend in profile.backends and not case.engine:
        return case.backend, True
    unit = case.backend.split("-")[0]
    names = [name for name in profile.backends if not unit or name.split("-")[0] == unit]
    if not names:
        return next(iter(profile.backends)), False
    if case.backend in names:  # its own name goes before others on the unit
        names = [case.backend, *(name for name in names if name != case.backend)]
    wanted = _words(case.engine)
    engines = {name: _words(profile.backends[name].engine or "") for name in names}
    best = max(names, key=lambda name: (len(wanted & engines[name]), -len(engines[name])))
    if not wanted & engines[best]:
        return names[0], not wanted
    return best, True


def _words(text: str) -> set[str]:
    """Return the words of a text, in lower case."""
    return set(re.findall(r"[a-z0-9.]+", text.lower()))


def model_of(case: Case, models: Mapping[str, Mapping[str, Any]]) -> Model | None:
    """Return the geometry of a case's model: stated in the case or its file, else known to dipsim
    by a name that stands in the text; None for neither.

    Raises:
        DipsimError: a geometry that is wrong.
    """
    given: Any = case.model
    if isinstance(given, str):
        name = known_model(given)
        stated = models.get(given) or shipped().models.get(name or "")
        given = stated or name
    if given is None:
        return None
    try:
        return _model(given) if isinstance(given, str) else load_model(given)
    except DipsimError as problem:
        raise DipsimError(f"case {case.id}: {problem}") from None


@cache
def _model(name: str) -> Model:
    """Return a model by its name, loaded once."""
    return load_model(name)


def label_of(case: Case, models: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the label of a case's model, equal for models of one shape whatever they are called;
    the model's text where no geometry is known.

    Raises:
        DipsimError: a geometry that is wrong.
    """
    model = model_of(case, models)
    if model is None:
        return case.model.lower() if isinstance(case.model, str) else ""
    return f"{model.layers} x {model.hidden} x {model.intermediate}, {model.kv_heads} KV heads"


@cache
def known_model(text: str) -> str | None:
    """Return the longest name of a model known to dipsim that stands in a text; None for none.

    Known are the presets, and those whose geometries the shipped cases state.
    """
    plain = _plain(text)
    known = [*model_names(), *shipped().models]
    named = [name for name in known if len(name) >= _LEAST_NAME and _plain(name) in plain]
    return max(named, key=len, default=None)


@cache
def shipped() -> Cases:
    """Return the cases that dipsim carries."""
    return load_cases()
