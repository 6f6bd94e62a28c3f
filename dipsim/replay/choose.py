"""Choosing active sets from scores, whatever a cache holds: top-k, thresholds, predictions."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipsim import kernels
from dipsim.kernels.draws import seed_of
from dipsim.methods import Group, Method
from dipsim.methods.hooks import choose_rows, states_of
from dipsim.methods.predictor import noise_of, predicted
from dipsim.methods.routing import route_plainly, weighing_rows
from dipsim.trace.encoding import LOG8_TABLE, pack_sets, unpack_sets, words_for


class Chooser:
    """Chooses the active sets of a method from scores, whatever a cache holds.

    A user's own method that has a state is shown all rows in order.

    Args:
        layers: of the scores it is given.
        first: the recording's row that is row 0 here; a predictor's noise is drawn for each row.
        first_layer: the recording's layer that is layer 0 here, likewise.
    """

    def __init__(self, method: Method, layers: int, first: int = 0, first_layer: int = 0) -> None:
        numbers = range(first_layer, first_layer + layers)
        self._alike = [_Alike(i, group, numbers, first) for i, group in enumerate(method.groups)]
        self._layers = layers
        self._parts = [
            [] if not group.layer_units else [*_parts(i, group, numbers, first)]
            for i, group in enumerate(method.groups)
        ]

    def choose(
        self,
        i: int,
        rows: slice,
        data: Any,
        shares: NDArray[np.float32] | None = None,
        norms: NDArray[np.float32] | None = None,
        actions: NDArray[np.uint8] | None = None,
        resets: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.uint64]:
        """uint64[n, layers, words], the sets of group ``i``, without preference for what is there.

        Args:
            data: [n, layers, units] scores (of experts: logits), codes of log8, or [n, layers,
                words] recorded sets; not looked at where every unit is active.
            shares: float32[n, layers, 3] of `no_shares`; takes what the sets keep and miss.
            norms: float32[layers, units] of the columns that the scores weigh.
            actions: [n] what the rows do, of `rows_of`; a user's own method needs it.
            resets: [n] where the cache is emptied before one, likewise.

        Raises:
            MethodError: the hook of a user's own method fails.
        """
        whole = self._alike[i]
        if whole.group.choice == "sets" or not self._parts[i]:
            return whole.choose(rows, data, shares, norms, actions, resets)
        count, words = rows.stop - rows.start, words_for(whole.group.units)
        sets = np.zeros((count, self._layers, words), np.uint64)
        for layers, part in self._parts[i]:
            units = part.group.units
            ids = words_for(units) if data is not None and data.dtype == np.uint64 else units
            own = None if data is None else np.ascontiguousarray(data[:, layers, :ids])
            kept = None if shares is None else shares[:, layers]
            weighed = None if norms is None else norms[layers, :units]
            chosen = part.choose(rows, own, kept, weighed, actions, resets)
            sets[:, layers, : words_for(units)] = chosen
            if shares is not None:
                shares[:, layers] = kept
        return sets


def _parts(
    i: int, group: Group, numbers: Sequence[int], first: int
) -> Iterator[tuple[list[int], "_Alike"]]:
    """Yield layers that have equally many units, and what chooses in them; none that have none."""
    counts = np.array(group.layer_units)
    for count in np.unique(counts[counts > 0]).tolist():
        layers = np.flatnonzero(counts == count).tolist()
        yield layers, _Alike(i, group.in_layers(layers), [numbers[n] for n in layers], first)


class _Alike:
    """Chooses the active sets of one group in layers that have equally many units.

    Args:
        i: number of the group.
        numbers: of the layers in the recording.
        first: see `Chooser`.
    """

    def __init__(self, i: int, group: Group, numbers: Sequence[int], first: int) -> None:
        self.group, self.layers = group, len(numbers)
        self.numbers, self.first = numbers, first
        self._scratch = self._choosing(i)

    def _choosing(self, i: int) -> kernels.Choosing:
        """Return the scratch space; of a user's own method, with the states of the layers."""
        group = self.group
        words, custom = words_for(group.units), group.custom
        if custom is None or custom.cache_aware:
            return kernels.new_choosing(words)
        seeds = [seed_of(group.seed, number, i) for number in self.numbers]
        states = states_of(custom, group.units, group.kept, group.signal, seeds)
        return kernels.new_choosing(words, self.layers, states)

    def choose(
        self,
        rows: slice,
        data: Any,
        shares: NDArray[np.float32] | None,
        norms: NDArray[np.float32] | None,
        actions: NDArray[np.uint8] | None,
        resets: NDArray[np.bool_] | None,
    ) -> NDArray[np.uint64]:
        """Choose as `Chooser.choose` does."""
        group = self.group
        if group.choice == "sets":
            sets: NDArray[np.uint64] = data
            return sets
        shape = (rows.stop - rows.start, self.layers, words_for(group.units))
        if group.choice == "all":
            every = pack_sets(np.ones(group.units, np.bool_))
            return np.broadcast_to(every, shape).copy()
        sets = np.empty(shape, np.uint64)
        kept = np.ones((*shape[:2], 2), np.float32)
        if group.choice == "threshold":
            sets[:] = pack_sets(data > np.array(group.thresholds, np.float32)[:, None])
            kernels.shares_of(data, sets, kept)
        elif group.choice == "custom":
            assert actions is not None
            assert resets is not None
            choose_rows(group, self._scratch, data, actions, resets, sets, kept)
        elif group.choice == "predicted":
            self._choose_predicted(rows, data, sets)
            if data.dtype == np.uint64:  # of recorded sets all units count alike
                right = np.bitwise_count(sets & data).sum(axis=-1, dtype=np.int64)
                wanted = np.bitwise_count(data).sum(axis=-1, dtype=np.int64)
                kept[:] = np.where(wanted > 0, right / np.maximum(wanted, 1), 1.0)[..., None]
            else:
                kernels.shares_of(data, sets, kept)
        elif group.of_experts:
            route_plainly(data, group.kept, sets, kept, weighing_rows(group, self.layers))
        elif data.dtype == np.uint8:
            kernels.select_codes_of(data, LOG8_TABLE, group.kept, sets, kept)
        else:
            kernels.select_of(data, group.kept, sets, kernels.framed(self._scratch), kept)
        if shares is not None:
            shares[..., :2] = kept
            if norms is not None and data.dtype != np.uint64:
                kernels.errors_of(plain_scores(data), sets, norms, shares[..., 2])
        return sets

    def _choose_predicted(self, rows: slice, data: Any, sets: NDArray[np.uint64]) -> None:
        """Write the units that a predictor would choose."""
        group = self.group
        for r, layer in np.ndindex(*sets.shape[:2]):
            row, number = self.first + rows.start + r, self.numbers[layer]
            noise = noise_of(group.seed, number, row, group.units)
            truth = data[r, layer]
            if truth.dtype == np.uint64:
                truth = unpack_sets(truth, group.units)
            sets[r, layer] = pack_sets(predicted(truth, group.noise[layer], noise, group.kept))


def plain_scores(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Return scores, decoded if they are codes of log8."""
    return LOG8_TABLE[rows] if rows.dtype == np.uint8 else rows
