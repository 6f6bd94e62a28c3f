"""Make the shipped profiles from facts and cases; device_numbers.py says how.

python hardware_profiles/make.py            write NAME.yaml of every device beside this script
python hardware_profiles/make.py --check    compare instead; exit 1 where a file differs
"""

import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from device_numbers import Devices, Numbers, nested
from dipsim import files
from dipsim.errors import ProfileError
from dipsim.validate.cases import Cases, load_cases

HERE = Path(__file__).resolve().parent
_MADE = "# Made by hardware_profiles/make.py: edit hardware_profiles/facts/ and run it."
_BEHIND = ("runtime_overhead", "staging", "thermal", "page_cache", "energy")
"""Sections that stand behind the backends."""
_WIDTH = 98
"""Columns of a comment."""


def read_facts(folder: Path = HERE / "facts") -> dict[str, Any]:
    """Return the facts: ``shared`` numbers and kits, and ``devices`` by name."""
    devices: dict[str, Any] = {}
    for path in sorted(folder.glob("*.yaml")):
        if path.stem != "shared":
            devices |= files.read_yaml(path, ProfileError)
    return {"shared": files.read_yaml(folder / "shared.yaml", ProfileError), "devices": devices}


def make(facts: Mapping[str, Any], cases: Cases) -> dict[str, str]:
    """Return the texts of all profiles, by their names.

    Raises:
        DipsimError: facts or cases that make no profile.
    """
    devices = Devices(facts, cases)
    return {name: "\n".join(_text(devices, name)) + "\n" for name in devices.names}


def _text(devices: Devices, name: str) -> Iterator[str]:
    """Yield the lines of a profile."""
    facts = devices.facts(name)
    yield from textwrap.wrap(facts["about"], _WIDTH, initial_indent="# ", subsequent_indent="# ")
    yield _MADE
    stated = [key for key in ("extends", "summary", "default") if key in facts]
    yield from _lines({"name": name} | {key: facts[key] for key in stated})
    if "extends" in facts:
        return
    outside, backends = devices.outside(name), devices.backends(name)
    behind = {key: each for key, each in outside.items() if key.split(".")[0] in _BEHIND}
    before = {key: each for key, each in outside.items() if key not in behind}
    yield from _sections(before)
    yield "backends:"
    inside: Numbers = {}
    for backend, (engine, numbers) in backends.items():
        yield f"  {backend}:"
        section = {"engine": engine} if engine else {}
        yield from (f"    {line}" for line in _lines(section | nested(numbers)))
        inside |= {f"backends.{backend}.{key}": number for key, number in numbers.items()}
    yield from _sections(behind)
    yield "sources:"
    for key, number in (before | inside | behind).items():
        yield f"  {key}: {_flow(number.source)}"


def _sections(numbers: Numbers) -> Iterator[str]:
    """Yield the lines of numbers by their dotted keys."""
    for top, section in nested(numbers).items():
        if top == "flash":
            yield "flash:"
            yield from (f"  {line}" for line in _lines(section))
        else:
            yield f"{top}: {_flow(section)}"


def _lines(section: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each key, and one for each entry of a list."""
    for key, value in section.items():
        if isinstance(value, list):
            yield f"{key}:"
            yield from (f"  - {_flow(entry)}" for entry in value)
        else:
            yield f"{key}: {_flow(value)}"


def _flow(value: Any, inside: bool = False) -> str:
    """Return a value on one line; texts of sources, and others that need it, stand in quotes.

    Args:
        inside: it stands in brackets, where a comma ends it.
    """
    if isinstance(value, Mapping):
        entries = (
            f"{key}: {_quoted(each) if key == 'from' else _flow(each, inside=True)}"
            for key, each in value.items()
        )
        return f"{{{', '.join(entries)}}}"
    if isinstance(value, list):
        return f"[{', '.join(_flow(each, inside=True) for each in value)}]"
    if not isinstance(value, str):
        return str(value)
    try:
        read = yaml.safe_load(f"[{value}]" if inside else f"- {value}")
        return value if read == [value] else _quoted(value)
    except yaml.YAMLError:
        return _quoted(value)


def _quoted(text: str) -> str:
    """Return a text in quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def main(options: list[str]) -> int:
    """Write the profiles, or compare them; return the exit code."""
    texts = make(read_facts(), load_cases())
    paths = {path.stem: path for path in HERE.glob("*.yaml")}
    known = {name: path.read_text() for name, path in paths.items()}
    differ = sorted(name for name in {*texts, *known} if texts.get(name) != known.get(name))
    if options == ["--check"]:
        for name in differ:
            print(f"{name}.yaml is not what facts and cases make: run {__file__}", file=sys.stderr)
        return int(bool(differ))
    for name in differ:
        if name in texts:
            (HERE / f"{name}.yaml").write_text(texts[name])
        else:
            paths[name].unlink()
        print(f"{name}.yaml {'written' if name in texts else 'removed: no facts of it'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
