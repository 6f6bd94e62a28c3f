"""Methods of a user's own, as files, for tests."""

from pathlib import Path

DIP_CA = '''"""DIP-CA: scores of units that are not in DRAM count gamma times as much."""
import numpy as np
from dipsim import PruningMethod
from dipsim.methods.dip import split_density


def state(units, k, seed, signal, mlp_input=0.5, glu=0.2):
    return np.array([mlp_input if signal == "mlp_input" else glu])


def rank(scores, k, resident, state, keys):
    gamma = np.float32(state[0])
    for unit in range(len(scores)):
        keys[unit] = scores[unit] if resident[unit] else gamma * scores[unit]


def split(density):
    return split_density(density, "authors")


method = PruningMethod("my-dip-ca", ("mlp_input", "glu"), state=state, rank=rank, split=split)
'''
GOOD = '''"""Methods that keep the contract."""
import numpy as np
from dipsim import PruningMethod, UnitGroup
from dipsim.methods import kth_largest
from dipsim.methods.dip import split_density

BOTH = ("mlp_input", "glu")


def largest(scores, k, resident, state, keys):
    keys[:] = scores


def chosen_largest(scores, k, resident, state, chosen):
    least, room = kth_largest(scores, k), k
    for unit in range(len(scores)):
        if scores[unit] > least:
            chosen[unit] = True
            room -= 1
    for unit in range(len(scores)):
        if scores[unit] == least and room > 0:
            chosen[unit] = True
            room -= 1


def above(scores, k, resident, state, chosen):
    for unit in range(len(scores)):
        chosen[unit] = scores[unit] > state[0]


def threshold(units, k, seed, threshold=0.8):
    return np.array([threshold])


def split(density):
    return split_density(density, "authors")


def zeros(units, k, seed, keep=0.5):
    mean = np.zeros(units + 1)
    mean[-1] = keep
    return mean


def lasting(scores, k, resident, state, keys):
    """Rank by a moving average of the scores."""
    for unit in range(len(scores)):
        state[unit] = state[-1] * state[unit] + (1 - state[-1]) * scores[unit]
        keys[unit] = state[unit]


def slow_to_leave(scores, k, resident, state, chosen):
    """Keep what was chosen while it is among the 2 k largest, then the largest."""
    least, room = kth_largest(scores, min(2 * k, len(scores))), k
    for unit in range(len(scores)):
        if state[unit] and resident[unit] and scores[unit] >= least and room > 0:
            chosen[unit] = True
            room -= 1
    while room > 0:
        best = -1
        for unit in range(len(scores)):
            if not chosen[unit] and (best < 0 or scores[unit] > scores[best]):
                best = unit
        chosen[best] = True
        room -= 1
    for unit in range(len(scores)):
        state[unit] = chosen[unit]


def in_turn(scores, k, resident, state, keys):
    """Keep unit t in token t, from 0."""
    keys[int(state[-1]) % len(scores)] = 1
    state[-1] += 1


def turns(units, k, seed):
    return np.zeros(1)


dip = PruningMethod("my-dip", BOTH, rank=largest, split=split, cache_aware=False)
dip_too = PruningMethod("my-dip-too", BOTH, select=chosen_largest, split=split, cache_aware=False)
glu = PruningMethod("my-glu", ("glu",), rank=largest, cache_aware=False)
oracle = PruningMethod("my-oracle", (UnitGroup("glu", ("gate", "up", "down")),), rank=largest)
above = PruningMethod(
    "above", ("glu",), select=above, state=threshold, cache_aware=False, varies=True
)
lasting = PruningMethod("lasting", BOTH, rank=lasting, state=zeros, cache_aware=False)
slow_to_leave = PruningMethod("slow-to-leave", ("glu",), select=slow_to_leave, state=zeros)
turns_known = PruningMethod("turns", ("glu",), rank=in_turn, state=turns, cache_aware=False)
turns_aware = PruningMethod("turns-aware", ("glu",), rank=in_turn, state=turns)
'''
WRONG = '''"""Methods that break the contract, each in one way."""
import numpy as np
from numpy.lib.stride_tricks import as_strided
from dipsim import PruningMethod
from dipsim.methods import kth_largest

ONE = np.zeros(500)
COUNT = [0]


def method(name, **hooks):
    return PruningMethod(name, ("mlp_input", "glu"), **hooks)


def state(units, k, seed):
    return np.zeros(units)


def largest(scores, k, resident, state, keys):
    keys[:] = scores


def all_resident(scores, k, resident, state, chosen):
    chosen[:] = resident


def one_less(scores, k, resident, state, chosen):
    chosen[: k - 1] = True


def one_more(scores, k, resident, state, chosen):
    chosen[: min(k + 1, len(chosen))] = True


def next_row(scores, k, resident, state, keys):
    later = as_strided(scores, shape=(4 * len(scores),), strides=(4,))
    for unit in range(len(scores)):
        keys[unit] = later[unit + 2 * len(scores)]


def next_layer(scores, k, resident, state, keys):
    beside = as_strided(scores, shape=(2 * len(scores),), strides=(4,))
    for unit in range(len(scores)):
        keys[unit] = beside[unit + len(scores)]


def drawn(scores, k, resident, state, keys):
    for unit in range(len(scores)):
        keys[unit] = np.random.random()


def outside(scores, k, resident, state, keys):
    keys[len(scores)] = 1


def changing(scores, k, resident, state, keys):
    scores[0] = 0
    keys[:] = scores


def negative(scores, k, resident, state, keys):
    for unit in range(len(scores)):
        keys[unit] = scores[unit] - 1


def not_a_number(scores, k, resident, state, keys):
    for unit in range(len(scores)):
        keys[unit] = np.nan if unit == 3 else 1


def odd(scores, k, resident, state, keys):
    keys.no_such_method()


def looks(scores, k, resident, state, keys):
    for unit in range(len(scores)):
        keys[unit] = 1 if resident[unit] else scores[unit]


def chosen_largest(scores, k, resident, state, chosen):
    left = k
    for unit in range(len(scores)):
        if left > 0:
            chosen[unit] = True
            left -= 1


def no_unit(scores, k, resident, state, chosen):
    pass


def one_state(units, k, seed):
    return ONE[:units]


def counting_state(units, k, seed):
    COUNT[0] += 1
    return np.full(units, float(COUNT[0]))


def whole_state(units, k, seed):
    return np.zeros(units, np.int64)


def no_state(units, k, seed):
    return np.zeros(units // (seed * 0))


too_many = method("too-many", select=one_more)
too_few = method("too-few", select=one_less)
all_resident = method("all-resident", select=all_resident)
future = method("future", rank=next_row, cache_aware=False)
layers = method("layers", rank=next_layer, cache_aware=False)
drawn = method("drawn", rank=drawn, cache_aware=False)
outside = method("outside", rank=outside)
changing = method("changing", rank=changing)
negative = method("negative", rank=negative)
not_a_number = method("not-a-number", rank=not_a_number)
odd = method("odd", rank=odd)
looks = method("looks", rank=looks, cache_aware=False)
blind = method("blind", rank=largest)
steady = method("steady", select=chosen_largest, cache_aware=False, varies=True)
silent = method("silent", select=no_unit, cache_aware=False, varies=True)
one_state = method("one-state", rank=largest, state=one_state, cache_aware=False)
counting = method("counting", rank=largest, state=counting_state, cache_aware=False)
whole = method("whole", rank=largest, state=whole_state)
stateless = method("stateless", rank=largest, state=no_state)
bad_split = method("bad-split", rank=largest, split=lambda density: (density, 2.0))
short_split = method("short-split", rank=largest, split=lambda density: (density,))
number = 5
'''


def fill_with_methods(folder: Path) -> None:
    """Write the files ``dip_ca.py``, ``good.py`` and ``wrong.py`` into a folder."""
    (folder / "dip_ca.py").write_text(DIP_CA)
    (folder / "good.py").write_text(GOOD)
    (folder / "wrong.py").write_text(WRONG)
