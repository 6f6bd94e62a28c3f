"""Texts that repeat a run, to be copied: a command line, YAML for a sweep, a call from Python."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from dipsim.errors import DipsimError, printable
from dipsim.hardware import load_profile
from dipsim.option import flag
from dipsim.report.page.model import Code
from dipsim.report.page.saved import Config
from dipsim.resolve import WITHOUT_TRACE
from dipsim.settings import OPTIONS

_NAMED = ("trace", "profile", "model", "overrides")
"""Arguments of `dipsim.simulate` that are no settings."""


def command_line(options: Mapping[str, Any]) -> str:
    """Return ``dipsim run`` with the arguments of a call of `dipsim.simulate`.

    Every word is quoted where a shell would take it for more than a name.
    """
    words = ["dipsim", "run"]
    trace = options.get("trace")
    if trace is not None:
        name = _name(trace)
        words.append(f"./{name}" if name.startswith("-") else name)
    for key, option in (("profile", "-p"), ("model", "--model")):
        if options.get(key) is not None:
            words += [option, _name(options[key])]
    for override in _overrides(options.get("overrides")):
        words += ["-s", override]
    for key, value in settings_of(options).items():
        words.append(f"{flag(key)}={_text(value)}" if _dashed(value) else flag(key))
        words += [] if _dashed(value) else [_text(value)]
    return shlex.join(map(printable, words))


def codes(options: Mapping[str, Any]) -> list[Code]:
    """Return the three forms in which the arguments of `dipsim.simulate` can be copied."""
    return [
        Code("Command line", command_line(options)),
        Code("YAML, for a sweep", _yaml(options)),
        Code("Python", _python(options)),
    ]


def settings_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings among some arguments that are not their defaults.

    Method and policy stay in any case, and what is no setting of this version is left out.
    """
    return {
        name: value
        for name, value in options.items()
        if name in OPTIONS
        and value is not None
        and (name in ("method", "policy") or value != OPTIONS[name].default)
    }


def options_of(config: Config) -> tuple[dict[str, Any], list[str]]:
    """Return the arguments that repeat a saved run, and what they do not hold, in sentences.

    A device and a model are named; `dipsim run --config` repeats them as they were.
    """
    trace = config.trace.get("name")
    options: dict[str, Any] = {"trace": None if trace == WITHOUT_TRACE else trace}
    options["profile"] = config.profile.get("name")
    remarks = []
    if not _shipped(config.profile):
        remarks.append(
            "The device is no shipped profile, or was changed: its name alone does not repeat the "
            "run, dipsim run --config with the file of the result does."
        )
    if config.model_given and config.model is not None:
        options["model"] = config.model.get("name") or "MODEL"
        remarks.append(
            "The model was an option: where its name is no preset of yours, dipsim run --config "
            "with the file of the result repeats it."
        )
    return {**options, **config.settings}, remarks


def _shipped(profile: Mapping[str, Any]) -> bool:
    """Return whether a profile is the shipped one of its name."""
    try:
        known = load_profile(str(profile.get("name")))
        return known == load_profile(profile)
    except DipsimError:
        return False


def _name(value: Any) -> str:
    """Return how a trace, profile or model is called."""
    return str(value.get("name", "-")) if isinstance(value, Mapping) else str(value)


def _overrides(given: Any) -> list[str]:
    if isinstance(given, Mapping):
        return [f"{key}={value}" for key, value in given.items()]
    return list(map(str, given)) if isinstance(given, list | tuple) else []


def _text(value: Any) -> str:
    """Return the value of an option as the command line takes it."""
    if isinstance(value, Mapping):
        return ",".join(
            _text(inner) if key == "*" else f"{key}={_text(inner)}" for key, inner in value.items()
        )
    return value if isinstance(value, str) else json.dumps(value)


def _dashed(value: Any) -> bool:
    """Return whether a value would be taken for an option."""
    return _text(value).startswith("-")


def _shown(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments worth showing, traces and devices by name, all texts harmless."""
    named = {
        key: _overrides(options[key]) if key == "overrides" else _name(options[key])
        for key in _NAMED
        if options.get(key)
    }
    return {key: _harmless(value) for key, value in {**named, **settings_of(options)}.items()}


def _harmless(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {printable(str(key)): _harmless(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_harmless(inner) for inner in value]
    return printable(value) if isinstance(value, str) else value


def _yaml(options: Mapping[str, Any]) -> str:
    return yaml.safe_dump(_shown(options), sort_keys=False, allow_unicode=True, width=1000).strip()


def _python(options: Mapping[str, Any]) -> str:
    shown = _shown(options)
    trace, profile = shown.pop("trace", None), shown.pop("profile", None)
    given = [repr(trace), repr(profile), *(f"{key}={value!r}" for key, value in shown.items())]
    return f"import dipsim\n\nresult = dipsim.simulate({', '.join(given)})"
