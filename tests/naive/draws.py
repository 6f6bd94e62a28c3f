"""The standard hash of 64 bits, from which the naive twins draw."""

MASK64 = 2**64 - 1


def splitmix64(x: int) -> int:
    """Return the standard splitmix64 hash of x, both in 0..2**64-1."""
    z = (x + 0x9E3779B97F4A7C15) & MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return z ^ (z >> 31)


def hash64(*values: int) -> int:
    """Return one 64-bit hash of several integers >= 0: splitmix64 chained over them."""
    h = 0
    for value in values:
        h = splitmix64(h ^ value)
    return h
