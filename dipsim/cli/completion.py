"""Names that a shell completes; where none fits, the shell goes on with files.

Those of policies and methods are read from the text of their modules: to import them loads numba,
for which nobody waits at a press of a key.
"""

import re
from collections.abc import Iterable
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_POLICY = re.compile(r'\bPolicy\(\s*"([\w-]+)"')
_METHOD = re.compile(r'"([\w-]+)": Entry\(')


def traces(incomplete: str) -> list[str]:
    """Return the shipped traces that begin so."""
    from dipsim.trace import trace_names

    return _beginning(trace_names(), incomplete)


def profiles(incomplete: str) -> list[str]:
    """Return the shipped profiles that begin so."""
    from dipsim.hardware import profile_names

    return _beginning(profile_names(), incomplete)


def profile_keys(incomplete: str) -> list[str]:
    """Return the figures to sort profiles by that begin so."""
    from dipsim.analysis.profile_list import KEYS

    return _beginning(KEYS, incomplete)


def models(incomplete: str) -> list[str]:
    """Return the model presets that begin so."""
    from dipsim.model import model_names

    return _beginning(model_names(), incomplete)


def policies(incomplete: str) -> list[str]:
    """Return the policies that begin so."""
    return _beginning(_named("policies", _POLICY), incomplete)


def methods(incomplete: str) -> list[str]:
    """Return the methods that begin so."""
    return _beginning(_named("methods", _METHOD), incomplete)


def _named(package: str, pattern: re.Pattern[str]) -> list[str]:
    texts = (path.read_text(encoding="utf-8") for path in (_PACKAGE / package).glob("*.py"))
    return sorted({name for text in texts for name in pattern.findall(text)})


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
