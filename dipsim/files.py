"""Files: shipped data, safe reading of YAML and JSON, writing whole or not at all.

Shipped profiles and traces sit at the top of the repository; a wheel carries them inside the
package. Both places are searched, so an editable install and a wheel behave alike.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

from dipsim.errors import DipsimError

_PACKAGE = Path(__file__).resolve().parent
_TEXT_LIMIT = 4 * 2**20
"""Largest YAML or JSON file that is read, in bytes: far above any real one."""
_BAD_YAML = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
# the last ones come out of yaml's constructors for malformed scalars such as "!!bool maybe"


def shipped(folder: str) -> Path:
    """Return a folder of shipped files, e.g. ``hardware_profiles`` or ``model/presets``."""
    inside = _PACKAGE / folder
    return inside if inside.is_dir() else _PACKAGE.parent / folder


def shipped_names(folder: str, suffix: str) -> list[str]:
    """Return the names (without ``suffix``) of the shipped files in ``folder``, sorted."""
    return sorted(path.name[: -len(suffix)] for path in shipped(folder).glob(f"*{suffix}"))


def find(given: str | os.PathLike[str], folder: str, suffix: str) -> Path | None:
    """Find a file by its path, or by the name of a shipped one; None when neither exists."""
    if not os.path.isfile(given) and str(given) in shipped_names(folder, suffix):
        return shipped(folder) / f"{given}{suffix}"
    return Path(given) if os.path.lexists(given) else None


def read_text(path: Path, error: type[DipsimError]) -> str:
    """Read a small UTF-8 text file.

    Raises:
        DipsimError: an ``error``, for a file that is not regular, too large or unreadable.
    """
    try:
        if not path.is_file():
            raise error(f"{path}: not a regular file")
        if path.stat().st_size > _TEXT_LIMIT:
            raise error(f"{path}: larger than {_TEXT_LIMIT} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"{path}: cannot be read ({_reason(problem)})") from None


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader that refuses aliases (they can grow without bound) and repeated keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        repeated = sorted({str(key) for key in keys if keys.count(key) > 1})
        if repeated:
            raise yaml.YAMLError(f"key {repeated[0]!r} stands there twice")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, error: type[DipsimError]) -> dict[str, Any]:
    """Read a YAML file that holds one mapping; tags that build objects and aliases are refused.

    Raises:
        DipsimError: an ``error`` of one line, for anything else.
    """
    text = read_text(path, error)
    try:
        data = yaml.load(text, Loader=_PlainLoader)  # noqa: S506 - a subclass of SafeLoader
    except _BAD_YAML as problem:
        raise error(f"{path}: not readable as YAML ({_reason(problem)})") from None
    if not isinstance(data, dict):
        raise error(f"{path}: expected a mapping of keys, got {type(data).__name__}")
    return data


def read_json(path: Path, error: type[DipsimError]) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        DipsimError: an ``error`` of one line, for anything else.
    """
    try:
        data = json.loads(read_text(path, error))
    except (ValueError, RecursionError) as problem:
        raise error(f"{path}: not readable as JSON ({_reason(problem)})") from None
    if not isinstance(data, dict):
        raise error(f"{path}: expected a JSON object, got {type(data).__name__}")
    return data


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open ``path`` for writing so that it appears complete or not at all."""
    handle = tempfile.NamedTemporaryFile(  # noqa: SIM115 - closed below, renamed after
        dir=path.parent, prefix=f".{path.name}.", delete=False
    )
    try:
        with handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(handle.name, 0o666 & ~umask())
        os.replace(handle.name, path)
    except BaseException:
        Path(handle.name).unlink(missing_ok=True)
        raise


def umask() -> int:
    """Return the permission bits that this process withholds from new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _reason(problem: BaseException) -> str:
    """Return the first line of an error's text, without the position lines that YAML adds."""
    mark = getattr(problem, "problem_mark", None)
    text = getattr(problem, "problem", None) or getattr(problem, "strerror", None) or str(problem)
    where = f", line {mark.line + 1}" if mark is not None else ""
    return str(text).strip().splitlines()[0] + where if str(text).strip() else "no detail"
