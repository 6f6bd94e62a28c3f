"""Requantisation of weights along the output axis, which loading of single columns asks for.

Files quantise blocks along the input of a matrix, so the scales of a column's weights are spread
over all rows (docs/models.md). A layout whose scales travel with the column quantises along the
output instead. This module rounds the MLP's matrices as such a layout stores them: integers with a
scale and an offset in half precision per block.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dipsim.errors import ModelError
from dipsim.lm.structure import Structure
from dipsim.model import MATRICES

BITS, GROUP = 4, 32


@contextmanager
def requantised(
    structure: Structure, bits: int = BITS, group: int = GROUP
) -> Iterator[list[nn.Linear]]:
    """Quantise the MLP's matrices along their outputs while the with-block lasts.

    Args:
        structure: the model's layers.
        bits: bits per weight, without scale and offset.
        group: weights that share a scale and an offset.

    Yields:
        The matrices that changed.

    Raises:
        ModelError: no MLP, matrices that are not plain linears, or a number of outputs that
            ``group`` does not divide.
    """
    matrices = [
        matrix
        for layer in structure.layers
        for matrix in (*layer.mlp_input, layer.down)
        if matrix is not None
    ]
    linears = [matrix for matrix in matrices if isinstance(matrix, nn.Linear)]
    if not linears or len(linears) < len(matrices):
        raise ModelError("requantising needs an MLP of plain linear matrices, which is not there")
    for linear in linears:
        if linear.out_features % group:
            raise ModelError(
                f"requantising in groups of {group}: a matrix has {linear.out_features} outputs; "
                "give a group that divides them"
            )
    kept = [linear.weight.data for linear in linears]
    try:
        for linear in linears:
            linear.weight.data = by_column(linear.weight.data, bits, group)
        yield linears
    finally:
        for linear, weight in zip(linears, kept, strict=True):
            linear.weight.data = weight


def stored_by_column(geometry: Mapping[str, Any], bits: int, group: int) -> dict[str, Any]:
    """Return the geometry of a model whose weights are stored as `requantised` stores the MLP's;
    parts beside the MLP that have a storage of their own keep it."""
    geometry_alone = {
        name: value for name, value in geometry.items() if name not in ("bits", "quant")
    }
    if parts := geometry.get("parts"):
        geometry_alone["parts"] = {part: parts[part] for part in parts if part not in MATRICES}
    quant = {"format": "by-column", "bits": float(bits), "group": group, "axis": "out"}
    return {**geometry_alone, "quant": {**quant, "scale_bytes": 2.0, "zero_bytes": 2.0}}


def by_column(weight: Tensor, bits: int, group: int) -> Tensor:
    """Return the weights rounded to ``bits`` in blocks of ``group`` outputs of one column.

    Args:
        weight: float[outputs, inputs]; ``group`` must divide outputs.
        bits: bits per weight, without scale and offset.
        group: weights that share a scale and an offset.
    """
    blocks = weight.float().reshape(-1, group, weight.shape[1])
    low, high = blocks.amin(1, keepdim=True), blocks.amax(1, keepdim=True)
    scale = ((high - low) / (2**bits - 1)).half().float()
    offset = low.half().float()
    steps = ((blocks - offset) / scale.clamp_min(torch.finfo(torch.float32).tiny)).round()
    rounded: Tensor = steps.clamp(0, 2**bits - 1) * scale + offset
    flat: Tensor = rounded.flatten(0, 1)
    return flat.to(weight.dtype)
