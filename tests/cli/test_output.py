"""What reaches the terminal and files: whole numbers, harmless texts, or one line that says why."""

import json
import os
import re
import subprocess
import xml.dom.minidom
from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rich.console
import yaml

from dipsim import load_trace, simulate
from dipsim.cli import output
from dipsim.errors import printable
from dipsim.policies import BUILTIN
from dipsim.report import tables
from dipsim.report.tables import Table
from tools.cli import PROGRAM, Dipsim, done, lines_of, refused, runner
from tools.devices import PHONE
from tools.folder import MODEL

# Widths -------------------------------------------------------------------------------------------

WIDE, NARROW = 200, (20, 30, 40, 60)
NUMBER = re.compile(r"[-+]?\d[\d.,]*(?:e[-+]?\d+)?%?")
PRINTING = [
    "run marked.npz -p oneplus15r --cache-fraction .5 --policy lru --attribution",
    "run t.npz -p phone.yaml --method dip-ca --cache-fraction .5",
    "compare t.npz -p oneplus15r --cache-fraction .5 --cache-fraction .7",
    "mrc t.npz",
    "search t.npz -p phone.yaml --max-loss .5 --cache-fraction .5",
    "search t.npz -p phone.yaml --target-rate 100000",
    "search t.npz -p phone.yaml --axes dram,flash-bandwidth --points 9",
    "study",
    "study density t.npz -p phone.yaml",
    "study gamma t.npz -p phone.yaml",
    "inspect marked.npz",
    "export t.npz out.npz",
    "profiles",
    "profiles oneplus15r",
    "profiles snapdragon8",
    "models",
    "models llama-3-8b",
    "policies",
    "methods",
    "validate",
]


class EveryWidth:
    """Stands in for the console of rich: prints on consoles of several widths, and keeps that."""

    printed: dict[int, str]

    def __init__(self, **options: Any) -> None:
        self.options = options

    def print(self, *shown: Any, **how: Any) -> None:
        for width in self.printed:
            console = rich.console.Console(file=StringIO(), width=width, **self.options)
            console.print(*shown, **how)
            self.printed[width] += console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("judged_once")
