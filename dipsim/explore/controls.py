"""The controls of the page: what can be chosen, and which methods take it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from dipsim.errors import printable
from dipsim.explore.asked import Asked, Options
from dipsim.methods import BUILTIN as METHODS
from dipsim.policies import BUILTIN as POLICIES
from dipsim.settings import TAKES, Layout, Overlap

_FOLDER = Path(__file__).parent
DENSITY, POLICY, SIZE = 0.7, "lfu", 60
"""Settings that the page begins with; the size is in per cent."""
_KEPT = "share of the MLP's weights that a token uses"
_GAMMA = "the lower, the more what is in DRAM is preferred"


@dataclass(frozen=True)
class Control:
    """An input of the page that sets one option."""

    name: str
    """Name of the option; of one that is a mapping with the key behind a point."""
    label: str
    choices: Mapping[str, str] | None = None
    """Texts that are shown, by value; None for a text or a range."""
    default: str = ""
    """Value at the start; an empty one sets nothing."""
    bounds: tuple[float, float, float] | None = None
    """Least, most and step of a range."""
    help: str = ""

    @property
    def methods(self) -> str:
        """Built-in methods that take it; empty where all do."""
        option = self.name.partition(".")[0]
        taken = [method for method in METHODS if method in TAKES.get(option, ())]
        return " ".join(taken)


@dataclass(frozen=True)
class Offer:
    """Choices that the page offers, and those it begins with."""

    traces: Sequence[str]
    profiles: Sequence[str]
    trace: str
    profile: str
    method: str
    has_study: bool = False

    @property
    def begins_with(self) -> Asked:
        """The run that the page asks for first."""
        options: Options = {"method": self.method, "policy": POLICY, "dram": f"{SIZE}%"}
        if self.method in TAKES["density"]:
            options["density"] = DENSITY
        return Asked(trace=self.trace, profile=self.profile, options=options)


def page(offer: Offer) -> str:
    """Return the page as HTML; no name in it becomes a tag."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(_FOLDER, encoding="utf-8"), autoescape=True, trim_blocks=True
    )
    return environment.get_template("page.html.j2").render(
        offer=offer,
        size=SIZE,
        first=[
            Control("trace", "Trace", _same(offer.traces), offer.trace),
            Control("profile", "Device", _same(offer.profiles), offer.profile),
            Control("method", "Method", _same(METHODS), offer.method),
            Control("density", "Density", default=str(DENSITY), bounds=(0.05, 1, 0.01), help=_KEPT),
            Control("gamma.mlp_input", "Gamma of inputs", default="0.5", bounds=(0, 1, 0.05)),
            Control(
                "gamma.glu", "Gamma of neurons", default="0.2", bounds=(0, 1, 0.05), help=_GAMMA
            ),
        ],
        policy=Control("policy", "Cache policy", _same(POLICIES), POLICY),
        layout=Control("layout", "Layout in flash", _usual(get_args(Layout))),
        more=[
            Control("overlap", "Overlap of reading and use", _usual(get_args(Overlap))),
            Control("admission", "Admission of misses", _usual(("forced", "ranked"))),
            Control("access", "Access", _usual(("atomic", "sequential"))),
            Control("scope", "A cache for each", _usual(("layer", "global"))),
            Control("io", "Reads", _usual(("direct", "buffered", "mmap"))),
            Control("kv", "KV", _usual(("fixed", "grow"))),
            Control("tokens", "Tokens of the trace", help="a part A:B, or none for all"),
        ],
    )


def _same(names: Sequence[str] | Mapping[str, object]) -> dict[str, str]:
    return {name: printable(name) for name in names}


def _usual(values: Sequence[str]) -> dict[str, str]:
    """Return choices among which the usual value comes first."""
    return {"": "as usual", **_same(values)}
