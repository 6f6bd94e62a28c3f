"""Files: shipped data, safe reading of YAML and JSON, writing whole or not at all.

Shipped profiles and traces sit at the top of the repository; a wheel carries them inside the
package. Both places are searched, so an editable install and a wheel behave alike.
"""

import difflib
import errno
import glob
import itertools
import json
import os
import re
import secrets
import shutil
import stat
import weakref
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Literal

import yaml

from dipsim.errors import DipsimError, not_taken, printable

try:
    import fcntl
except ModuleNotFoundError:  # Windows: nothing is locked there, and nothing taken for stale
    fcntl = None  # type: ignore[assignment]

_PACKAGE = Path(__file__).resolve().parent
_TEXT_LIMIT = 4 * 2**20
"""Largest YAML or JSON file that is read, in bytes: far above any real one."""
_DIGITS = 8
"""Random hexadecimal digits in the name of a hidden file."""
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


Kind = Literal[
    "a trace",
    "one array",
    "an archive",
    "a GGUF model",
    "a model folder",
    "a folder",
    "weights",
    "a pickle",
    "a model config",
    "a result",
    "a profile",
    "a model",
    "a routing log",
    "a table",
    "lines of JSON",
    "a text",
]
_HEAD = 2**16
"""Bytes by which the kind of a text file is judged."""
_TEXT_KINDS: tuple[tuple[Kind, str], ...] = (
    ("a routing log", r"\A# *route_trace"),
    ("a result", r'\A\s*\{(?s:.*)"tokens_per_second"'),
    ("a model config", r'\A\s*\{(?s:.*)"(model_type|architectures)"'),
    ("a profile", r"(?m)^(dram|flash|backends|extends)\s*:"),
    ("a model", r"(?m)^(layers|hidden|intermediate)\s*:"),
    ("lines of JSON", r"\A\s*\{.*\}[ \t\r]*\n\s*\{"),
)
_SUFFIX_KINDS: dict[str, Kind] = {
    ".safetensors": "weights",
    ".pt": "a pickle",
    ".pth": "a pickle",
    ".pkl": "a pickle",
    ".bin": "a pickle",
}
_SUFFIX_TEXTS: dict[str, Kind] = {
    ".csv": "a table",
    ".tsv": "a table",
    ".jsonl": "lines of JSON",
    ".ndjson": "lines of JSON",
}


def kind_of(path: Path) -> Kind | None:
    """Return what a file or folder seems to be, by its first bytes and its name; None if unknown.

    It serves error messages: whoever reads a file checks what it holds.
    """
    if os.path.isdir(path):
        return "a model folder" if os.path.isfile(path / "config.json") else "a folder"
    try:
        if not path.is_file():
            return None
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None
    if head[:4] == b"GGUF":
        return "a GGUF model"
    if head[:6] == b"\x93NUMPY":
        return "one array"
    if head[:4] == b"PK\x03\x04":
        return _kind_of_archive(path)
    if path.suffix in _SUFFIX_KINDS:
        return _SUFFIX_KINDS[path.suffix]
    text = head.decode("utf-8", "replace")
    other = _SUFFIX_TEXTS.get(path.suffix, "a text" if _is_text(text) else None)
    return next((kind for kind, form in _TEXT_KINDS if re.search(form, text)), other)


def _is_text(head: str) -> bool:
    """Return whether decoded bytes are a text, whose last character may have been cut."""
    plain = all(c.isprintable() or c.isspace() for c in head.removeprefix("\ufeff"))
    return plain and bool(head.strip()) and "\ufffd" not in head[:-1]


def _kind_of_archive(path: Path) -> Kind | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
        return None
    if any(name.endswith("data.pkl") for name in names):
        return "a pickle"
    return "a trace" if any(name.endswith(".npy") for name in names) else "an archive"


_SHIPPED = {
    "trace": ("traces", ".npz"),
    "profile": ("hardware_profiles", ".yaml"),
    "model": ("model/presets", ".yaml"),
}


