"""A model ready to be judged: loaded, with the sizes, storage and adapter that are asked for."""

from dataclasses import replace

from dipsim.lm.load import Loaded, load
from dipsim.lm.lora import load_adapter
from dipsim.lm.requantise import stored_by_column
from dipsim.model import load_model


def prepared(
    model: str,
    geometry: str | None = None,
    adapter: str | None = None,
    bits: tuple[int, int] | None = None,
) -> Loaded:
    """Load a model.

    Args:
        model: as of `load`.
        geometry: a preset or file that says its sizes and storage; default: what the model says.
        adapter: folder of an adapter that is added.
        bits: bits per weight, and weights of a group, of an MLP that is stored by column; the
            weights stay as they are.

    Raises:
        DipsimError: one of them is not there, or does not fit.
    """
    loaded = load(model)
    if geometry is not None:
        sizes = load_model(geometry).model_dump(mode="json", exclude_unset=True)
        loaded = replace(loaded, geometry=sizes)
    elif bits is not None and loaded.geometry is not None:
        loaded = replace(loaded, geometry=stored_by_column(loaded.geometry, *bits))
    if adapter is not None:
        loaded = replace(loaded, model=load_adapter(loaded.model, adapter))
    return loaded
