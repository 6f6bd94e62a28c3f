"""Compiling functions whose machine code numba stores on disk.

Stored code only saves time: where it cannot be written or is damaged, code is compiled anew, after
one warning. numba reads it by unpickling, so whoever may write there may run code (docs/design.md).
"""

import warnings
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from numba import config, njit
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.dispatcher import Dispatcher
from numba.core.event import Event, Listener, register
from numba.core.runtime.nrt import rtsys

from dipsim import compiling
from dipsim.errors import StoredCodeWarning

_DIGEST = sha256().digest_size
_warned = False
"""True once a warning was given: one is enough, as one cause mostly affects every function."""


def stored(key: str = "", **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles a function as `njit` does, and stores its machine code.

    Args:
        key: what the machine code depends on besides the function's own file (fingerprint.py).
        options: of `njit`.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        compiled = njit(**options)(function)
        if isinstance(compiled, Dispatcher):  # not with NUMBA_DISABLE_JIT
            try:
                compiled._cache = _StoredCode(function, key)
            except (OSError, RuntimeError):  # numba finds no folder that it may write to
                folder = config.CACHE_DIR or Path(function.__code__.co_filename).parent
                _cannot_store(str(folder), "no folder to write to")
        return compiled

    return decorate


class _StoredCode(FunctionCache):
    """The stored machine code of a function, which may be missing at any time."""

    def __init__(self, function: Callable[..., Any], key: str) -> None:
        super().__init__(function)
        self._key = key
        numbas = self._cache_file
        self._cache_file = _Files(self.cache_path, self._impl.filename_base, numbas._source_stamp)

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return *super()._index_key(sig, codegen), self._key

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        # numba would refresh the target first, which imports a hundred modules that only compiling
        # needs; machine code needs the runtime alone.
        rtsys.initialize(target_context)
        try:
            return self._load_overload(sig, target_context)
        except Exception as problem:  # whatever unpickling or numba comes upon
            # A record of another name than now cannot be unpickled: that code is old, not damaged.
            if not isinstance(problem, AttributeError | ImportError):
                _warn(
                    f"compiled code in {self.cache_path} cannot be read ({_line(problem)}): it is "
                    "compiled anew; if this comes again, remove that folder",
                )
            self._cache_file.discard()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as problem:
            _cannot_store(self.cache_path, _line(problem))


class _Files(IndexDataCacheFile):
    """The files of a function's machine code.

    Each ends with a digest, which unpickling does not look at, so that damaged code never runs. And
    the code says what it is of: numba writes its index first, and a full disk can leave that beside
    the code of an older source.
    """

    def discard(self) -> None:
        """Forget all code of the function."""
        with suppress(OSError):
            Path(self._index_path).unlink()

    def save(self, key: Any, data: Any) -> None:
        super().save(key, (self._source_stamp, key, data))

    def load(self, key: Any) -> Any:
        stamp, stored_key, data = super().load(key) or (None, None, None)
        return data if (stamp, stored_key) == (self._source_stamp, key) else None

    def _dump(self, obj: Any) -> bytes:
        data = super()._dump(obj)
        return data + sha256(data).digest()

    def _load_data(self, name: str) -> Any:
        data = Path(self._data_path(name)).read_bytes()
        if sha256(data[:-_DIGEST]).digest() != data[-_DIGEST:]:
            raise ValueError(f"{name} is damaged")
        return super()._load_data(name)


class _Compiling(Listener):
    """Tells of every function that numba compiles; to load stored code is not to compile."""

    def on_start(self, event: Event) -> None:
        compiling.started(event.data["dispatcher"].py_func.__name__)

    def on_end(self, event: Event) -> None:
        compiling.ended()


register("numba:compile", _Compiling())


def _line(problem: Exception) -> str:
    """Return what went wrong, in a few words."""
    return getattr(problem, "strerror", None) or str(problem) or type(problem).__name__


def _cannot_store(folder: str, why: str) -> None:
    _warn(
        f"compiled code cannot be stored in {folder} ({why}): every run compiles it anew; set "
        "NUMBA_CACHE_DIR to a folder with room that you may write to",
    )


def _warn(message: str) -> None:
    """Warn, once in a process."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(StoredCodeWarning(message), stacklevel=2)
