"""A fingerprint of code, so that numba's stored machine code is never older than its source.

numba renews stored code when the file of the compiled function changes, but not when a function it
calls does. A function that calls into other files is `stored` under the fingerprint, or takes it as
a closure variable: numba makes the values of those part of its key.
"""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_KERNELS = Path(__file__).parent


def fingerprint(homes: Iterable[Path] = (), *texts: str) -> str:
    """Return a hash of the kernels, of all Python files in further folders, and of texts."""
    digest = hashlib.sha256("\n".join(texts).encode())
    for home in sorted({*homes, _KERNELS}):
        digest.update(_hash_of(home))
    return digest.hexdigest()


@cache
def _hash_of(folder: Path) -> bytes:
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.digest()
