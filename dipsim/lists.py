"""Several values in one text: comma lists of names and numbers, and ``name=number`` pairs."""

from collections.abc import Iterable, Sequence
from typing import Any

from dipsim.errors import DipsimError


def split_names(values: Iterable[str]) -> list[str]:
    """Return the names of comma lists, each with the parameters that follow its colon.

    ``["lru,lfu-decay:half_life=32,other=2", "arc"]`` ->
    ``["lru", "lfu-decay:half_life=32,other=2", "arc"]``: a part with ``=`` and without a colon goes
    on with the parameters of the part before. An empty part stays, for whoever looks the names up
    to refuse.
    """
    names: list[str] = []
    for value in values:
        parts = value.split(",")
        names.append(parts[0].strip())
        for part in parts[1:]:
            if "=" in part and ":" not in part:
                names[-1] += f",{part.strip()}"
            else:
                names.append(part.strip())
    return names


def split_numbers(values: Iterable[str], option: str) -> list[float]:
    """Return the numbers of comma lists: ``[".5,.7", ".9"]`` -> ``[0.5, 0.7, 0.9]``.

    Args:
        values: as the user wrote them.
        option: as the command line spells it, for the error.

    Raises:
        DipsimError: a part that is no number.
    """
    numbers = []
    for part in (part for value in values for part in value.split(",")):
        try:
            numbers.append(float(part))
        except ValueError:
            raise DipsimError(
                f"{option} {part.strip()!r}: a number, or several with commas, e.g. .5,.7"
            ) from None
    return numbers


def several(given: Any) -> list[Any]:
    """Return one value or several, arrays too, as a list; None is no value.

    Numbers of numpy become Python's.
    """
    given = _plain(given)
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        return [_plain(value) for value in given]
    return [] if given is None else [given]


def several_names(given: Any) -> list[Any]:
    """Return one value or several as a list, as `several`, in which texts may be comma lists."""
    parts: list[Any] = []
    for value in several(given):
        parts += split_names([value]) if isinstance(value, str) else [value]
    return parts


def several_numbers(given: Any, option: str) -> list[Any]:
    """Return one value or several as a list, as `several`, in which texts are lists of numbers.

    Raises:
        DipsimError: a text that holds no numbers.
    """
    parts: list[Any] = []
    for value in several(given):
        parts += split_numbers([value], option) if isinstance(value, str) else [value]
    return parts


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def pairs(text: str, option: str, *, alone: bool = False) -> dict[str, float]:
    """Read ``"a=.5,b=.2"`` as {"a": 0.5, "b": 0.2}.

    Args:
        text: as the user wrote it.
        option: as the command line spells it, for the error.
        alone: whether a number alone is meant for every name: ``".5"`` is {"*": 0.5}.

    Raises:
        DipsimError: not of that form, or a name given twice.
    """
    try:
        if alone and "=" not in text:
            return {"*": float(text)}
        parts = [part.partition("=") for part in text.split(",")]
        values = {name.strip(): float(value) for name, _, value in parts}
        if len(values) < len(parts):
            raise ValueError
    except ValueError:
        raise DipsimError(
            f"{option} {text!r}: write name=number,name=number, e.g. mlp_input=.5,glu=.2"
        ) from None
    return values
