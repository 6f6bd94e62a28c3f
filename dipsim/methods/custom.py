"""A user's own method (pruning.py) made ready for a trace."""

from dipsim.methods.contract import (
    DEFAULT_DENSITY,
    Choice,
    Group,
    InfeasibleError,
    Method,
    check_settings,
    scores,
)
from dipsim.methods.pruning import PruningMethod
from dipsim.model import MATRICES, Matrix, Model
from dipsim.settings import Settings
from dipsim.trace import Outline


def custom(
    method: PruningMethod, trace: Outline, settings: Settings, model: Model | None
) -> Method:
    """Return the method with a group for each of its signals, at MLP density D.

    Raises:
        MethodError: missing scores, an impossible density, or options of other methods.
    """
    name, groups = method.label, method.unit_groups
    units = {signal: scores(trace, signal, name) for signal in method.signals}
    check_settings(name, settings, method.signals)
    spanned = {matrix for group in groups for matrix in group.matrices}
    dense = tuple(matrix for matrix in MATRICES if matrix not in spanned)
    shares = _densities(method, settings, dense)
    # Cache-aware units are chosen in the replay; "top-k" is what they are compared with.
    choice: Choice = "top-k" if method.cache_aware else "custom"
    own = tuple(
        Group(
            group.signal,
            units[group.signal],
            group.slices,
            choice,
            share,
            seed=settings.seed,
            custom=method,
        )
        for group, share in zip(groups, shares, strict=True)
    )
    return Method(
        name, own, dense=dense, density=None if method.varies else _mean(own, dense, model)
    )


def _densities(
    method: PruningMethod, settings: Settings, dense: tuple[Matrix, ...]
) -> tuple[float, ...]:
    """Return the share that each group keeps."""
    if settings.group_density:
        return tuple(settings.group_density[signal] for signal in method.signals)
    density = DEFAULT_DENSITY if settings.density is None else settings.density
    shares = method.densities(density)
    if shares is not None:
        return shares
    if len(dense) < len(MATRICES):
        # (share * pruned + dense) / 3 = D over the matrices of the MLP
        share = (len(MATRICES) * density - len(dense)) / (len(MATRICES) - len(dense))
        if share < -1e-9:
            raise InfeasibleError(method.label, density, len(dense) / len(MATRICES))
        density = max(share, 0.0)
    return (density,) * len(method.groups)


def _mean(groups: tuple[Group, ...], dense: tuple[Matrix, ...], model: Model | None) -> float:
    """Return the mean density of the matrices that are pruned, and of the MLP's dense ones.

    Attention's matrices weigh by their size where the model tells it, otherwise as the others.
    """
    total = kept = float(len(dense)) if len(dense) < len(MATRICES) else 0.0
    for group in groups:
        for slice_ in group.slices:
            weight = 1.0
            if model is not None and slice_.matrix not in MATRICES:
                weight = group.units * model.slice_weights(slice_) / model.matrix_parameters
            total += weight
            kept += weight * group.density
    return kept / total
