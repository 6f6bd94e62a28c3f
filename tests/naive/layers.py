"""Layer skipping in plain Python: one token and one layer at a time."""

import math

SKIP, PARTIAL, FULL = 0, 5, 10
Cosine = list[list[float]]
"""By token and layer."""


def largest_at_most(values: list[float], count: int) -> float:
    """Return the least threshold above which at most ``count`` of the values lie."""
    if count == 0:
        return math.inf
    if count >= len(values):
        return -math.inf
    return min(t for t in values if sum(value > t for value in values) <= count)


def influence_order(cosine: Cosine, position: list[int], full: int) -> list[int]:
    """Return the layers, least influence first."""
    judged = [row for row, place in zip(cosine, position, strict=True) if place >= full]
    means = [math.fsum(column) / len(judged) for column in zip(*judged, strict=True)]
    return sorted(range(len(means)), key=lambda layer: (-means[layer], layer))


def fixed(layers: int, position: list[int], skipped: set[int], full: int) -> list[list[int]]:
    return [
        [FULL if place < full or layer not in skipped else SKIP for layer in range(layers)]
        for place in position
    ]


def unified(layers: int, count: int) -> set[int]:
    """Return the middle layer of each of ``count`` equal stretches."""
    return {math.floor((i + 0.5) * layers / count) for i in range(count)}


def skipdecode(
    layers: int, position: list[int], share: float, length: int, behind: int, full: int
) -> list[list[int]]:
    modes = []
    for place in position:
        progress = min(place, length - 1) / max(1, length - 1)
        run = round(layers * (1 - 2 * share * progress))
        skipped = set(range(behind, min(layers, behind + layers - run)))
        modes.append([SKIP if i in skipped and place >= full else FULL for i in range(layers)])
    return modes


def similarity(
    cosine: Cosine,
    position: list[int],
    share: float,
    partial: float,
    full: int,
    previous: bool,
) -> list[list[int]]:
    """Return the modes by the token's own cosine, or that of the token before it."""
    scores = []
    for token, row in enumerate(cosine):
        first = token == 0 or position[token] == 0 or position[token - 1] < full
        scores.append([-math.inf] * len(row) if previous and first else cosine[token - previous])
    pool = [s for row, place in zip(scores, position, strict=True) if place >= full for s in row]
    skip = largest_at_most(pool, math.floor(share * len(pool) + 1e-9))
    reduced = largest_at_most(pool, math.floor((share + partial) * len(pool) + 1e-9))
    return [
        [FULL if place < full or s <= reduced else PARTIAL if s <= skip else SKIP for s in row]
        for row, place in zip(scores, position, strict=True)
    ]


def early_exit(
    cosine: Cosine, position: list[int], share: float, behind: int, full: int
) -> list[list[int]]:
    """Return the modes of tokens that leave once a layer's cosine exceeds the threshold."""

    def left_before(row: list[float], tau: float) -> list[bool]:
        gone, left = False, []
        for layer in range(len(row)):
            left.append(gone)
            if layer >= behind - 1 and row[layer] > tau:
                gone = True
        return left

    judged = [row for row, place in zip(cosine, position, strict=True) if place >= full]
    wanted = math.floor(share * len(judged) * len(cosine[0]) + 1e-9)
    taus = sorted({-math.inf, math.inf, *(c for row in judged for c in row)})
    tau = next(t for t in taus if sum(sum(left_before(row, t)) for row in judged) <= wanted)
    return [
        [SKIP if gone and place >= full else FULL for gone in left_before(row, tau)]
        for row, place in zip(cosine, position, strict=True)
    ]


def bytes_of(row: list[int], sizes: dict[str, float], skip_kv: str) -> float:
    """Return the bytes of weights that one token uses."""
    total = sizes["head"]
    for mode in row:
        attention, mlp = mode % 4, mode // 4
        for kind, size in ((attention, sizes["attention"]), (mlp, sizes["mlp"])):
            total += {0: 0.0, 1: size * sizes["partial"], 2: size}[kind]
        if attention == 0 and skip_kv == "project":
            total += sizes["projection"]
    return total


def kv_of(modes: list[list[int]], position: list[int], skip_kv: str) -> tuple[list[int], list[int]]:
    """Return by token the layers it leaves KV in, and the positions its attention reads."""
    written, read = [], []
    held: list[set[int]] = []
    for row, place in zip(modes, position, strict=True):
        if place == 0 or not held:
            held = [set(range(place)) for _ in row]
        wrote = reads = 0
        for layer, mode in enumerate(row):
            runs = mode % 4 != 0
            if runs or skip_kv != "hole":
                held[layer].add(place)
                wrote += 1
            reads += len(held[layer]) if runs else 0
        written.append(wrote)
        read.append(reads)
    return written, read
