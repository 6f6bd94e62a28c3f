"""The repository, and the files beside it that are not shipped."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
GOLDEN = ROOT / "tests" / "golden"
SHARED = ROOT.parent / "shared"
"""Large or third-party files; tests that need one are skipped where it is missing."""
LONG_CHAT = SHARED / "traces" / "smollm2-135m-chat-256.npz"
"""A longer trace than the shipped one, of the same model."""
VALIDATION = SHARED / "validation"
NEEDS_TORCH = "needs the extra: pip install 'dipsim[torch]'"
NOT_SHIPPED = "needs recordings that are not in this repository (../shared)"
of_a_phone = pytest.mark.skipif(not VALIDATION.exists(), reason=NOT_SHIPPED)
of_the_long_chat = pytest.mark.skipif(not LONG_CHAT.exists(), reason=NOT_SHIPPED)


def shared(path: str) -> Path:
    """Return a shared file; skip the test where it is missing."""
    file = SHARED / path
    if not file.exists():
        pytest.skip(NOT_SHIPPED)
    return file