@pytest.mark.parametrize("line", PRINTING)
def test_no_number_breaks_or_vanishes_on_a_narrow_terminal(
    dipsim: Dipsim, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr(EveryWidth, "printed", dict.fromkeys((WIDE, *NARROW), ""), raising=False)
    monkeypatch.setattr(output, "Console", EveryWidth)
    done(dipsim(line))
    wide, *narrow = (Counter(NUMBER.findall(text)) for text in EveryWidth.printed.values())
    assert wide or line in ("study", "methods")
    assert narrow == [wide] * len(NARROW)


def printed(shown: Any, monkeypatch: pytest.MonkeyPatch, width: int) -> list[str]:
    """Return the lines that are printed on a terminal of a width."""
    text = StringIO()
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stdout", text)
    output.show(shown)
    return text.getvalue().splitlines()


def test_a_table_folds_texts_before_it_is_wider_than_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = Table("name", "what it is", "bytes", "", right=(2,))
    table.add_row("one", "a text of some words", "12.5 MB", "")
    assert printed(table, monkeypatch, 40) == [
        "name  what it is              bytes",
        "one   a text of some words  12.5 MB",
    ]
    assert printed(table, monkeypatch, 30) == [
        "name  what it is       bytes",
        "one   a text of      12.5 MB",
        "      some words",
    ]
    assert printed(table, monkeypatch, 10) == [
        "      what",
        "name  it is    bytes",
        "one   a      12.5 MB",
        "      text",
        "      of",
        "      some",
        "      words",
    ]


# Foreign text -------------------------------------------------------------------------------------

STEERING = "\x1b[31mred\x07\u202egnp\u2066.\u200f\u200b\r\nline"
"""A colour, a bell, marks that turn the direction of writing, an invisible one, a line end."""
MARKUP = "[bold]$x^$[/] :cat: </text>&<!--"
NAME = "$x^$" + STEERING + MARKUP  # of a long name a picture leaves out the middle


def steers(text: str) -> set[str]:
    """Return the characters that must not reach a terminal, and line ends within a name."""
    found = {char for char in text if not char.isprintable() and char != "\n"}
    return found | ({"\n"} if re.search(r"(?m)^line\[bold\]", text) else set())


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a trace, a profile, a model and a policy that all have a hostile name."""
    path = tmp_path_factory.mktemp("named")
    rng = np.random.default_rng(0)
    meta = {"model": {**MODEL, "name": NAME}, "source": NAME + "\ud800", "license": NAME}
    np.savez(
        path / f"{NAME.replace('/', '')}.npz",
        mlp_input=rng.random((12, 2, 16)).astype(np.float32),
        glu=rng.random((12, 2, 32)).astype(np.float32),
        meta=np.array(json.dumps(meta)),
    )
    sources = {"flash.bandwidth": {"kind": "vendor", "from": NAME}}
    phone = {**PHONE, "name": NAME, "summary": NAME, "sources": sources}
    model = {**MODEL, "name": NAME, "sources": {NAME: NAME}}
    (path / "phone.yaml").write_text(yaml.safe_dump(phone))
    (path / "model.yaml").write_text(yaml.safe_dump(model))
    (path / "mine.py").write_text(
        "from dataclasses import replace\n"
        "from dipsim.policies import BUILTIN\n"
        f"policy = replace(BUILTIN['lru'], name={NAME!a}, summary={NAME!a})\n"
    )
    return path


@pytest.mark.parametrize(
    ("line", "files"),
    [
        ("profiles phone.yaml", ""),
        ("models model.yaml", ""),
        ("policies --check mine.py:policy", ""),
        ("inspect TRACE --plot o.svg", "o.svg"),
        ("run TRACE -p phone.yaml POLICY --plot o.svg --timeline o.json", "o.svg o.json"),
        ("compare TRACE -p phone.yaml POLICY --plot o.svg --csv o.csv", "o.svg o.csv"),
        ("mrc TRACE POLICY --plot o.svg --csv o.csv", "o.svg o.csv"),
        ("search TRACE -p phone.yaml POLICY --max-loss .5 --plot o.svg --csv o.csv", "o.svg o.csv"),
        ("search TRACE -p phone.yaml POLICY --target-rate 9 --plot o.svg", "o.svg"),
        ("study policies TRACE -p phone.yaml POLICY --plot o.svg --csv o.csv", "o.svg o.csv"),
        ("export TRACE oTRACE", ""),
    ],
)
def test_foreign_text_cannot_steer_what_shows_it(
    line: str,
    files: str,
    named: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trace = next(named.glob("*red*.npz")).name
    words = line.replace("POLICY", "--policy mine.py:policy").split()
    run = runner(monkeypatch, capsys, named)
    monkeypatch.setenv("COLUMNS", "900")  # so that no line end is one of folding
    outcome = run("", *(word.replace("TRACE", trace) for word in words))
    assert outcome.code == 0
    texts = {file: (named / file).read_text(encoding="utf-8") for file in files.split()}
    assert "red" in outcome.out + "".join(texts.values()) or "--check" in line
    assert steers("\n".join([outcome.out, *outcome.err])) == set()
    for file, text in texts.items():
        assert steers(text) == set()
        if file.endswith(".svg"):
            assert "$x^$" in text  # the name stands there as it is, not as a formula
            xml.dom.minidom.parseString(text)


@pytest.mark.parametrize("words", [["profiles"], ["run"], ["run", "smollm2-chat", "-p"], []])
def test_a_line_of_refusal_is_harmless(dipsim: Dipsim, words: list[str]) -> None:
    refused(outcome := dipsim("", *words, NAME))
    assert steers("\n".join(outcome.err)) == set()


@pytest.mark.parametrize(
    ("line", "key"), [("profiles phone.yaml", "summary"), ("models model.yaml", "name")]
)
def test_json_keeps_foreign_text_exactly(
    line: str,
    key: str,
    named: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcome = done(runner(monkeypatch, capsys, named)(f"{line} --json"))
    assert steers(outcome.out) == set()
    assert outcome.json[key] == NAME


def test_html_of_a_result_is_harmless(named: Path) -> None:
    trace = load_trace(next(named.glob("*red*.npz")))
    policy = replace(BUILTIN["lru"], name=NAME)
    text = simulate(trace, PHONE, policy=policy, cache_fraction=0.5)._repr_html_()
    assert "red" in text
    assert steers(text) == set()
    xml.dom.minidom.parseString(f"<body>{text}</body>")


def test_no_report_prints_around_the_place_that_makes_text_harmless() -> None:
    reports = {path.name: path.read_text() for path in Path(tables.__file__).parent.glob("*.py")}
    assert "Text(" in reports.pop("tables.py")
    assert [name for name, text in reports.items() if re.search(r"\bText\(|rich.table", text)] == []


def test_printable_text_is_one_line_and_keeps_scripts() -> None:
    assert printable("a\tb\r\nc\u2028d\u00a0e") == "a b  c d e"
    assert (
        printable("\x1b\x00\x9b\u202a\u202e\u2066\u2069\u200e\u200f\u200b\ufeff\ud800") == "?" * 12
    )
    assert printable("Жµ好é ─") == "Жµ好é ─"


# Streams ------------------------------------------------------------------------------------------

SHORT = [
    "--help",
    "--version",
    pytest.param("run --help", marks=pytest.mark.slow),
    "policies",
    "profiles --json",
]


def piped(line: str, where: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command line as a program, with what a shell does to its streams."""
    return subprocess.run(
        ["bash", "-c", f'"$@" {where}', "bash", *PROGRAM, *line.split()],
        capture_output=True,
        encoding="utf-8",
        cwd=folder,
        env={**os.environ, "COLUMNS": "80", **more},
    )


@pytest.mark.parametrize("where", [">/dev/full", ">&-"])
@pytest.mark.parametrize("line", SHORT)
def test_output_that_cannot_be_written_ends_in_one_line(
    line: str, where: str, folder: Path
) -> None:
    ran = piped(line, where, folder)
    assert ran.returncode == 2
    why = {">&-": "standard output is closed", ">/dev/full": "No space left on device"}[where]
    (error,) = lines_of(ran.stderr)
    assert error.startswith("dipsim: ")
    assert why in error


@pytest.mark.parametrize("where", ["2>/dev/full", "2>&-"])
@pytest.mark.parametrize(
    ("line", "code"),
    [("run t.npz -p phone.yaml --cache-fraction 0 --json", 0), ("run t.npz", 2)],
)
def test_json_does_not_need_standard_error(line: str, code: int, where: str, folder: Path) -> None:
    ran = piped(line, where, folder)
    assert (ran.returncode, ran.stderr) == (code, "")
    assert code == 2 or json.loads(ran.stdout)["hits"] == 0


@pytest.mark.parametrize("line", SHORT)
def test_a_reader_of_one_line_is_no_error(line: str, folder: Path) -> None:
    ran = piped(line, '| head -1; exit "${PIPESTATUS[0]}"', folder)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.strip()


@pytest.mark.parametrize(
    ("line", "encoding"),
    [
        ("inspect 好µЖ─.npz", "ascii"),
        ("inspect 好µЖ─", "cp1252:strict"),
        pytest.param("inspect 好µЖ─.npz", "latin-1", marks=pytest.mark.slow),
        pytest.param("inspect 好µЖ─.npz", "cp1252:strict", marks=pytest.mark.slow),
        pytest.param("inspect 好µЖ─", "ascii", marks=pytest.mark.slow),
    ],
)
def test_a_character_that_the_encoding_lacks_is_substituted(
    line: str, encoding: str, folder: Path
) -> None:
    (folder / "好µЖ─.npz").write_bytes((folder / "t.npz").read_bytes())
    ran = piped(line, "2> >(cat -v >&2) | cat -v", folder, PYTHONIOENCODING=encoding)
    errors = lines_of(ran.stderr)
    if line.endswith(".npz"):
        assert errors == []
        assert re.match(r"\?\S+\?\?\.npz\n", ran.stdout)
    else:
        (error,) = errors
        assert "\\u597d" in error


# Paths --------------------------------------------------------------------------------------------

WRITING = {
    "run t.npz -p phone.yaml --plot": ".svg",
    "run t.npz -p phone.yaml --timeline": ".json",
    "compare t.npz -p phone.yaml --csv": ".csv",
    "mrc t.npz --csv": ".csv",
    "search t.npz -p phone.yaml --max-loss .5 --csv": ".csv",
    "study density t.npz --plot": ".png",
    "inspect t.npz --plot": ".pdf",
    "iobench t.npz --csv": ".csv",
    "calibrate reads.csv --extends oneplus15r --out": ".yaml",
    "eval . --text t.npz --calibration": ".json",
    "validate --page": ".md",
    "export t.npz": ".npz",
    "import t.npz": ".npz",
    "synth": ".npz",
    "record . --prompt a": ".npz",
    "validate --replay t.npz": "",
}


@pytest.fixture(scope="module")
def barred(folder: Path) -> Path:
    """The folder of small traces, with links that lead round in a circle, and folders."""
    for suffix in set(WRITING.values()):
        (folder / f"loop{suffix}").symlink_to(f"loop{suffix}")
        (folder / f"is-folder{suffix}").mkdir()
    return folder


@pytest.mark.parametrize("path", ["loop", "loop/new", "is-folder", "t.npz/new", "nowhere/new"])
@pytest.mark.parametrize("line", WRITING)
def test_a_path_that_cannot_be_written_is_refused_before_the_work(
    dipsim: Dipsim, barred: Path, line: str, path: str
) -> None:
    before = sorted(barred.iterdir())
    outcome = dipsim(line, path + WRITING[line])
    refused(outcome, path)
    assert re.search("cannot be (written|made)|folder|not a regular file", outcome.err[0])
    assert sorted(barred.iterdir()) == before
