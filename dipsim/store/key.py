"""Key of a cell: what its figures follow from, as one hash."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any


def key_of(parts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of plain values as canonical JSON, 64 hexadecimal digits.

    The order of keys does not matter; numbers are told apart to the last bit, and 1 from 1.0.
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256(text.encode()).hexdigest()
