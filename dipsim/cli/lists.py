"""Lists on the command line: an option that repeats, and values with commas between them."""

from collections.abc import Iterable

from dipsim.errors import DipsimError


def split_names(values: Iterable[str]) -> list[str]:
    """Return the names in values that hold one or several, with commas between them.

    A parameter stays with its name: ``lru,lfu-decay:half_life=32,other=2,arc`` holds three names.

    Raises:
        DipsimError: nothing stands before, after or between commas.
    """
    names: list[str] = []
    for value in values:
        own: list[str] = []
        for part in value.split(","):
            key, equals, _ = part.partition("=")
            if not part.strip():
                raise DipsimError(f"{value!r}: a name is missing beside a comma; write e.g. a,b")
            if equals and ":" not in key and own:
                own[-1] += f",{part.strip()}"
            else:
                own.append(part.strip())
        names += own
    return names


def split_numbers(values: Iterable[str], option: str) -> list[float]:
    """Return the numbers in values that hold one or several, with commas between them.

    Args:
        values: as they were given.
        option: as the command line spells it.

    Raises:
        DipsimError: a part that is no number.
    """
    numbers = []
    for name in split_names(values):
        try:
            numbers.append(float(name))
        except ValueError:
            raise DipsimError(
                f"{option} {name!r}: write a number, or several with commas: 0.5,0.8"
            ) from None
    return numbers
