"""Reading ahead: the next item of an iterator is made in a thread while this one is used."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def read_ahead(
    items: Iterable[Item], is_last: Callable[[Item], bool] = lambda item: False
) -> Iterator[Item]:
    """Yield the items; each is made, in one thread for all, while the one before it is used.

    That pays for files, zlib and kernels, which let other threads run. At most one item waits. The
    first is made by the caller's thread, and a last one that is known as such starts no other. Who
    stops early waits for the item that is being made, which is lost, with what its making raised.

    Args:
        is_last: tells that no item follows.

    Raises:
        Exception: what making an item raises, in its place.
    """
    source = iter(items)

    def make() -> list[Item]:
        return list(islice(source, 1))

    item = make()
    with ThreadPoolExecutor(1) as maker:  # has no thread before something is submitted
        while item:
            coming = None if is_last(item[0]) else maker.submit(make)
            yield item.pop()
            item = make() if coming is None else coming.result()
