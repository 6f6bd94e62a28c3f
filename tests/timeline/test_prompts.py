"""Are many prompts timed together as each is alone?"""

import numpy as np
import pytest

import dipsim
from dipsim.timeline import timing
from dipsim.timeline.engine import clock_for
from dipsim.timeline.prefill import prefill_seconds
from dipsim.timeline.steps import rates, steps
from dipsim.trace import DECODE, PREFILL
from tools.one_layer import device, trace


def prompts(count: int, **options: object) -> dipsim.Result:
    """Run sequences of 1 to 3 prompt tokens; every second one has a decode token behind it."""
    rng = np.random.default_rng(3)
    rows: list[tuple[int, int]] = []
    for sequence in range(count):
        rows += [(PREFILL, sequence)] * int(rng.integers(1, 4))
        rows += [(DECODE, sequence)] * (sequence % 2)
    sets = [set(rng.choice(8, size=3, replace=False).tolist()) for _ in rows]
    phase, sequence = (np.array(mark, np.int32) for mark in zip(*rows, strict=True))
    opened = trace(sets, phase=phase.astype(np.uint8), sequence=sequence)
    options = {"policy": "lru", "cache_fraction": 0.25, **options}
    return dipsim.simulate(opened, device(overlap_factor=0.5), **options)


@pytest.mark.parametrize("engine", ["closed", "events"])
@pytest.mark.parametrize("prefill", ["stream", "cache"])
def test_every_prompt_takes_what_it_takes_alone(engine: str, prefill: str) -> None:
    result = prompts(25, engine=engine, prefill=prefill)
    run, traffic, tokens = result.run, result.traffic, result.run.tokens
    rate = rates(run)
    clock, a = clock_for(run, traffic, rate), run.backend.overlap_factor
    seconds, firsts, begin = [], [], None
    for row in range(len(tokens)):
        if tokens.phase[row] == DECODE:
            continue
        last = row + 1 == len(tokens) or tokens.sequence[row + 1] != tokens.sequence[row]
        begin = row if begin is None else begin
        if not last and tokens.phase[row + 1] == PREFILL:
            continue
        moved = used = None
        if prefill == "cache":
            moved = traffic.moved[row].sum()
            used = (traffic.active[row] * run.unit_bytes).sum()
        seconds.append(float(prefill_seconds(run, rate, row + 1 - begin, moved, used)))
        if not last:
            alone = np.array([row + 1])
            times = clock.times(steps(run, traffic, alone, rate), 1, a)
            firsts.append(seconds[-1] + float(times.latency[0]))
        begin = None
    timed = result.timing
    assert timed.prefill is not None
    assert (len(seconds), len(firsts)) == (25, 12)
    assert timed.prefill.seconds == sum(seconds)
    assert timed.ttft == np.mean(firsts)


def test_many_prompts_are_one_piece_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    chains = []

    def counted(*given: object) -> object:
        chains.append(given)
        return steps(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(timing, "steps", counted)
    lengths = []
    for count in (4, 400):
        chains.clear()
        prompts(count)
        lengths.append(len(chains))
    assert lengths[0] == lengths[1] < 10
