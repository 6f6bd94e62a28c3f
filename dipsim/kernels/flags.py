"""Sets as a byte per unit, and units as indices."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types as nb
from numba.core import config
from numba.extending import intrinsic

_WORD = 64
INDEX = 2**32 - 1
"""The bits of an index: ``i & INDEX`` is i, and tells the compiler that it is not negative. Any
other index is looked at before it is used, as -1 would be the last."""


@intrinsic
def write_flags(typing: Any, word: Any, flags: Any, start: Any) -> Any:
    """Write to ``flags[start : start + 64]``, bool, which units of a word are set."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[1])(context, builder, args[1])
        bits = builder.bitcast(args[0], ir.VectorType(ir.IntType(1), _WORD))
        place = builder.gep(array.data, [args[2]])
        kind = ir.VectorType(ir.IntType(8), _WORD)
        place = builder.bitcast(place, kind.as_pointer())
        builder.store(builder.zext(bits, kind), place, align=1)
        return context.get_dummy_value()

    return nb.void(nb.uint64, flags, nb.int64), generate


if config.DISABLE_JIT:

    def write_flags(word: Any, flags: Any, start: int) -> None:  # noqa: D103
        for b in range(_WORD):
            flags[start + b] = (word >> np.uint64(b)) & np.uint64(1) != 0
