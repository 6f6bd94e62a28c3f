"""Records of arrays that compiled code is handed as one address.

numba passes a named tuple as its arrays, and each array as seven numbers: functions that hand on
records of many arrays take seconds to compile. A frame lays the addresses and shapes of a record's
arrays out in memory; compiled code reads a field where it names it, as it does with the tuple.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types as nb
from numba.core import cgutils, config
from numba.core.pythonapi import NativeValue, unbox
from numba.core.typing.templates import AttributeTemplate
from numba.extending import (
    infer_getattr,
    intrinsic,
    lower_getattr_generic,
    models,
    register_model,
)
from numba.np import numpy_support
from numba.np.arrayobj import populate_array

_ADDRESS, _NUMBER = ir.IntType(8).as_pointer(), ir.IntType(64)


class FrameType(nb.Type):
    """The type of a frame: the names of its fields, and their types: arrays, frames or int64."""

    def __init__(self, name: str, fields: tuple[tuple[str, Any], ...]) -> None:
        self.fields = fields
        super().__init__(f"{name}({', '.join(f'{field}: {kind}' for field, kind in fields)})")

    def place_of(self, name: str) -> tuple[int, Any]:
        """Return the first slot of a field and the field's type."""
        slot = 0
        for field, kind in self.fields:
            if field == name:
                return slot, kind
            slot += _slots(kind)
        raise AttributeError(name)


def _slots(kind: Any) -> int:
    return 1 + kind.ndim if isinstance(kind, nb.Array) else 1


class Frame:
    """A named tuple of arrays, frames and integers, laid out for compiled code.

    Args:
        record: its arrays are contiguous, in C order. Its type does not say which can only be read,
            so compiled code must not write to those.

    Raises:
        ValueError: an array is not contiguous.
    """

    def __init__(self, record: NamedTuple) -> None:
        self.record = record  # keeps the arrays alive
        slots: list[int] = []
        kinds: list[Any] = []
        for name, value in zip(record._fields, record, strict=True):
            if isinstance(value, Frame):
                slots.append(value.address)
                kinds.append(value._numba_type_)
            elif isinstance(value, int):
                slots.append(value)
                kinds.append(int)
            else:
                if not value.flags.c_contiguous:
                    raise ValueError(f"{name}: a frame holds contiguous arrays")
                slots.append(value.ctypes.data)
                slots.extend(value.shape)
                kinds.append((value.dtype, value.ndim))
        self._memory = np.array(slots, np.int64)
        self.address = self._memory.ctypes.data
        self._numba_type_ = _type_of(type(record), tuple(kinds))


@functools.cache
def _type_of(record: Any, kinds: tuple[Any, ...]) -> FrameType:
    """Return the type of a record's frame; ``kinds`` are (dtype, dimensions), `int`, or types."""
    types = [
        nb.Array(numpy_support.from_dtype(kind[0]), kind[1], "C")
        if isinstance(kind, tuple)
        else nb.int64
        if kind is int
        else kind
        for kind in kinds
    ]
    return FrameType(record.__name__, tuple(zip(record._fields, types, strict=True)))


def framed(record: Any) -> Any:
    """Return a record as compiled code takes it; unchanged where nothing is compiled."""
    return record if config.DISABLE_JIT else Frame(record)


@register_model(FrameType)
class _Model(models.OpaqueModel):
    """A frame is an address."""


@unbox(FrameType)
def _unbox(kind: FrameType, frame: Any, c: Any) -> NativeValue:
    number = c.pyapi.object_getattr_string(frame, "address")
    address = c.pyapi.long_as_longlong(number)
    c.pyapi.decref(number)
    return NativeValue(c.builder.inttoptr(address, _ADDRESS))


@infer_getattr
class _Fields(AttributeTemplate):
    """Types of the fields."""

    key = FrameType

    def generic_resolve(self, frame: FrameType, name: str) -> Any:
        return dict(frame.fields).get(name)


@lower_getattr_generic(FrameType)
def _read(context: Any, builder: Any, frame: FrameType, value: Any, name: str) -> Any:
    """Read a field: an address, or an array made of its address and lengths."""
    slot, kind = frame.place_of(name)
    slots = builder.bitcast(value, _NUMBER.as_pointer())

    def read(i: int) -> Any:
        return builder.load(builder.gep(slots, [ir.Constant(ir.IntType(32), i)]))

    if isinstance(kind, FrameType):
        return builder.inttoptr(read(slot), _ADDRESS)
    if not isinstance(kind, nb.Array):
        return read(slot)
    array = context.make_array(kind)(context, builder)
    size = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    shape = [read(slot + 1 + axis) for axis in range(kind.ndim)]
    strides = [context.get_constant(nb.intp, size)]
    for length in shape[:0:-1]:
        strides.insert(0, builder.mul(strides[0], length))
    populate_array(
        array,
        data=builder.inttoptr(read(slot), array.data.type),
        shape=shape,
        strides=strides,
        itemsize=context.get_constant(nb.intp, size),
        meminfo=None,
    )
    return array._getvalue()


# Calls by address --------------------------------------------------------------------------------


def address_of(compiled: Any, *arguments: Any) -> int:
    """Return where the machine code of a compiled function lies, which `call` calls.

    Args:
        compiled: returns an int64, and must be kept alive.
        arguments: such as it will be called with: frames and integers.
    """
    kinds = tuple(nb.int64 if isinstance(each, int) else each._numba_type_ for each in arguments)
    compiled.compile(kinds)
    code = compiled.overloads[kinds]
    assert nb.unliteral(code.signature.return_type) == nb.int64
    return int(code.library.get_pointer_to_function(code.fndesc.llvm_func_name))


@intrinsic
def call(typing: Any, address: Any, *arguments: Any) -> Any:
    """Call the function at an address with frames and int64; returns its int64.

    What calls it is compiled once for all functions of the same arguments.
    """
    given = nb.StarArgTuple(arguments)
    kinds = [kind if isinstance(kind, FrameType) else nb.int64 for kind in given]

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number, packed = args
        values = [
            context.cast(builder, value, kind, wanted)
            for value, kind, wanted in zip(
                cgutils.unpack_tuple(builder, packed, len(kinds)), given, kinds, strict=True
            )
        ]
        code = context.call_conv.get_function_type(nb.int64, kinds)
        function = builder.inttoptr(number, code.as_pointer())
        status, result = context.call_conv.call_function(builder, function, nb.int64, kinds, values)
        with cgutils.if_unlikely(builder, status.is_error):
            context.call_conv.return_status_propagate(builder, status)
        return result

    return nb.int64(nb.int64, given), generate


if config.DISABLE_JIT:

    def address_of(compiled: Any, *arguments: Any) -> Any:  # noqa: D103
        return compiled

    def call(address: Any, *arguments: Any) -> Any:  # noqa: D103
        return address(*arguments)
