"""Values of a `config.json`: under any of the names that families give them, and checked."""

from collections.abc import Mapping
from typing import Any

from dipsim.errors import ModelError, brief

MOST = 2**26
"""Largest number that is believed of a config; a vocabulary or a width."""
MOST_LAYERS = 2**16

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HIDDEN = ("hidden_size", "n_embd", "d_model")
WIDTH = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")
HEADS = ("num_attention_heads", "n_head", "n_heads")


class Config:
    """Values of a config, and those of its class where it leaves them out.

    A value may have several names: the first that the config gives counts. A value of null is
    given, and is none.
    """

    def __init__(self, values: Mapping[str, Any], usual: Mapping[str, Any], where: str) -> None:
        self.values, self.usual, self.where = values, usual, where

    def refused(self, name: str, given: object, takes: str) -> ModelError:
        """Return the error that names a value and what it may be."""
        if isinstance(given, list | tuple | dict):
            given = f"of {len(given)} entries"
        return ModelError(f"{self.where}: {name} {brief(given)}: give {takes}")

    def value(self, *names: str) -> Any:
        """Return the value of one of the names; None if there is none."""
        given = [name for name in names if name in self.values]
        for name in given:
            if self.values[name] is not None:
                return self.values[name]
        if given:
            return None
        return next((self.usual[name] for name in names if self.usual.get(name) is not None), None)

    def count(self, *names: str) -> int | None:
        """Return a whole number from 0 on; None if there is none.

        Raises:
            ModelError: it is no such number.
        """
        given = self.value(*names)
        return None if given is None else self._checked(names[0], given)

    def _checked(self, name: str, given: object) -> int:
        if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given <= MOST:
            raise self.refused(name, given, f"a whole number, 0 to {MOST}")
        return given

    def need(self, *names: str) -> int:
        """Return a whole number that the config must have.

        Raises:
            ModelError: it is missing, or no such number.
        """
        given = self.count(*names)
        if given is None:
            raise ModelError(f"{self.where}: {names[0]} is missing: add it")
        return given

    def flag(self, *names: str) -> bool:
        """Return whether a value is true."""
        return bool(self.value(*names))

    def listed(self, *names: str, layers: int) -> list[Any] | None:
        """Return a list with an entry per layer; None if the config has none.

        Raises:
            ModelError: no list, or of another length.
        """
        given = self.value(*names)
        if given is None:
            return None
        if not isinstance(given, list | tuple) or len(given) != layers:
            raise self.refused(names[0], given, f"a list of {layers}, one for each layer")
        return list(given)

    def per_layer(self, *names: str, layers: int) -> list[int | None]:
        """Return the number that every layer has: one for all, or a list of them.

        Raises:
            ModelError: no whole numbers, or a list of another length.
        """
        if not isinstance(self.value(*names), list | tuple):
            return [self.count(*names)] * layers
        given = self.listed(*names, layers=layers) or []
        return [None if each is None else self._checked(names[0], each) for each in given]

    def indices(self, *names: str) -> frozenset[int] | None:
        """Return a list of numbers of layers as a set; None if the config has none.

        Raises:
            ModelError: no list of whole numbers.
        """
        given = self.value(*names)
        if given is None:
            return None
        if not isinstance(given, list | tuple) or len(given) > MOST_LAYERS:
            raise self.refused(names[0], given, "a list of layers")
        return frozenset(self._checked(names[0], each) for each in given)

    def nested(self, *names: str) -> "Config":
        """Return the values of a mapping inside the config, those of the config behind them."""
        found = self.value(*names)
        if not isinstance(found, Mapping):
            return self
        return Config(found, {**self.usual, **self.values}, self.where)

    def over(self, values: Mapping[str, Any]) -> "Config":
        """Return the config with other values in place of its own."""
        return Config({**self.values, **values}, self.usual, self.where)
