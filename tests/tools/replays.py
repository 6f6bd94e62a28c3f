"""Replays of one policy on the sets of a trace, as most tests ask for them."""

from collections.abc import Sequence
from typing import Any

from dipsim.methods import Method
from dipsim.policies import Policy
from dipsim.replay.contender import Capacity
from dipsim.replay.replay import replay_policy
from dipsim.replay.traffic import Traffic
from dipsim.settings import Settings
from dipsim.trace import Trace

STREAMED = Settings(prefill="stream")
"""Prompts stream past the caches, those of experts too."""


def replay_all(
    trace: Trace,
    method: Method,
    policy: Policy,
    capacities: Sequence[Capacity],
    settings: Settings = STREAMED,
    **more: Any,
) -> list[Traffic]:
    """Return one traffic for each capacity; ``more`` are arguments of `replay_policy`."""
    if settings.prefill is None:
        settings = settings.model_copy(update={"prefill": "stream"})
    return replay_policy(trace, method, policy, capacities, settings, **more)


def replay(
    trace: Trace,
    method: Method,
    policy: Policy,
    capacity: Capacity,
    settings: Settings = STREAMED,
    **more: Any,
) -> Traffic:
    """Return the traffic of one capacity."""
    return replay_all(trace, method, policy, [capacity], settings, **more)[0]
