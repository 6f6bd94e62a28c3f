"""Hooks that read the vectors of every layer: query, key, value and layer_io."""

from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from dipsim.lm.attention import Attend, attention_through, layer_of_modules, new_rows
from dipsim.lm.layer_io import Middle, figures, find_middles, input_of, output_of
from dipsim.lm.probe import probe_ids
from dipsim.lm.structure import Structure
from dipsim.trace.vectors import ATTENTION_VECTORS

Keep = Callable[[str, int, Tensor], None]
"""``keep(name, layer, rows)`` takes float[rows, width], the tokens of a call."""


class VectorTaps:
    """Hooks on a model, from their making until `remove`.

    Args:
        model: a causal language model of transformers.
        structure: the result of `find_structure`.
        names: some of `VECTORS`.
        keep: called for each name, layer and call of the model.

    Raises:
        ModelError: attention that cannot be read, or a layer whose parts are not found.
    """

    def __init__(
        self, model: nn.Module, structure: Structure, names: Collection[str], keep: Keep
    ) -> None:
        self._hooks = ExitStack()
        self._keep = keep
        with ExitStack() as undo:
            undo.callback(self._hooks.close)
            self._attention = tuple(name for name in ATTENTION_VECTORS if name in names)
            self._layer_of = layer_of_modules(structure.blocks)
            if self._attention:
                self._hooks.enter_context(attention_through(model, self._read))
            if "layer_io" in names:
                middles = find_middles(model, structure, probe_ids(model))
                for layer, (block, middle) in enumerate(
                    zip(structure.blocks, middles, strict=True)
                ):
                    self._judge(layer, block, middle)
            undo.pop_all()

    def remove(self) -> None:
        """Remove all hooks from the model."""
        self._hooks.close()

    def _read(
        self,
        attend: Attend,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *args: Any,
        **given: Any,
    ) -> tuple[Tensor, Any]:
        layer = self._layer_of.get(module)
        if layer is not None:
            rows = dict(zip(ATTENTION_VECTORS, new_rows(query, key, value), strict=True))
            for name in self._attention:
                self._keep(name, layer, rows[name])
        return attend(module, query, key, value, *args, **given)

    def _judge(self, layer: int, block: nn.Module, middle: Middle) -> None:
        shown: list[
            Tensor
        ] = []  # calls of the middle's module; attention may share it with the MLP

        def look(module: nn.Module, args: Any, given: dict[str, Any], output: Any) -> None:
            shown.append(output_of(output) if middle.parallel else input_of(args, given))

        def compare(module: nn.Module, args: Any, given: dict[str, Any], output: Any) -> None:
            states = input_of(args, given), shown[-middle.parallel], output_of(output)
            self._keep("layer_io", layer, figures(*states, middle.parallel))

        handles = [
            block.register_forward_pre_hook(lambda module, args: shown.clear()),
            middle.module.register_forward_hook(look, with_kwargs=True),
            block.register_forward_hook(compare, with_kwargs=True),
        ]
        for handle in handles:
            self._hooks.callback(handle.remove)
