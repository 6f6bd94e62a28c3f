"""Comma lists: several values of an option that may repeat, in one text."""

from collections.abc import Iterable

from dipsim.errors import DipsimError


def split_names(values: Iterable[str]) -> list[str]:
    """Return the names of comma lists, each with the parameters that follow its colon.

    ``["lru,lfu-decay:half_life=32,other=2", "arc"]`` ->
    ``["lru", "lfu-decay:half_life=32,other=2", "arc"]``: a part with ``=`` and without a colon
    before it goes on with the parameters of the part before. An empty part stays, for whoever
    looks the names up to refuse.
    """
    names: list[str] = []
    for value in values:
        parts = value.split(",")
        names.append(parts[0].strip())
        for part in parts[1:]:
            if "=" in part and ":" not in part.partition("=")[0]:
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
