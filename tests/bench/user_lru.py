"""A user's own policy: lru, as somebody who only read the documentation would write it."""

from dipsim.policies import Policy


def touch(state, unit, token, hit):
    """Remember when the unit was used."""
    state[unit] = token


def rank(state, unit, token):
    """The longest unused leaves first."""
    return state[unit]


policy = Policy("my-lru", "evicts the least recently used", touch=touch, rank=rank)
