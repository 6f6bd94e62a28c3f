"""Guesses that enter a cache before the step that they are for (docs/time.md, "Reads ahead").

Until that step has come they are awaited: no unit that is awaited leaves, nor one that the step
under way uses, so what enters is what then finds room, and no more than the guard lets in.
"""

from numba.extending import register_jitable

from dipsim.kernels.batch import room_for
from dipsim.kernels.bits import first_units, ones
from dipsim.kernels.cache import FORCED, SLACK
from dipsim.kernels.fingerprint import fingerprint
from dipsim.kernels.frames import call
from dipsim.kernels.stored import stored


@register_jitable
def await_guesses(block, parts, cache, r, i):
    """Await the guesses of a row that go out at moment ``i``, as `new_cache` counts them; returns
    the first of the parts that they are for, and the end."""
    awaited, guessed = cache.awaited, block.guessed
    first, end = cache.until[i - 1] if i > 0 else 0, cache.until[i]
    for w in range(parts.word[first], parts.word[end]):
        awaited[w] |= guessed[r, w]
    return first, end


@register_jitable
def arrive(parts, cache, p):
    """Await the guesses for a part no longer: its step has come."""
    awaited = cache.awaited
    for w in range(parts.word[p], parts.word[p + 1]):
        awaited[w] = 0


@register_jitable
def awaited_size(parts, cache, c):
    """Return how much of a cache the residents take that are awaited."""
    resident, awaited, sizes, of_word = cache.resident, cache.awaited, parts.size, parts.of_word
    size = 0.0
    for w in range(awaited.shape[0]):
        size += ones(resident[c, w] & awaited[w]) * sizes[of_word[w]]
    return size


@register_jitable
def fitting_guesses(block, parts, cache, c, r, q):
    """Return how many absent guesses for part ``q`` may enter capacity ``c``."""
    resident, awaited, pending = cache.resident, cache.awaited, cache.pending
    guessed, issued, sizes, of_word = block.guessed, block.issued, parts.size, parts.of_word
    stays = held = 0.0
    for w in range(awaited.shape[0]):
        size = sizes[of_word[w]]
        stays += ones(resident[c, w] & (awaited[w] | pending[w])) * size
        held += ones(issued[c, r, w] & awaited[w]) * size
    absent = 0
    for w in range(parts.word[q], parts.word[q + 1]):
        absent += ones(guessed[r, w] & ~resident[c, w])
    room = min(cache.capacity[c] - stays, cache.guard[0] * cache.capacity[c] - held + SLACK)
    return room_for(absent, 0, sizes[q], room)


@register_jitable
def settle(parts, cache, p):
    """Tell a policy that ranks of no guess any longer that was used, or that left."""
    unseen, pending, resident = cache.unseen, cache.pending, cache.resident
    for w in range(unseen.shape[0]):
        unseen[w] &= resident[0, w]
    for w in range(parts.word[p], parts.word[p + 1]):
        unseen[w] &= ~pending[w]


@register_jitable
def count_units(words):
    """Return the number of units of a set."""
    count = 0
    for word in words:
        count += ones(word)
    return count


# Called by address -------------------------------------------------------------------------------


@stored(_nrt=False, key=fingerprint())
def send_ranked(block, parts, cache, rank, fit, r, i, t):
    """Let the guesses enter that go out at moment ``i`` of a row, the lowest ids first; a policy
    that ranks is told of them when they are used; returns 0.

    Args:
        rank: address of `Functions`.
        fit: address of `Functions`.
    """
    resident, unseen, guessed, issued = cache.resident, cache.unseen, block.guessed, block.issued
    first, end = await_guesses(block, parts, cache, r, i)
    under_way = i - 1 if i > 0 else 0
    for c in range(cache.capacity.shape[0]):
        for q in range(first, end):
            entering = left = fitting_guesses(block, parts, cache, c, r, q)
            for w in range(parts.word[q], parts.word[q + 1]):
                word = guessed[r, w] & ~resident[c, w]
                if ones(word) > left:
                    word = first_units(word, left)
                left -= ones(word)
                issued[c, r, w] = word
                resident[c, w] |= word
                if c == 0:
                    unseen[w] |= word
            cache.filled[c] += entering * parts.size[q]
            if cache.filled[c] - cache.capacity[c] > SLACK:
                before = count_units(resident[c])
                call(fit, block, parts, cache, rank, 0, c, under_way, t, FORCED, 0)
                block.displaced[c, r, q] = before - count_units(resident[c])
    return 0
