"""Who may import whom: rows of districts, what only one module may import, what must load late."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import dipsim
from tools.paths import ROOT

PACKAGE = Path(dipsim.__file__).resolve().parent
ROWS = (
    ("errors", "compiling"),
    (
        "units",
        "files",
        "option",
        "lists",
        "plugins",
        "views",
        "extras",
        "texts",
        "threads",
        "kernels",
    ),
    ("settings", "hardware", "model", "store"),
    ("trace", "tokens", "batch"),
    ("methods", "policies", "kv", "layers"),
    ("flash",),
    ("replay",),
    ("systems",),
    ("budget", "resolve"),
    ("run", "keywords"),
    ("timeline",),
    ("repeat", "marks"),
    ("result",),
    ("simulate",),
    ("sweep",),
    ("analysis", "validate", "disk"),
    ("calibrate", "planning"),
    ("lm",),
    ("report",),
    ("explore",),
    ("cli",),
    ("__main__",),
)
"""Districts import only from rows above theirs; those that share a row know nothing of each other.
The kernels stand where they do because they know of the first row alone."""
ROW_OF = {district: row for row, districts in enumerate(ROWS) for district in districts}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
TESTS = ROOT / "tests"
TEST_FILES = sorted(TESTS.rglob("test_*.py"))
TWINS = sorted(
    {
        *TESTS.glob("naive/*.py"),
        *(TESTS / f"tools/{name}.py" for name in ("benchmarks", "count_golden")),
    }
    - {*TEST_FILES}
)


class Import(NamedTuple):
    """A module that is imported anywhere in a file: at its top, late, or for type checkers."""

    module: str
    line: int


def dotted(path: Path) -> str:
    """``dipsim/policies/lru.py`` -> ``dipsim.policies.lru``."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


KNOWN = {dotted(path) for path in PACKAGE.rglob("*.py")}


@cache
def imports(source: str) -> tuple[Import, ...]:
    """Return every import of a source text; of ``from package import module`` the module."""
    return tuple(_imports(source))


def _imports(source: str) -> Iterator[Import]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield Import(inner if inner in KNOWN else str(node.module), node.lineno)


def district_of(module: str) -> str:
    """``dipsim.policies.lru`` -> ``policies``."""
    return module.split(".")[1]


# Rows --------------------------------------------------------------------------------------------


def wrong_imports(path: Path, source: str) -> list[str]:
    """Return a sentence for each import of a file that its row does not allow."""
    own = district_of(dotted(path))
    wrong = []
    for module, line in imports(source):
        if module == "dipsim":
            wrong.append(f"{path.name}:{line} imports dipsim itself")
        elif module.startswith("dipsim.") and district_of(module) != own:
            if ROW_OF.get(district_of(module), len(ROWS)) >= ROW_OF[own]:
                wrong.append(f"{path.name}:{line} imports {module}, which is not above {own}")
            elif district_of(module) == "lm" and own != "cli":
                wrong.append(f"{path.name}:{line} imports {module}, which only cli may")
    return wrong


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_module_imports_only_from_rows_above_it(path: Path) -> None:
    assert district_of(dotted(path)) in ROW_OF, f"{path}: in no row; add it to ROWS"
    assert wrong_imports(path, path.read_text()) == []


def test_every_row_exists() -> None:
    assert set(ROW_OF) == {district_of(dotted(path)) for path in MODULES}


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("units.py", "from dipsim.hardware import Profile"),
        ("units.py", "import dipsim.cli"),
        ("kernels/bits.py", "from dipsim.units import BYTES"),
        ("kernels/codes.py", "from dipsim.trace.encoding import LOG8"),
        ("methods/dip.py", "from dipsim.policies import load_policy"),
        ("policies/lru.py", "from dipsim import budget"),
        ("replay/replay.py", "def f():\n    from dipsim.result import Result"),
        ("replay/replay.py", "if TYPE_CHECKING:\n    from dipsim.simulate import simulate"),
        ("flash/cost.py", "from dipsim.replay.traffic import Traffic"),
        ("budget/plan.py", "from dipsim.timeline.steps import Times"),
        ("analysis/compare.py", "from dipsim.validate import judge"),
        ("report/hints.py", "from dipsim import simulate, cli"),
        ("report/lora.py", "from dipsim.lm import lora"),
        ("simulate.py", "import dipsim"),
    ],
)
def test_an_import_from_below_is_noticed(file: str, line: str) -> None:
    assert len(wrong_imports(PACKAGE / file, line)) == 1


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return modules of which each imports the next, the last the first; none if there are none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as problem:
        return list(reversed(problem.args[1]))
    return []


