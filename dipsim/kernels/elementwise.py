"""Functions of a policy that treat every unit alike and by itself.

Such a function is applied to 64 units at once: its branches become masks, and the processor's
vectors do the rest. Any other is called for one unit after the other.
"""

import operator
from collections.abc import Callable
from typing import Any

from numba.core import ir
from numba.core.compiler import run_frontend
from numba.core.errors import NumbaError

_STATE, _UNIT = 0, 1  # arguments of a hook
_PLAIN = {"add", "sub", "mul", "neg", "lt", "le", "gt", "ge", "eq", "ne", "and_", "or_", "xor"}
"""Operators that never fail, as division does by zero."""
_CALLED = (len, bool)
_STEPS = (ir.Del, ir.Jump, ir.Branch, ir.Return)
_VALUES = (ir.Arg, ir.Const, ir.Var)


def places_reached(hook: Callable[..., Any]) -> int | None:
    """Return how many places of the state a hook reads or writes: none, or ``state[unit]`` alone.

    Args:
        hook: ``touch(state, unit, token, hit)`` or ``rank(state, unit, token)``.

    Returns:
        0 or 1; None where it may be any other, or the hook loops or calls something.
    """
    try:
        code = run_frontend(hook)
    except (NumbaError, OSError, TypeError):  # whoever compiles it says what is wrong
        return None
    reader = _Reader(code)
    return int(reader.reaches) if _goes_ahead(code) and reader.fits() else None


def _goes_ahead(code: ir.FunctionIR) -> bool:
    """Tell whether no block is run twice."""
    return all(
        target > label
        for label, block in code.blocks.items()
        for target in block.terminator.get_targets()
    )


class _Reader:
    """Reader of a hook's statements."""

    def __init__(self, code: ir.FunctionIR) -> None:
        self.statements = [each for block in code.blocks.values() for each in block.body]
        values: dict[str, list[Any]] = {}
        for each in self.statements:
            if isinstance(each, ir.Assign):
                values.setdefault(each.target.name, []).append(each.value)
        self.value_of = {name: given[0] for name, given in values.items() if len(given) == 1}

    @property
    def reaches(self) -> bool:
        """True if some statement reads or writes an item."""
        return any(
            isinstance(each, ir.SetItem)
            or (isinstance(each, ir.Assign) and getattr(each.value, "op", None) == "getitem")
            for each in self.statements
        )

    def fits(self) -> bool:
        """Tell whether every statement is one of those that vectors have."""
        return all(self._fits(each) for each in self.statements)

    def _fits(self, statement: Any) -> bool:
        if isinstance(statement, ir.SetItem):
            return self._is_own(statement.target, statement.index)
        if not isinstance(statement, ir.Assign):
            return isinstance(statement, _STEPS)
        value = statement.value
        if isinstance(value, ir.Global | ir.FreeVar):
            called = any(value.value is each for each in _CALLED)
            return called or isinstance(value.value, int | float)
        return isinstance(value, _VALUES) or (isinstance(value, ir.Expr) and self._computes(value))

    def _computes(self, value: ir.Expr) -> bool:
        if value.op == "getitem":
            return self._is_own(value.value, value.index)
        if value.op == "call":
            return self._calls_plainly(value)
        if value.op in ("binop", "inplace_binop", "unary"):
            plain = value.immutable_fn if value.op == "inplace_binop" else value.fn
            return plain.__name__ in _PLAIN and getattr(operator, plain.__name__) is plain
        return value.op in ("cast", "phi")

    def _calls_plainly(self, call: ir.Expr) -> bool:
        function = getattr(self.value_of.get(call.func.name), "value", None)
        return any(function is each for each in _CALLED)

    def _is_own(self, array: ir.Var, index: ir.Var) -> bool:
        """Tell whether an item is ``state[unit]``."""
        given = self.value_of.get(array.name), self.value_of.get(index.name)
        return [each.index for each in given if isinstance(each, ir.Arg)] == [_STATE, _UNIT]