def nearest(given: object, wanted: str) -> str:
    """Return words for an error on what a name that was not found may have meant; often none.

    Args:
        given: the name.
        wanted: ``trace``, ``profile`` or ``model``.
    """
    name = str(given)
    for what, place in _SHIPPED.items():
        if what != wanted and name in shipped_names(*place):
            return f"that is a {what}, for {'--' + what if what != 'trace' else 'TRACE'}; "
    close = difflib.get_close_matches(name, shipped_names(*_SHIPPED[wanted]), 1)
    return f"did you mean {close[0]}? " if close else ""


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
        return path.read_text(encoding="utf-8").removeprefix("\ufeff")
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"{path}: cannot be read ({_reason(problem)})") from None


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader that refuses aliases (they can grow without bound) and repeated keys.

    ``1:30`` is a text: YAML 1.1 takes it for a number to the base of 60.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - as yaml declares it
        first: [("tag:yaml.org,2002:str", re.compile(r"[-+]?[0-9]+(:[0-9]+)+$")), *pairs]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

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
    own = any(path.parent == shipped(folder) for folder, _ in _SHIPPED.values())
    try:
        data = deepcopy(_parsed(text, own))
    except _BAD_YAML as problem:
        raise error(f"{path}: not readable as YAML ({_reason(problem)})") from None
    if not isinstance(data, dict):
        raise error(f"{path}: expected a mapping of keys, got {type(data).__name__}")
    return data


def parse_yaml(text: str, what: str) -> Any:
    """Return the value of a short YAML text, as `read_yaml` reads it.

    Raises:
        DipsimError: not readable; ``what`` says where it stands.
    """
    try:
        return deepcopy(_parsed(text, False))
    except _BAD_YAML as problem:
        raise DipsimError(f"{what}: not readable as YAML ({_reason(problem)})") from None


@lru_cache(maxsize=32)
def _parsed(text: str, own: bool) -> Any:
    """Return what a YAML text holds, which a study asks for many times.

    The parser in C takes a tenth of the time, but endless nesting would overflow its stack: it
    reads dipsim's ``own`` files alone.
    """
    loader = getattr(yaml, "CSafeLoader", _PlainLoader) if own else _PlainLoader
    return yaml.load(text, Loader=loader)  # noqa: S506 - both are safe


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