def test_no_modules_import_each_other() -> None:
    """Within a district too: modules can be read one after the other."""
    graph = {
        dotted(path): {module for module, _ in imports(path.read_text()) if module in KNOWN}
        for path in MODULES
    }
    assert circle(graph) == []


def test_modules_that_import_each_other_are_noticed() -> None:
    assert circle({"a": {"b", "d"}, "b": {"c"}, "c": {"a"}, "d": set()})
    assert not circle({"a": {"b", "d"}, "b": {"c"}, "c": {"d"}, "d": set()})


# What only some may do ---------------------------------------------------------------------------


def modules_that_import(package: str) -> set[str]:
    """Return the modules of dipsim that import a package, or anything in it."""
    return {
        dotted(path)
        for path in MODULES
        if any(f"{module}.".startswith(f"{package}.") for module, _ in imports(path.read_text()))
    }


def test_only_the_command_line_imports_typer() -> None:
    assert {district_of(module) for module in modules_that_import("typer")} == {"cli"}


def test_only_the_command_line_imports_running_models() -> None:
    assert {district_of(module) for module in modules_that_import("dipsim.lm")} == {"cli", "lm"}


def test_only_the_discrete_events_import_simpy() -> None:
    assert modules_that_import("simpy") == {"dipsim.timeline.events"}


def test_four_modules_load_others_by_name() -> None:
    """Imports that the rows forbid are had by name for the views of values, for cells that judge a
    model and for configs of unknown families alone."""
    loading = modules_that_import("importlib.import_module") | {
        dotted(path) for path in MODULES if "import_module(" in path.read_text()
    }
    assert loading == {"dipsim.views", "dipsim.lm", "dipsim.sweep.loop", "dipsim.model.hf_config"}


def prints(source: str) -> bool:
    """Return whether a text calls ``print`` or ``something.print``."""
    called = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = {f.id if isinstance(f, ast.Name) else getattr(f, "attr", "") for f in called}
    return "print" in names


def test_only_the_command_line_prints() -> None:
    assert {district_of(dotted(path)) for path in MODULES if prints(path.read_text())} == {"cli"}


# Tests -------------------------------------------------------------------------------------------


def packages_of(path: Path) -> set[str]:
    """Return what a file imports, by the name before the first dot."""
    return {module.split(".")[0] for module, _ in imports(path.read_text())}


@pytest.mark.parametrize("path", TWINS, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_the_naive_twins_import_nothing_of_dipsim(path: Path) -> None:
    assert packages_of(path) <= {*sys.stdlib_module_names, "naive", "numpy", "simpy"}


def test_no_test_imports_another() -> None:
    names = {path.stem for path in TEST_FILES}
    assert len(names) == len(TEST_FILES), "two files of one name"
    assert [path.name for path in TEST_FILES if names & packages_of(path)] == []


# Loading -----------------------------------------------------------------------------------------


def fresh(code: str) -> str:
    """Return what a fresh interpreter prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("module", ["dipsim", "dipsim.cli"])
def test_importing_loads_nothing_slow(module: str) -> None:
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    loaded = set(fresh(code).split())
    assert "dipsim" in loaded
    assert loaded & {"numba", "matplotlib", "torch", "pandas", "dask", "distributed"} == set()


@pytest.mark.parametrize("first", ["dipsim", "dipsim.trace", "dipsim.simulate"])
def test_every_public_name_is_there_whatever_was_imported_first(first: str) -> None:
    code = f"import {first}, dipsim; print(*(getattr(dipsim, n).__name__ for n in dipsim.__all__))"
    assert fresh(code).split() == dipsim.__all__


def test_no_other_name_is_there() -> None:
    assert set(dipsim.__all__) <= set(dir(dipsim))
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        dipsim.simulat  # noqa: B018
