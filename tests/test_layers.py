"""Who may import whom: the rows of the pipeline, top first, and what must load late."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import dipsim

PACKAGE = Path(dipsim.__file__).resolve().parent
ROWS = (
    ("errors",),
    ("files",),
    ("units",),
    ("hardware",),
    ("gguf", "hf_config"),
    ("model",),
    ("npz", "encoding"),
    ("signal",),
    ("trace",),
    ("writer",),
    ("convert", "synth"),
    ("kernels",),
    ("methods", "policies", "budget"),  # one row: none imports another
    ("active",),
    ("order",),
    ("traffic",),
    ("ahead",),
    ("caches",),
    ("replay",),
    ("curves",),
    ("timeline",),
    ("settings",),
    ("pages",),
    ("result",),
    ("bars",),
    ("resolve",),
    ("marks",),
    ("config",),
    ("allocate", "growing"),
    ("simulate",),
    ("analysis",),
    ("lm",),
    ("report",),
    ("cli",),
)
ROW_OF = {name: row for row, names in enumerate(ROWS) for name in names}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


class Import(NamedTuple):
    """A module that is imported anywhere in a file: at its top, late, or for type checkers."""

    module: str
    line: int


def dotted(path: Path) -> str:
    """``dipsim/policies/lru.py`` -> ``dipsim.policies.lru``."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


KNOWN = {dotted(path) for path in PACKAGE.rglob("*.py")}


def imports(source: str) -> Iterator[Import]:
    """Every import of a source text; of ``from package import module`` the module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield Import(inner if inner in KNOWN else str(node.module), node.lineno)


def part(module: str) -> str:
    """The row's name: ``dipsim.policies.lru`` -> ``policies``."""
    return module.split(".")[1]


def wrong_imports(path: Path, source: str) -> list[str]:
    here = part(dotted(path))
    found = []
    for module, line in imports(source):
        if module == "dipsim":
            found.append(f"{path.name}:{line} imports dipsim itself")
        elif module.startswith("dipsim."):
            there = part(module)
            if there != here and ROW_OF[there] >= ROW_OF[here]:
                found.append(f"{path.name}:{line} imports {module}, which is not above {here}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_module_imports_only_from_rows_above_it(path: Path) -> None:
    assert part(dotted(path)) in ROW_OF, f"{path}: in no row; add it to ROWS and to the design"
    assert wrong_imports(path, path.read_text()) == []


def test_every_row_exists() -> None:
    assert set(ROW_OF) == {part(dotted(path)) for path in MODULES}


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("units.py", "from dipsim.hardware import Profile"),
        ("units.py", "import dipsim.cli"),
        ("methods/dip.py", "from dipsim.policies import load_policy"),
        ("policies/lru.py", "from dipsim import budget"),
        ("budget.py", "from dipsim.methods.contract import Group"),
        ("replay.py", "def f():\n    from dipsim.result import Result"),
        ("replay.py", "if TYPE_CHECKING:\n    from dipsim.simulate import simulate"),
        ("report/hints.py", "from dipsim import simulate, cli"),
        ("kernels.py", "import dipsim"),
    ],
)
def test_an_import_from_below_is_noticed(file: str, line: str) -> None:
    assert len(wrong_imports(PACKAGE / file, line)) == 1


def modules_that_import(package: str) -> set[str]:
    found = {
        dotted(path): [module.split(".")[0] for module, _ in imports(path.read_text())]
        for path in MODULES
    }
    return {module for module, packages in found.items() if package in packages}


def test_only_the_command_line_imports_typer() -> None:
    assert {part(module) for module in modules_that_import("typer")} == {"cli"}


def test_only_the_discrete_events_import_simpy() -> None:
    assert modules_that_import("simpy") <= {"dipsim.timeline.events"}


def prints(source: str) -> bool:
    """Whether a text calls ``print`` or ``something.print``."""
    called = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = {f.id if isinstance(f, ast.Name) else getattr(f, "attr", "") for f in called}
    return "print" in names


def test_only_the_command_line_prints() -> None:
    assert {part(dotted(path)) for path in MODULES if prints(path.read_text())} == {"cli"}


def fresh(code: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("module", ["dipsim", "dipsim.cli"])
def test_importing_loads_nothing_slow(module: str) -> None:
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    loaded = set(fresh(code).split())
    assert "dipsim" in loaded
    assert loaded & {"numba", "matplotlib", "torch", "pandas"} == set()


@pytest.mark.parametrize("first", ["dipsim", "dipsim.trace", "dipsim.simulate"])
def test_every_public_name_is_there_whatever_was_imported_first(first: str) -> None:
    code = f"import {first}, dipsim; print(*(getattr(dipsim, n).__name__ for n in dipsim.__all__))"
    assert fresh(code).split() == dipsim.__all__


def test_no_other_name_is_there() -> None:
    assert set(dipsim.__all__) <= set(dir(dipsim))
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        dipsim.simulat  # noqa: B018
