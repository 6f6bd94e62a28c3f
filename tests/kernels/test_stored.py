"""Stored machine code that is damaged, old or cannot be written: compiled anew, and said once."""

import errno
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numba import config
from numba.core.caching import CompileResultCacheImpl, IndexDataCacheFile

from dipsim.errors import StoredCodeWarning
from dipsim.kernels import stored
from tools.cli import Dipsim, done

MODULE = "module_of_a_test"
SOURCE = """
from typing import Any, NamedTuple

from dipsim.kernels.stored import stored


class Pair(NamedTuple):
    a: Any
    b: Any


@stored(nogil=True)
def total(pair):
    return pair.a.sum() + pair.b
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for a module with a compiled function, and below it for the code that is stored."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "code"))
    monkeypatch.setattr(stored, "_warned", False)
    yield tmp_path
    sys.modules.pop(MODULE, None)


def fresh_total(home: Path, source: str = SOURCE, name: str = "Pair") -> tuple[float, int]:
    """Return what the function gives in a process that knows it from disk only, and how often its
    code was found there."""
    path = home / "module.py"
    if not path.exists() or path.read_text() != source:
        path.write_text(source)
    module: Any = ModuleType(MODULE)
    sys.modules[MODULE] = module  # pickle looks records up there
    exec(compile(source, path, "exec"), vars(module))
    result = module.total(getattr(module, name)(np.arange(4.0), 0.5))
    return result, sum(module.total.stats.cache_hits.values())


def files(home: Path, suffix: str) -> list[Path]:
    return sorted(home.rglob(f"*.{suffix}"))


def test_code_is_stored_and_found(home: Path) -> None:
    assert fresh_total(home) == (6.5, 0)
    assert fresh_total(home) == (6.5, 1)


def warned_total(home: Path, source: str = SOURCE) -> tuple[tuple[float, int], list[str]]:
    """Return `fresh_total`, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = fresh_total(home, source)
    assert {warning.category for warning in caught} <= {StoredCodeWarning}
    return result, [str(warning.message) for warning in caught]


def nothing(data: bytes) -> bytes:
    return b""


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def garbage(data: bytes) -> bytes:
    return b"\xff" * 99


def unwritten(data: bytes) -> bytes:
    """A file as a crash leaves it: as long as it should be, with a page that was never written."""
    middle = len(data) // 2
    return data[:middle] + bytes(512) + data[middle + 512 :]


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [*product(["nbi", "nbc"], [nothing, half, garbage]), ("nbc", unwritten)],
)
def test_damaged_code_is_compiled_anew(
    home: Path, suffix: str, damage: Callable[[bytes], bytes]
) -> None:
    fresh_total(home)
    (path,) = files(home, suffix)
    path.write_bytes(damage(path.read_bytes()))
    result, (warning,) = warned_total(home)
    assert result == (6.5, 0)
    assert f"compiled code in {path.parent} cannot be read" in warning
    assert fresh_total(home) == (6.5, 1)


def test_code_of_a_record_that_was_renamed_is_compiled_anew(home: Path) -> None:
    fresh_total(home)
    renamed = SOURCE.replace("Pair", "Both")
    assert fresh_total(home, renamed, "Both") == (6.5, 0)
    assert fresh_total(home, renamed, "Both") == (6.5, 1)


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_warned_about_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IndexDataCacheFile, "_open_for_write", full)
    result, (warning,) = warned_total(home)
    assert result == (6.5, 0)
    assert f"cannot be stored in {home / 'code'}" in warning
    assert "No space left on device" in warning
    assert warned_total(home) == ((6.5, 0), [])


def test_code_of_an_older_source_does_not_pass_for_that_which_did_not_fit(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full once the index was written leaves it beside the code before."""
    fresh_total(home)
    changed = SOURCE.replace("+ pair.b", "- pair.b")
    with monkeypatch.context() as patch:
        patch.setattr(IndexDataCacheFile, "_save_data", full)
        assert warned_total(home, changed)[0] == (5.5, 0)
    assert fresh_total(home, changed) == (5.5, 0)


def test_without_a_folder_to_write_to_nothing_is_stored(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CompileResultCacheImpl, "_locator_classes", [])
    result, (warning,) = warned_total(home)
    assert result == (6.5, 0)
    assert f"cannot be stored in {home / 'code'} (no folder to write to)" in warning


@pytest.mark.filterwarnings("default")
def test_the_command_line_says_it_in_one_line(
    dipsim: Dipsim, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn(*_: Any) -> list[str]:
        stored._warn("code cannot be\nstored")
        return []

    monkeypatch.setattr(stored, "_warned", False)
    monkeypatch.setattr("dipsim.hardware.profile_names", warn)
    assert done(dipsim("profiles --json")).err == ["dipsim: warning: code cannot be stored"]


@pytest.mark.slow
def test_code_of_policies_that_was_stored_by_several_processes_is_not_mixed_up(
    tmp_path: Path,
) -> None:
    """numba names functions by a count that begins anew in each process."""
    check = (
        "import sys; from dipsim.analysis.policy_laws import check_policy; "
        "from dipsim.policies import BUILTIN; "
        "[check_policy(BUILTIN[name]) for name in sys.argv[1:]]"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    for names in (["arc"], ["w-tinylfu"], ["clock"], ["clock", "w-tinylfu", "arc"]):
        subprocess.run([sys.executable, "-c", check, *names], env=environment, check=True)
