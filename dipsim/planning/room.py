"""The DRAM that a model takes, part by part, and what a device leaves to an app."""

from dataclasses import dataclass
from typing import Any

from dipsim.planning.question import Question
from dipsim.views import shortened


@dataclass(frozen=True)
class Room:
    """Bytes of DRAM that a model takes with everything in it, and what there is."""

    weights: float
    kv: float
    """Keys and values of all positions of the context."""
    overhead: float
    """Code and activations of the runtime."""
    staging: float
    """The buffer that reads go through."""
    available: float
    """DRAM that the system leaves to an app."""

    __repr__ = __str__ = shortened

    @property
    def taken(self) -> float:
        """All that the model takes."""
        return self.weights + self.kv + self.overhead + self.staging

    @property
    def margin(self) -> float:
        """DRAM that is left; below 0 where the model does not fit."""
        return self.available - self.taken

    @property
    def fits(self) -> bool:
        """True if all of it stays in DRAM."""
        return self.margin >= 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        parts = ("weights", "kv", "overhead", "staging", "available", "margin", "fits")
        return {part: getattr(self, part) for part in parts}


def room_of(question: Question, staging: float) -> Room:
    """Return what a model takes with everything in DRAM; rows of an embedding that is no head, of
    which a token reads one, stay in flash.

    Args:
        staging: bytes of the buffer of a run.
    """
    model, device = question.model, question.device
    return Room(
        weights=model.total_bytes - model.embedding_bytes,
        kv=float(model.kv_bytes(question.context, question.options.get("kv_bits", 16))),
        overhead=device.runtime_overhead,
        staging=staging,
        available=device.dram.available,
    )
