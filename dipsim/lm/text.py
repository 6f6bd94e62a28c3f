"""Texts as windows of token ids."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import DipsimError
from dipsim.texts import read_text


def read_ids(path: str | os.PathLike[str], tokenizer: Callable[..., Any]) -> NDArray[np.int64]:
    """Return the token ids of a text, int64[tokens], without special tokens.

    Args:
        path: a file in UTF-8, or ``python-reference``, which needs none.
        tokenizer: of the model.

    Raises:
        DipsimError: a file that is missing, too long, or not text, in one line.
    """
    ids = tokenizer(read_text(path), add_special_tokens=False)["input_ids"]
    return np.asarray(ids, np.int64)


def windows_of(
    ids: NDArray[np.int64], window: int, tokens: int | None = None, name: str = "the text"
) -> NDArray[np.int64]:
    """Cut a text into windows side by side, int64[n, window]; an incomplete last one is dropped.

    Args:
        ids: int64[tokens] of the text.
        window: tokens per window.
        tokens: most tokens to use; default: all.
        name: name of the text in error messages.

    Raises:
        DipsimError: a window that predicts nothing, or a text shorter than a window.
    """
    if window < 2:
        raise DipsimError(f"--window {window}: at least 2 tokens, of which the last is predicted")
    used = len(ids) if tokens is None else min(tokens, len(ids))
    if used < window <= len(ids):
        raise DipsimError(
            f"{name}: {used} of its {len(ids)} tokens are asked for, fewer than a window of "
            f"{window}: ask for more, or give a smaller --window"
        )
    if used < window:
        raise DipsimError(
            f"{name} has {used} tokens, fewer than a window of {window}: give a longer text, or a "
            "smaller --window"
        )
    return ids[: used // window * window].reshape(-1, window)


def judged_apart(
    ids: NDArray[np.int64],
    window: int,
    tokens: int | None,
    calibrate: str | None,
    name: str = "the text",
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """Return the windows of a text that are judged, int64[n, window], and the token ids that are
    calibrated on, int64[tokens], or None.

    No window reaches across the tokens that are taken out for calibration.

    Args:
        ids: int64[tokens] of the text.
        window: tokens per window.
        tokens: most tokens to judge; None for all.
        calibrate: ``"A:B"``, tokens that are not judged; None for none.
        name: name of the text in error messages.

    Raises:
        DipsimError: no such tokens, or as `windows_of`.
    """
    if calibrate is None:
        return windows_of(ids, window, tokens, name), None
    start, stop = _rows(calibrate, len(ids))
    sides = ids[:start], ids[stop:]
    rest = np.concatenate([side[: len(side) // window * window] for side in sides])
    name = f"{name}, less the tokens that calibrate,"
    return windows_of(rest, window, tokens, name), ids[start:stop]


def _rows(text: str, tokens: int) -> tuple[int, int]:
    """Read ``"A:B"`` as the first token and the one behind the last, of a text of ``tokens``.

    Raises:
        DipsimError: not of that form, or outside the text.
    """
    first, colon, last = text.partition(":")
    try:
        start, stop = int(first or 0), int(last or tokens)
    except ValueError:
        start, stop = 0, -1
    if not colon or not 0 <= start < stop <= tokens:
        raise DipsimError(f"--calibrate-tokens {text}: write A:B within the text's {tokens} tokens")
    return start, stop
