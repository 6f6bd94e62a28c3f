"""Reading ahead: the next item of an iterator is made in a thread while this one is used."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def read_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items; each is made, in one thread for all, while the one before it is used.

    That pays for files, zlib and kernels, which let other threads run. At most one item waits.

    Raises:
        Exception: what making an item raises, in its place.
    """
    source = iter(items)

    def make() -> list[Item]:
        return list(islice(source, 1))

    with ThreadPoolExecutor(1) as maker:
        coming = maker.submit(make)
        while item := coming.result():
            coming = maker.submit(make)
            yield item.pop()
