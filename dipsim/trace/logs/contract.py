"""The contract of a reader of routing logs: how a file is recognised, and what reading it yields.

A log says which experts each token used in each layer. Whatever its form, a reader yields it as
`Rows`, in the order of the file; `table.py` makes tokens, sequences and layers of them.
"""

import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipsim.errors import TraceError
from dipsim.trace.tokens import DECODE

MOST_EXPERTS = 65_535
MOST_LAYERS = 10_000
MOST_PER_TOKEN = 1024
"""Experts that a token uses in one layer."""
_HEAD = 2**16

Ints = NDArray[np.int64]
LayersAre = Literal["model", "moe"]


class Rows(NamedTuple):
    """Experts that n pairs of a token and a layer used, in the order of the file."""

    token: Ints
    """int64[n], number of the token in its sequence; within a layer the numbers of a sequence rise.
    Where one falls back, a step was repeated (a rejected guess); where it falls back to the first
    one, another sequence begins."""
    layer: Ints
    """int64[n], as the log counts layers."""
    ids: Ints
    """int64[n, k], experts; -1 is none."""
    weights: NDArray[np.float32] | None = None
    """float32[n, k], weights or other scores of these experts, of which the best is the largest."""
    guesses: Ints | None = None
    """int64[n, k], experts that were guessed before it was known which ones are used."""
    phase: NDArray[np.uint8] | int = DECODE
    """uint8[n], 0 prefill, 1 decode."""
    sequence: Ints | int = 0
    """int64[n], number of the sequence, where the log has one."""


@dataclass(frozen=True)
class Ask:
    """Options on what a log leaves open."""

    layers_are: LayersAre | None = None
    """``model`` if the log numbers all layers of the model, ``moe`` if those with experts alone."""
    top_k: int | None = None
    """Experts that a token uses in a layer."""
    decode_only: bool = False
    """True if tokens of prompts are left out."""
    rank_order: bool = False
    """True if ids are in the order of the router's preference, the best first."""
    experts: int | None = None
    """Number of experts of a layer."""
    layers: int | None = None
    """Number of layers in it."""
    layers_first: bool = False
    """True if arrays are [layers, tokens, k]."""
    names: str | None = None
    """Array of a file that is read; None: those that are recognised."""

    def given(self) -> str | None:
        """Return the first option that was given, as the command line spells it; None for none."""
        for option in fields(self):
            if option.name != "names" and getattr(self, option.name) != option.default:
                return "--" + option.name.replace("_", "-")
        return None


@dataclass
class Log:
    """A log that is being read: its rows, and what it says beside them."""

    rows: Iterator[Rows]
    experts: int | None = None
    """Number of experts of a layer, where the log states it."""
    meta: dict[str, Any] = field(default_factory=dict)
    """Entries of the trace's meta."""
    by_layer: dict[str, dict[int, float]] = field(default_factory=dict)
    """Bytes by layer, as the log counts layers: ``unit_bytes`` of an expert, ``dense_bytes``."""
    tensors: int | None = None
    """Tensors that an expert is read from."""
    notes: list[str] = field(default_factory=list)
    """Sentences for the user; complete once all rows were read."""


@dataclass(frozen=True)
class Head:
    """The beginning of a file, by which its format is recognised."""

    path: Path

    @cached_property
    def is_folder(self) -> bool:
        """True for a folder."""
        return os.path.isdir(self.path)

    @cached_property
    def names(self) -> list[str]:
        """Names in a folder, sorted; of a file none."""
        try:
            return sorted(os.listdir(self.path)) if self.is_folder else []
        except OSError:
            return []

    @cached_property
    def data(self) -> bytes:
        """The first 64 KiB, inflated where they are gzipped; empty for what is no regular file."""
        if not os.path.isfile(self.path):
            return b""
        try:
            with open(self.path, "rb") as file:
                data = file.read(_HEAD)
            if data[:2] == b"\x1f\x8b":
                with gzip.open(self.path, "rb") as inflated:
                    data = inflated.read(_HEAD)
        except (OSError, EOFError, zlib.error):
            return b""
        return data

    @cached_property
    def text(self) -> str:
        """The data as text; empty for what is none."""
        if b"\0" in self.data:
            return ""
        return self.data.decode("utf-8", "replace").removeprefix("\ufeff")

    @cached_property
    def line(self) -> str:
        """The first line."""
        return self.text.partition("\n")[0].strip()


@dataclass(frozen=True)
class Format:
    """A row of the table of formats."""

    name: str
    """Name that ``--format`` takes."""
    source: str
    """Programs that write it."""
    form: str
    """Its look, in a few words."""
    recognises: Callable[[Head], bool]
    """Returns True for the beginning of a file of this format."""
    read: Callable[[Path, Ask], Log]
    """Opens a file; raises `TraceError` for what cannot be read."""


def ask(path: Path, what: str, options: str) -> TraceError:
    """Return the error for what the log leaves open and an option settles."""
    return TraceError(f"{path}: {what}: give {options}")
