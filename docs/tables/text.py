"""Write a text to judge models on: the prose of Python's language reference.

``python docs/tables/text.py text.txt`` writes it. It is part of Python (PSF licence): nothing is
fetched.
"""

import re
import sys
from pathlib import Path
from pydoc_data.topics import topics

_LEAST_WORDS, _LEAST_PLAIN = 12, 0.94
_PLAIN = set(" .,;:'\"()-")


def prose() -> str:
    """Return the paragraphs of plain sentences, each once: topics repeat one another."""
    kept: dict[str, None] = {}
    for name in sorted(topics):
        for paragraph in re.split(r"\n\s*\n", topics[name]):
            words = paragraph.split()
            text = " ".join(words)
            plain = sum(letter.isalpha() or letter in _PLAIN for letter in text)
            if len(words) >= _LEAST_WORDS and plain >= _LEAST_PLAIN * len(text):
                kept[text] = None
    return "\n\n".join(kept)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(prose() + "\n")
