"""Is what the docs show true? Every example of README and docs is run, and its output compared.

A ``python`` or ``yaml`` block with a title is saved under that name; other ``python`` blocks of a
page run one after the other; of a ``console`` block each ``$ command`` runs in a shell, and what
stands below must be its output (``...`` on a line of its own stands for anything).
"""

import ast
import fnmatch
import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dipsim
from tools.paths import DOCS, ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "traces/README.md", *DOCS.glob("*.md")])
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENVIRONMENT = {
    **os.environ,
    "COLUMNS": "80",
    "NO_COLOR": "1",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}


def shell(command: str, folder: Path) -> str:
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


def tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


LONG = (
    "docs/accuracy.md",
    "docs/calibrating.md",
    "docs/comparing.md",
    "docs/concepts.md",
    "docs/exporting.md",
    "docs/growing.md",
    "docs/layout.md",
    "docs/lora.md",
    "docs/methods.md",
    "docs/models.md",
    "docs/policies.md",
    "docs/profiles.md",
    "docs/recording.md",
    "docs/searching.md",
    "docs/studies.md",
    "docs/synth.md",
    "docs/time.md",
    "docs/trace-format.md",
    "docs/tutorial.md",
    "docs/writing-a-method.md",
    "docs/writing-a-policy.md",
)


def page(path: Path) -> Any:
    """A page to test; pages of many runs are slow tests."""
    name = str(path.relative_to(ROOT))
    return pytest.param(path, id=name, marks=pytest.mark.slow if name in LONG else [])


@pytest.mark.parametrize("page", [page(p) for p in PAGES])
def test_examples(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for language, title, body in BLOCK.findall(page.read_text()):
        if title:
            (tmp_path / title).write_text(body)
        elif language == "python":
            exec(compile(body, str(page), "exec"), names)
        elif language == "console":
            for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                command, _, expected = part.partition("\n")
                shown = tidy(shell(command, tmp_path))
                pattern = re.sub(r"([\[\]?*])", r"[\1]", tidy(expected))
                pattern = re.sub(r"^\.\.\.$", "*", pattern, flags=re.MULTILINE)
                assert fnmatch.fnmatchcase(shown, pattern), f"$ {command}\n{shown}"


def test_every_fence_is_of_a_known_kind() -> None:
    for page in PAGES:
        kinds = {language for language, _, _ in BLOCK.findall(page.read_text())}
        assert kinds <= {"python", "py", "cpp", "yaml", "csv", "console", "sh"}, page


def test_the_page_on_python_has_every_public_name() -> None:
    page = (DOCS / "python.md").read_text()
    missing = [name for name in dipsim.__all__ if f"dipsim.{name}" not in page]
    assert missing == []


def recipes(kind: str) -> list[str]:
    """Exporters for libraries that are not here: only their syntax is checked."""
    page = (DOCS / "exporting.md").read_text()
    return [body for language, _, body in BLOCK.findall(page) if language == kind]


@pytest.mark.parametrize("recipe", recipes("py"))
def test_recipes_are_python(recipe: str) -> None:
    names = {node.id for node in ast.walk(ast.parse(recipe)) if isinstance(node, ast.Name)}
    assert "dipsim" not in names


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_the_recipe_for_llama_cpp_compiles(tmp_path: Path) -> None:
    (recipe,) = recipes("cpp")
    (tmp_path / "record.cpp").write_text(recipe)
    (tmp_path / "ggml.h").write_text(
        "#pragma once\n#include <cstddef>\n#include <cstdint>\nstruct ggml_tensor;\n"
        "const char * ggml_get_name(const ggml_tensor *);\n"
        "int64_t ggml_nelements(const ggml_tensor *);\n"
        "size_t ggml_nbytes(const ggml_tensor *);\n"
    )
    (tmp_path / "ggml-backend.h").write_text(
        '#pragma once\n#include "ggml.h"\n'
        "void ggml_backend_tensor_get(const ggml_tensor *, void *, size_t, size_t);\n"
    )
    command = ["g++", "-fsyntax-only", "-Wall", "-Wno-unused-function", "-I.", "record.cpp"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_site_builds_without_warnings(tmp_path: Path) -> None:
    shell(f"{sys.executable} -m mkdocs build -q -f docs/mkdocs.yml -d {tmp_path}", ROOT)
    assert (tmp_path / "writing-a-policy/index.html").exists()
    assert (tmp_path / "pictures/rate-against-dram-light.svg").exists()
    assert not (tmp_path / "tables").exists()


@pytest.mark.slow
def test_the_table_of_synth_is_what_the_script_prints() -> None:
    printed = shell(f"{sys.executable} docs/tables/synth.py", ROOT)
    page = (DOCS / "synth.md").read_text()
    for line in printed.splitlines()[2:]:
        head, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        row = next(at for at in page.splitlines() if at.startswith(f"| {head} |"))
        shown = [float(cell) for cell in row.strip("|").split("|")[1:]]
        # logarithms differ in the last bit between processors, and a rounded figure with them
        assert shown == pytest.approx([float(cell) for cell in cells], abs=0.11), head


@pytest.mark.slow
def test_the_table_of_divisions_is_what_the_script_prints() -> None:
    printed = shell(f"{sys.executable} docs/tables/allocation.py", ROOT)
    assert tidy(printed) in (DOCS / "comparing.md").read_text()


@pytest.mark.slow
def test_headline_tables_are_what_the_script_prints() -> None:
    printed = shell(f"{sys.executable} docs/tables/headline.py", ROOT)
    page = (DOCS / "headline.md").read_text()
    assert all(tidy(table) in page for table in printed.split("\n\n"))


def drawn(picture: Path) -> dict[str, list[float]]:
    """Return the values that the description of a picture states, by line."""
    (text,) = re.findall(r"<dc:description>(.*?)</dc:description>", picture.read_text())
    values: dict[str, list[float]] = json.loads(html.unescape(text))
    return values


@pytest.mark.slow
def test_the_picture_is_drawn_from_runs_of_today(tmp_path: Path) -> None:
    shell(f"{sys.executable} docs/tables/picture.py {tmp_path}", ROOT)
    for name in ("rate-against-dram-light.svg", "rate-against-dram-dark.svg"):
        committed, new = drawn(ROOT / "docs/pictures" / name), drawn(tmp_path / name)
        assert list(new) == list(committed)
        for line in new:
            assert new[line] == pytest.approx(committed[line], rel=1e-6), (name, line)
