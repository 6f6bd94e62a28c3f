"""Key of a cell: the contents of all files that its options name, and every number they come to."""

from collections.abc import Mapping
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from dipsim import methods, policies
from dipsim.errors import ConflictError, DipsimError
from dipsim.model import load_model
from dipsim.model.hub import find_snapshot
from dipsim.model.packaged import packaged_model
from dipsim.plugins import name_and_parameters
from dipsim.settings import OPTIONS, make_settings
from dipsim.simulate import SEMANTICS
from dipsim.store import key_of
from dipsim.sweep.inputs import Inputs
from dipsim.sweep.loop import is_judged
from dipsim.sweep.spelling import alike
from dipsim.texts import read_text

_RUNS_FILE = {"policy": policies.runs_file, "method": methods.runs_file}


class CellKeys:
    """Keys of cells; what many cells share is read once.

    Args:
        inputs: opens traces and profiles.
    """

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._parts: dict[str, Any] = {}

    def of(self, options: Mapping[str, Any]) -> str:
        """Return the key of a run, the same wherever its files lie and whatever they are called.

        Args:
            options: arguments of `dipsim.simulate`.

        Raises:
            DipsimError: a file that cannot be read.
        """
        settings = {name: value for name, value in options.items() if name in OPTIONS}
        plain = _plain(settings)
        for name in ("policy", "method", "static_from", "warm_from", "prefetch"):
            if isinstance(plain[name], str):
                plain[name] = self._once(self._content, name, plain[name])
        plain = alike(plain)
        device = {name: options.get(name) for name in ("profile", "overrides")}
        parts = {
            "semantics": SEMANTICS,
            "profile": self._once(self._profile, device),
            "settings": plain,
        }
        if is_judged(options):
            return key_of({**parts, **self._judged(options)})
        trace, model = self._trace(options.get("trace")), options.get("model")
        return key_of({**parts, "trace": trace, "model": self._once(self._model, model)})

    def _judged(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parts of a key that a model in closed loop has: its weights, and its text."""
        plain = ("window", "text_tokens", "lora_steps", "requantise")
        return {
            **{name: options.get(name) for name in plain},
            "weights": self._once(_weights, options["model"]),
            "text": self._once(_text, options["text"]),
            "adapter": self._once(_weights, options.get("adapter")),
            "geometry": self._once(self._model, options.get("geometry")),
        }

    def _once(self, work_out: Any, *given: Any) -> Any:
        """Return what a function makes of plain values, worked out once."""
        key = key_of({work_out.__name__: given})
        if key not in self._parts:
            self._parts[key] = work_out(*given)
        return self._parts[key]

    def _trace(self, name: str | None) -> str | None:
        return None if name is None else self._inputs.trace(name).hash

    def _profile(self, device: Mapping[str, Any]) -> str:
        given = {name: value for name, value in device.items() if value is not None}
        return key_of(self._inputs.profile(given).model_dump(mode="json", by_alias=True))

    def _model(self, name: str | None) -> str | None:
        """Return the key of the model by option; the trace's own is among its contents."""
        if name is None:
            return None
        return key_of(load_model(self._inputs.model(name)).model_dump(mode="json"))

    def _content(self, option: str, given: str) -> str:
        """Return an option that names a file with what the file holds in place of its path."""
        if option in _RUNS_FILE:
            if not _RUNS_FILE[option](given):
                return given
            name, parameters = name_and_parameters(given)
            file, _, attribute = name.rpartition(":")
            return f"{attribute}:{parameters} of {_digest(Path(file))}"
        guesses = option == "prefetch" and (
            given in ("previous", "next-layer") or given.startswith("right=")
        )
        return given if guesses else f"trace {self._inputs.trace(given).hash}"


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain values of settings; of those that contradict each other as they are given.

    Raises:
        DipsimError: a value that no run can have.
    """
    try:
        return make_settings(settings).model_dump(mode="json")
    except ConflictError:
        return {**dict.fromkeys(OPTIONS), **settings}


def _weights(name: str | None) -> Any:
    """Return the digest of a model's file, or of each file of its folder.

    Raises:
        DipsimError: there is none, or it cannot be read.
    """
    if name is None:
        return None
    path = packaged_model(name) or Path(name)
    if not path.exists():
        path = find_snapshot(name) or path
    if not path.is_dir():
        return _digest(path)
    files = sorted(file for file in path.iterdir() if file.is_file())
    return {file.name: _digest(file) for file in files}


def _text(name: str) -> str:
    return sha256(read_text(name).encode()).hexdigest()


def _digest(file: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        DipsimError: it cannot be read.
    """
    try:
        with open(file, "rb") as handle:
            return file_digest(handle, "sha256").hexdigest()
    except OSError as problem:
        raise DipsimError(f"{file}: cannot be read ({problem.strerror})") from None
