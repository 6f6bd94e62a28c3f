"""Is what the docs show true? Every example of README and docs is run, and its output compared.

How the examples of a page are run stands in docs/tables/page_examples.py. What stands below a
command must be its output (``...`` on a line of its own stands for anything).
"""

import ast
import fnmatch
import html
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import dipsim
import explorer
import gallery_pictures
import page_examples
import pictures
from dipsim.sweep.slurm import SlurmJobs, read_slurm
from page_examples import blocks, shell
from tools.paths import DOCS, ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "traces/README.md", *DOCS.glob("*.md")])
PICTURES = DOCS / "pictures"


def tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


LONG = (
    "docs/accuracy.md",
    "docs/beside.md",
    "docs/calibrating.md",
    "docs/clusters.md",
    "docs/comparing.md",
    "docs/concepts.md",
    "docs/exporting.md",
    "docs/growing.md",
    "docs/layout.md",
    "docs/lora.md",
    "docs/kv-eviction.md",
    "docs/methods.md",
    "docs/models.md",
    "docs/planning.md",
    "docs/policies.md",
    "docs/profiles.md",
    "docs/recording.md",
    "docs/reports.md",
    "docs/routing-logs.md",
    "docs/searching.md",
    "docs/studies.md",
    "docs/sweeps.md",
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
    for (command, expected), printed in page_examples.run(page, tmp_path):
        shown = tidy(printed)
        pattern = re.sub(r"([\[\]?*])", r"[\1]", tidy(expected))
        pattern = re.sub(r"^\.\.\.$", "*", pattern, flags=re.MULTILINE)
        assert fnmatch.fnmatchcase(shown, pattern), f"$ {command}\n{shown}"
    for name in pictures.drawn_by_commands(page):
        assert (tmp_path / f"{name}.svg").exists(), f"{page}: no command draws {name}.svg"


def test_every_fence_is_of_a_known_kind() -> None:
    for page in PAGES:
        kinds = {block.language for block in blocks(page)}
        assert kinds <= {"python", "py", "cpp", "yaml", "csv", "console", "sh", "html", "md"}, page


def test_the_page_on_python_has_every_public_name() -> None:
    page = (DOCS / "python.md").read_text()
    missing = [name for name in dipsim.__all__ if f"dipsim.{name}" not in page]
    assert missing == []


def recipes(kind: str) -> list[str]:
    """Exporters for libraries that are not here: only their syntax is checked."""
    return [block.body for block in blocks(DOCS / "exporting.md") if block.language == kind]


@pytest.mark.parametrize("recipe", recipes("py"))
def test_recipes_are_python(recipe: str) -> None:
    names = {node.id for node in ast.walk(ast.parse(recipe)) if isinstance(node, ast.Name)}
    assert "dipsim" not in names


def test_files_for_clusters_are_what_their_readers_take(tmp_path: Path) -> None:
    page = DOCS / "clusters.md"
    texts = [block for block in blocks(page) if block.language == "yaml"]
    (jobs,) = (block for block in texts if block.title == "jobs.yaml")
    (tmp_path / jobs.title).write_text(jobs.body)
    assert read_slurm(tmp_path / jobs.title).workers == 160
    keys = re.findall(r"^\| (`.*?) \| [^|]* \|$", page.read_text(), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", "".join(keys))) == set(SlurmJobs.model_fields)
    (pods,) = (yaml.safe_load(block.body) for block in texts if not block.title)
    assert (pods["apiVersion"], pods["kind"]) == ("kubernetes.dask.org/v1", "DaskCluster")
    for part in ("scheduler", "worker"):
        (container,) = pods["spec"][part]["spec"]["containers"]
        assert container["name"] == part
        assert container["args"][:2] == ["dask", part]
    assert pods["spec"]["scheduler"]["service"]["ports"][0]["port"] == 8786


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


def test_every_picture_is_drawn_by_a_command_of_its_page() -> None:
    shown = {*pictures.OWN}
    for page in PAGES:
        commands = [
            example.command
            for block in blocks(page)
            if block.language == "console"
            for example in page_examples.examples(block)
        ]
        for name in pictures.drawn_by_commands(page):
            assert name not in shown, f"{name} is shown by two pages"
            assert sum(f"--plot {name}.svg" in command for command in commands) == 1, name
            shown.add(name)
    files = {path.name for path in PICTURES.iterdir()}
    drawn = {f"{name}-{theme}.svg" for name in shown for theme in ("light", "dark")}
    screens = {f"{explorer.NAME}-{theme}.png" for theme in explorer.THEMES}
    assert files == drawn | screens | {*gallery_pictures.NAMES}


@pytest.mark.parametrize("theme", explorer.THEMES)
def test_the_pictures_of_the_explorer_are_small_and_shown(theme: str) -> None:
    name = f"{explorer.NAME}-{theme}.png"
    assert (PICTURES / name).stat().st_size < 150_000
    assert f"pictures/{name}" in (DOCS / "exploring.md").read_text()


@pytest.mark.slow
def test_pictures_are_the_same_whenever_they_are_drawn(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    command = "dipsim mrc smollm2-chat --tokens 0:8 --policy lru --plot curve.svg"
    page.write_text(f'```console\n$ {command}\n...\n```\n<img src="pictures/curve-light.svg">\n')
    drawn = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        pictures.draw(page, tmp_path / name)
        drawn.append({file.name: file.read_text() for file in (tmp_path / name).iterdir()})
    assert drawn[0] == drawn[1]
    light, dark = drawn[0]["curve-light.svg"], drawn[0]["curve-dark.svg"]
    assert pictures.in_the_dark(light) == dark
    assert "#1f2328" in light
    assert not any(colour in dark for colour in pictures.DARK)


@pytest.mark.slow
def test_the_notebook_is_what_its_script_writes_and_runs(tmp_path: Path) -> None:
    shell(f"{sys.executable} docs/tables/notebook.py {tmp_path}", ROOT)
    committed, new = (
        json.loads((folder / "examples.ipynb").read_text()) for folder in (DOCS, tmp_path)
    )
    sources = [[cell["source"] for cell in book["cells"]] for book in (committed, new)]
    assert sources[0] == sources[1]
    for cell in committed["cells"]:
        assert cell["cell_type"] == "markdown" or cell["execution_count"], "it was not run"


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation.keys() >= {"cff-version", "message", "title", "authors"}
    assert citation["cff-version"] == "1.2.0"
    for key, value in (("title", "name"), ("version", "version"), ("license", "license")):
        assert citation[key] == project[value]
    (paper,) = citation["references"]
    assert paper.keys() >= {"type", "title", "authors"}


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
def test_the_table_of_storage_is_what_the_script_prints() -> None:
    printed = shell(f"{sys.executable} docs/tables/storage.py", ROOT)
    page = [row.split("|") for row in (DOCS / "trace-format.md").read_text().splitlines()]
    for line in printed.splitlines()[2:]:
        name, stored, deflated, saved, _, auto = (cell.strip() for cell in line.split("|")[1:-1])
        (row,) = [cells for cells in page if cells[1:2] == [f" {name} "] and len(cells) == 8]
        shown = [cell.strip() for cell in row[1:-1]]
        assert [*shown[:2], shown[5]] == [name, stored, auto]
        for cell, given in ((shown[2], deflated), (shown[3], saved)):  # zlibs differ a little
            assert float(cell.split()[0].rstrip("%")) == pytest.approx(
                float(given.split()[0].rstrip("%")), rel=0.1, abs=2
            )


@pytest.mark.slow
def test_the_table_of_divisions_is_what_the_script_prints() -> None:
    printed = shell(f"{sys.executable} docs/tables/allocation.py", ROOT)
    assert tidy(printed) in (DOCS / "comparing.md").read_text()


def drawn(picture: Path) -> dict[str, list[float]]:
    """Return the values that the description of a picture states, by line."""
    (text,) = re.findall(r"<dc:description>(.*?)</dc:description>", picture.read_text())
    values: dict[str, list[float]] = json.loads(html.unescape(text))
    return values


@pytest.mark.slow
def test_the_picture_is_drawn_from_runs_of_today(tmp_path: Path) -> None:
    shell(f"{sys.executable} docs/tables/rate_against_dram.py {tmp_path}", ROOT)
    for name in ("rate-against-dram-light.svg", "rate-against-dram-dark.svg"):
        committed, new = drawn(PICTURES / name), drawn(tmp_path / name)
        assert list(new) == list(committed)
        for line in new:
            assert new[line] == pytest.approx(committed[line], rel=1e-6), (name, line)