def check_destination(path: Path) -> None:
    """Refuse to replace what is no ordinary file or what its owner protects, or to write nowhere.

    Raises:
        OSError: says what it is.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if not os.path.isdir(os.path.dirname(os.path.realpath(path))):  # of the target of a link
            raise FileNotFoundError(errno.ENOENT, "no such folder") from None
        return
    except ValueError:  # a zero byte, or what the encoding of names lacks
        raise OSError(errno.EINVAL, "no name that a file can have; give another") from None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a folder; give another name")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not an ordinary file; give another name")
    if not mode & 0o222 or not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "read-only; give another name or chmod +w it")


class Unfinished:
    """A hidden file or folder beside its destination, which takes its name when it is complete.

    It is locked while its writer lives. What a killed writer left is unlocked, and the next writer
    of the same destination removes it.

    Args:
        destination: a symbolic link is followed, so that it stays and its target is written.
        folder: whether to make a folder instead of a file.

    Raises:
        OSError: a destination that may not be replaced, or whose folder cannot be written to.
    """

    def __init__(self, destination: Path, *, folder: bool = False) -> None:
        check_destination(destination)
        self.destination = Path(os.path.realpath(destination))
        parent, prefix = self.destination.parent, f".{self.destination.name[:50]}.dipsim-"
        _remove_stale(parent, prefix)
        taken = True
        while taken:  # by another writer, for stale, before it was locked
            self.path = parent / f"{prefix}{secrets.token_hex(_DIGITS // 2)}"
            # also where an interruption comes next; but a forked child owns nothing of this
            weakref.finalize(self, _remove_own, self.path, os.getpid())
            self.handle = _made(self.path, folder)
            close = weakref.finalize(self, _close, self.handle)
            taken = _lock(self.handle) == "taken" or not os.path.lexists(self.path)
            if taken:
                close()
        self._close = close

    def finish(self) -> None:
        """Give it the name of its destination, with the permissions of any new file or folder."""
        folder = self.path.is_dir()
        os.chmod(self.path, (0o777 if folder else 0o666) & ~_umask())
        if folder:
            os.rename(self.path, self.destination)  # which must not exist
        else:
            os.replace(self.path, self.destination)
        self._close()

    def discard(self) -> None:
        """Remove it where it still has its hidden name, and unlock it."""
        try:
            _remove(self.path)
        finally:  # an interruption of the first is no reason to leave anything
            _remove(self.path)
            self._close()


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open ``path`` for writing so that it appears complete or not at all.

    Raises:
        OSError: it cannot be written, or is read-only, or is something else than a file.
    """
    unfinished = Unfinished(path)
    try:
        # by the handle that is locked: on some network file systems any other may not write
        with open(unfinished.handle, "w+b", closefd=False) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        unfinished.finish()
    finally:
        unfinished.discard()


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to write to, which becomes ``path`` when it is complete, or is removed.

    Raises:
        OSError: it cannot be made, or something has its name.
    """
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "it exists; give a new folder")
    unfinished = Unfinished(path, folder=True)
    try:
        yield unfinished.path
        unfinished.finish()
    finally:
        unfinished.discard()


def unused_name(path: Path, remark: str) -> Path:
    """Return a path beside ``path`` that nothing has: ``t.npz`` becomes ``t.<remark>.npz``."""
    named = (
        path.with_name(f"{path.stem}.{remark}{n or ''}{path.suffix}") for n in itertools.count()
    )
    return next(candidate for candidate in named if not os.path.lexists(candidate))


def path_of(given: str | os.PathLike[str], what: str = "path") -> Path:
    """Return a path that a user gave.

    Args:
        given: the path.
        what: what it leads to, for the message.

    Raises:
        DipsimError: it is no path.
    """
    if not isinstance(given, str | os.PathLike):
        raise DipsimError(not_taken(what, given, "a path: a text or a pathlib.Path"))
    return Path(given)


def refuse_same(out: str | os.PathLike[str], sources: Iterable[Path]) -> None:
    """Refuse to replace what is read.

    Args:
        out: the file or folder to be written.
        sources: files that it is made of; one that is missing is no such file.

    Raises:
        DipsimError: ``out`` is one of them.
    """
    read = (source for source in sources if os.path.exists(source))
    if os.path.exists(out) and any(os.path.samefile(out, source) for source in read):
        raise DipsimError(f"{out}: is read here; write to another name")


def _remove_stale(parent: Path, prefix: str) -> None:
    """Remove hidden files and folders of writers that no longer live."""
    named = re.compile(re.escape(prefix) + f"[0-9a-f]{{{_DIGITS}}}")
    for path in parent.glob(f"{glob.escape(prefix)}*"):
        if not named.fullmatch(path.name):
            continue
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if _lock(handle) == "locked":
                    _remove(path)
            finally:
                os.close(handle)


def _made(path: Path, folder: bool) -> int:
    """Make a hidden file or folder and return a handle of it, of a file one to write by."""
    if not folder:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    path.mkdir(0o700)
    return -1 if fcntl is None else os.open(path, os.O_RDONLY)


def _lock(handle: int) -> Literal["locked", "taken", "unlocked"]:
    """Lock an open file or folder until it is closed, or its process ends.

    Returns:
        ``taken`` where another process has the lock, ``unlocked`` where the system, or a network
        file system, has no locks.
    """
    if fcntl is None:
        return "unlocked"
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "taken"
    except OSError:
        return "unlocked"
    return "locked"


def _close(handle: int) -> None:
    with suppress(OSError):
        os.close(handle)


def _remove_own(path: Path, process: int) -> None:
    """Remove a hidden file or folder if it was made by this process."""
    if os.getpid() == process:
        _remove(path)


def _remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it, if it is there and as far as it can be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _umask() -> int:
    """Return the permission bits that this process withholds from new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def unwritable(
    what: object, problem: OSError, error: type[DipsimError] = DipsimError
) -> DipsimError:
    """Return the error to raise where ``what``, a path or an option with one, cannot be written."""
    return error(f"{printable(str(what))}: cannot be written ({_reason(problem)})")


def _reason(problem: BaseException) -> str:
    """Return the first line of an error's text, without the position lines that YAML adds."""
    mark = getattr(problem, "problem_mark", None)
    text = getattr(problem, "problem", None) or getattr(problem, "strerror", None) or str(problem)
    where = f", line {mark.line + 1}" if mark is not None else ""
    return str(text).strip().splitlines()[0] + where if str(text).strip() else "no detail"
