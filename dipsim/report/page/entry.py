"""A cell of a store as a page reads it: figures that are checked one by one, whoever wrote them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from dipsim.errors import brief
from dipsim.report.page.texts import RESOURCES, number_of

_KNOWING = {"clairvoyant"}
"""Marks of policies that know more than a device does."""
_LOSSES = {"perplexity": "perplexity", "loss": "loss"}
"""Figures that are losses, and what they are called."""


class Ends(NamedTuple):
    """Ends of an interval around a rate, in tokens per second."""

    low: float
    high: float


@dataclass(frozen=True)
class Entry:
    """A finished cell: its place, what repeats it, and its figures or why it has none."""

    place: Mapping[str, Any]
    options: Mapping[str, Any]
    figures: Mapping[str, Any] | None
    marks: tuple[str, ...]
    why: str
    semantics: int

    @property
    def ran(self) -> bool:
        """True if there are figures."""
        return self.figures is not None

    @property
    def on_a_device(self) -> bool:
        """True if its policy keeps something, and knows no more than a device does."""
        policy = self.options.get("policy", self.place.get("policy"))
        return self.ran and not _KNOWING.intersection(self.marks) and policy != "none"

    def figure(self, name: str) -> Any:
        """Return a figure of any kind; None where there is none."""
        return None if self.figures is None else self.figures.get(name)

    def _mapping(self, name: str) -> Mapping[str, Any]:
        value = self.figure(name)
        return value if isinstance(value, Mapping) else {}

    def number(self, name: str) -> float | None:
        """Return a figure that is a number; None where there is none."""
        return number_of(self.figure(name))

    @cached_property
    def rate(self) -> float | None:
        """Tokens per second; None where tokens take no time, or nothing ran."""
        return self.number("tokens_per_second")

    @property
    def speed(self) -> float:
        """The rate, to be compared: 0 where there is none."""
        return self.rate or 0.0

    @cached_property
    def hit_rate(self) -> float | None:
        """Share of the active bytes that hit."""
        share = self.number("hit_rate")
        return share if share is None or share <= 1 else None

    @cached_property
    def level(self) -> float | None:
        """Share of true rates that `interval` holds; None where there is none."""
        level = number_of(self._mapping("tokens_per_second_interval").get("level"))
        return level if level is not None and level <= 1 and self.interval is not None else None

    @property
    def unmeasured(self) -> str:
        """Sentence where no phone was measured with the method; else empty."""
        text = self._mapping("tokens_per_second_interval").get("unmeasured")
        return brief(text, 300) if isinstance(text, str) else ""

    @property
    def estimates(self) -> list[str]:
        """Keys of the profile that the times rest on, and that are estimates."""
        keys = self.figure("estimates")
        return (
            [brief(key) for key in keys if isinstance(key, str)] if isinstance(keys, list) else []
        )

    @cached_property
    def interval(self) -> Ends | None:
        """Interval of the rate, by what the profile's numbers are worth."""
        given = self._mapping("tokens_per_second_interval")
        return _ends(given.get("low"), given.get("high"))

    @cached_property
    def band(self) -> Ends | None:
        """Rates with no and with full overlap of reading and use."""
        given = self.figure("tokens_per_second_range")
        return _ends(*given) if isinstance(given, list | tuple) and len(given) == 2 else None

    @cached_property
    def _loss(self) -> tuple[float | None, str]:
        for name, meaning in _LOSSES.items():
            value = self.figure(name)
            if isinstance(value, Mapping):  # bounds of a calibration
                value, meaning = value.get("high"), f"{meaning}, upper bound"
            known = number_of(value)
            if known is not None:
                return known, meaning
        return None, ""

    @property
    def loss(self) -> float | None:
        """Loss of the run: perplexity, where there is one."""
        return self._loss[0]

    @property
    def loss_meaning(self) -> str:
        """Name of the figure that `loss` is."""
        return self._loss[1]

    @property
    def budget(self) -> Mapping[str, Any]:
        """Bytes of DRAM by what they hold, named as in the JSON; empty where nothing says it."""
        return self._mapping("budget")

    @cached_property
    def time_share(self) -> dict[str, float]:
        """Share of each resource in the time of a token; empty where nothing says it."""
        known = self._mapping("time_share")
        return {name: number_of(known.get(name)) or 0.0 for name in RESOURCES if name in known}


def _ends(low: Any, high: Any) -> Ends | None:
    """Return two ends, if they are numbers in order."""
    ends = number_of(low), number_of(high)
    return None if ends[0] is None or ends[1] is None or ends[0] > ends[1] else Ends(*ends)  # type: ignore[arg-type]
