"""Texts that models are judged on: files, and the prose of Python's language reference."""

import os
import re
from pathlib import Path

from dipsim.errors import DipsimError

REFERENCE = "python-reference"
"""Name of a text that every machine has: it is part of Python (PSF licence)."""
_MOST = 2**28
"""Largest text file that is read, in bytes."""
_LEAST_WORDS, _LEAST_PLAIN = 12, 0.94
_PLAIN = set(" .,;:'\"()-")


def read_text(name: str | os.PathLike[str]) -> str:
    """Return a text: a file in UTF-8, or `REFERENCE`.

    Raises:
        DipsimError: a file that is missing, too long, or not text, in one line.
    """
    path = Path(name)
    if name == REFERENCE and not path.exists():
        return reference()
    try:
        size = path.stat().st_size
        if size > _MOST:
            raise DipsimError(f"{path}: {size} bytes of text; give at most {_MOST}")
        return path.read_text(encoding="utf-8")
    except OSError as problem:
        raise DipsimError(f"{path}: cannot be read ({problem.strerror}); give a text") from None
    except UnicodeDecodeError:
        raise DipsimError(f"{path}: not a text in UTF-8") from None


def reference() -> str:
    """Return the paragraphs of plain sentences, each once: topics repeat one another."""
    from pydoc_data.topics import topics

    kept: dict[str, None] = {}
    for name in sorted(topics):
        for paragraph in re.split(r"\n\s*\n", topics[name]):
            words = paragraph.split()
            text = " ".join(words)
            plain = sum(letter.isalpha() or letter in _PLAIN for letter in text)
            if len(words) >= _LEAST_WORDS and plain >= _LEAST_PLAIN * len(text):
                kept[text] = None
    return "\n\n".join(kept)
