"""The examples of README and of the pages, run one after another as a reader would.

A ``python`` or ``yaml`` block with a title is saved under that name; other ``python`` blocks of a
page share their names; of a ``console`` block each ``$ command`` runs in a shell, and what stands
below it is its output.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENVIRONMENT = {
    **os.environ,
    "COLUMNS": "80",
    "NO_COLOR": "1",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    title: str
    body: str


class Example(NamedTuple):
    """A command of a page, and what the page shows below it."""

    command: str
    output: str


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    return [Block(*parts) for parts in BLOCK.findall(page.read_text())]


def examples(block: Block) -> list[Example]:
    """Return the commands of a console block."""
    parts = re.split(r"^\$ ", block.body, flags=re.MULTILINE)[1:]
    return [Example(*part.partition("\n")[::2]) for part in parts]


def shell(command: str, folder: Path, **environment: str) -> str:
    """Run a command in a folder and return its standard output.

    Raises:
        AssertionError: its exit code is not 0.
    """
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


def run(page: Path, folder: Path, **environment: str) -> Iterator[tuple[Example, str]]:
    """Run the examples of a page in a folder, which is the working directory.

    Yields:
        each command, and what it printed, as soon as it has run.
    """
    names: dict[str, object] = {}
    for block in blocks(page):
        if block.title:
            (folder / block.title).write_text(block.body)
        elif block.language == "python":
            exec(compile(block.body, str(page), "exec"), names)
        elif block.language == "console":
            for example in examples(block):
                yield example, shell(example.command, folder, **environment)
