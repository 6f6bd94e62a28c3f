"""One way to run a model on a device, with what it does and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dipsim.planning.question import Figures
from dipsim.views import shortened


@dataclass(frozen=True)
class Way:
    """A way to run a model."""

    name: str
    """In a few words, e.g. ``dip-ca 0.5``."""
    why: str
    """What it changes, in a sentence."""
    options: Mapping[str, Any]
    """Options of `dipsim run` that it changes."""
    figures: Figures
    loss: str = "none"
    """What it costs in accuracy, as far as that is known."""

    __repr__ = __str__ = shortened

    def reaches(self, target: float | None) -> bool:
        """Return whether its rate is as wanted."""
        return target is None or self.figures.rate.value >= target

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        words = {"name": self.name, "why": self.why, "loss": self.loss}
        options = {key: _plain(value) for key, value in self.options.items()}
        return {**words, "options": options, **self.figures.to_dict()}


def _plain(value: Any) -> Any:
    """Return the value of an option as a plain one."""
    return value if isinstance(value, str | int | float | bool) else str(value)
