"""Texts as windows of token ids."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import DipsimError, brief
from dipsim.texts import read_text

BOS = ("auto", "always", "never")
"""Choices of ``bos``: when windows begin with what a tokenizer puts before a text."""


def read_ids(path: str | os.PathLike[str], tokenizer: Callable[..., Any]) -> NDArray[np.int64]:
    """Return the token ids of a text, int64[tokens], without special tokens.

    Args:
        path: a file in UTF-8, or ``python-reference``, which needs none.
        tokenizer: of the model.

    Raises:
        DipsimError: a file that is missing, too long, or not text, in one line.
    """
    return np.asarray(_plain(tokenizer, read_text(path)), np.int64)


def prefix_of(tokenizer: Callable[..., Any], bos: str = "auto") -> tuple[int, ...]:
    """Return the token ids that stand before each window of a text.

    A model that was trained with a token of beginning before every text (Gemma, Llama) is off
    without it, by orders of magnitude.

    Args:
        tokenizer: of the model.
        bos: ``auto``: what the tokenizer itself puts before a text, if anything; ``always``: that,
            or else its token of beginning; ``never``: nothing.

    Raises:
        DipsimError: another ``bos``, or ``always`` with a tokenizer that has no such token.
    """
    if bos not in BOS:
        raise DipsimError(f"--bos {brief(bos)}: give one of {', '.join(BOS)}")
    if bos == "never":
        return ()
    given, plain = tokenizer("a")["input_ids"], _plain(tokenizer, "a")
    starts = range(len(given) - len(plain) + 1)
    before = next((i for i in starts if given[i : i + len(plain)] == plain), 0)
    if before:
        return tuple(given[:before])
    first = getattr(tokenizer, "bos_token_id", None)
    if bos == "auto":
        return ()
    if first is None:
        raise DipsimError("--bos always: this tokenizer has no token of beginning: leave it out")
    return (int(first),)


def _plain(tokenizer: Callable[..., Any], text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def windows_of(
    ids: NDArray[np.int64],
    window: int,
    tokens: int | None = None,
    name: str = "the text",
    prefix: Sequence[int] = (),
) -> NDArray[np.int64]:
    """Cut a text into windows side by side, int64[n, window]; an incomplete last one is dropped.

    Args:
        ids: int64[tokens] of the text.
        window: tokens per window, with its prefix.
        tokens: most tokens to use; default: all.
        name: name of the text in error messages.
        prefix: token ids that every window begins with, of `prefix_of`.

    Raises:
        DipsimError: a window that predicts nothing, or a text shorter than a window.
    """
    if window < 2:
        raise DipsimError(f"--window {window}: at least 2 tokens, of which the last is predicted")
    own = window - len(prefix)
    if own < 1:
        raise DipsimError(
            f"--window {window}: the tokenizer puts {len(prefix)} tokens before a text: give a "
            "longer one, or --bos never"
        )
    used = len(ids) if tokens is None else min(tokens, len(ids))
    if used < own <= len(ids):
        raise DipsimError(
            f"{name}: {used} of its {len(ids)} tokens are asked for, fewer than a window of "
            f"{own}: ask for more, or give a smaller --window"
        )
    if used < own:
        raise DipsimError(
            f"{name} has {used} tokens, fewer than a window of {own}: give a longer text, or a "
            "smaller --window"
        )
    rows = ids[: used // own * own].reshape(-1, own)
    before = np.broadcast_to(np.array(prefix, np.int64), (len(rows), len(prefix)))
    return np.concatenate([before, rows], axis=1)


def judged_apart(
    ids: NDArray[np.int64],
    window: int,
    tokens: int | None,
    calibrate: str | None,
    name: str = "the text",
    prefix: Sequence[int] = (),
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
        prefix: token ids that every window begins with, of `prefix_of`.

    Raises:
        DipsimError: no such tokens, or as `windows_of`.
    """
    if calibrate is None:
        return windows_of(ids, window, tokens, name, prefix), None
    start, stop = _rows(calibrate, len(ids))
    sides = ids[:start], ids[stop:]
    own = max(1, window - len(prefix))
    rest = np.concatenate([side[: len(side) // own * own] for side in sides])
    name = f"{name}, less the tokens that calibrate,"
    return windows_of(rest, window, tokens, name, prefix), ids[start:stop]


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
