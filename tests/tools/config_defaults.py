"""Write `dipsim/model/families/defaults.json`: what config classes give keys that are left out.

Needs transformers; run it when the table of families has a new row.
"""

import json
import re
from pathlib import Path
from typing import Any

from tools.paths import ROOT

FOLDER = ROOT / "dipsim/model/families"
FILE = FOLDER / "defaults.json"


def read_keys() -> set[str]:
    """Return every text in the source of the rules that may be a key."""
    source = "".join(path.read_text() for path in FOLDER.glob("*.py"))
    return set(re.findall(r'"([a-z][A-Za-z0-9_]+)"', source))


def defaults_of(kind: str, keys: set[str]) -> dict[str, Any]:
    """Return the values of the keys that a config class gives by itself; {} for unknown classes."""
    from transformers import CONFIG_MAPPING

    if kind not in CONFIG_MAPPING:
        return {}
    of = CONFIG_MAPPING[kind]  # what its instances work out of other values does not count
    found = {key: getattr(of, key, None) for key in sorted(keys)}
    return {key: value for key, value in found.items() if isinstance(value, bool | int | str)}


def main() -> None:
    """Write the file."""
    from dipsim.model.families import FAMILIES

    keys = read_keys()
    rows = {kind: defaults_of(kind, keys) for kind in sorted(FAMILIES)}
    lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in rows.items() if v)
    Path(FILE).write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
