"""A user's own method: dip-ca, as somebody who only read the documentation would write it."""

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
