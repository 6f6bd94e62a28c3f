"""Is what the docs show true? Every example of README and docs is run, and its output compared.

A ``python`` or ``yaml`` block with a title is saved under that name; other ``python`` blocks of a
page run one after the other; of a ``console`` block each ``$ command`` runs in a shell, and what
stands below must be its output (``...`` on a line of its own stands for anything).
"""

import fnmatch
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "traces/README.md", *(ROOT / "docs").glob("*.md")])
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
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
        assert kinds <= {"python", "yaml", "console", "sh"}, page


def test_site_builds_without_warnings(tmp_path: Path) -> None:
    shell(f"{sys.executable} -m mkdocs build -q -f docs/mkdocs.yml -d {tmp_path}", ROOT)
    assert (tmp_path / "writing-a-policy/index.html").exists()


@pytest.mark.slow
def test_headline_tables_are_what_the_script_prints() -> None:
    printed = shell(f"{sys.executable} docs/headline.py", ROOT)
    page = (ROOT / "docs/headline.md").read_text()
    assert all(tidy(table) in page for table in printed.split("\n\n"))
