"""Write the text that models are judged on, the prose of Python's language reference.

``python docs/tables/text.py text.txt`` writes what ``--text python-reference`` names.
"""

import sys
from pathlib import Path

from dipsim.texts import reference

if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference() + "\n")
