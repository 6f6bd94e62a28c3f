"""Count the functions of dipsim that a trace and the settings of a run pass through.

    python tests/tools/walk.py [--list]

Counted are distinct functions defined in the package that a `Trace` or a `Settings` is given to as
a parameter while `dipsim.simulate("smollm2-chat", "snapdragon8")` runs, all threads together. Not
counted are the class's own methods where they receive the instance as `self`, its classmethods, and
methods that dataclasses generate. A first run, not watched, compiles the kernels, so that only
Python calls count.
"""

import argparse
import inspect
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import dipsim

PACKAGE = f"{Path(dipsim.__file__).parent}{os.sep}"
WATCHED = ("Trace", "Settings")


def parameters(frame: FrameType) -> Iterator[tuple[str, Any]]:
    """Yield the parameters of a call with their values, those in *args and **kwargs one by one."""
    given = inspect.getargvalues(frame)
    for name in given.args:
        yield name, given.locals.get(name)
    if given.varargs is not None:
        for value in given.locals[given.varargs]:
            yield f"*{given.varargs}", value
    if given.keywords is not None:
        yield from given.locals[given.keywords].items()


def receives(frame: FrameType, watched: str) -> bool:
    """Tell whether a call is given an instance of the watched class, other than as its own."""
    values = list(parameters(frame))
    if values and isinstance(values[0][1], type) and values[0][1].__name__ == watched:
        return False
    own = values[:1] if values and values[0][0] == "self" else []
    return any(type(value).__name__ == watched for _, value in values[len(own) :])


class Walk:
    """The functions met so far, by the name of the class they were given."""

    def __init__(self) -> None:
        self.met: dict[str, set[str]] = {name: set() for name in WATCHED}

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Look at one event of the profiler."""
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(PACKAGE):
            return
        for name, met in self.met.items():
            if receives(frame, name):
                met.add(f"{frame.f_globals['__name__']}:{code.co_qualname}")


def walk() -> Walk:
    """Run the simulation twice, watching the second run."""
    dipsim.simulate("smollm2-chat", "snapdragon8")
    watcher = Walk()
    threading.setprofile(watcher)
    sys.setprofile(watcher)
    try:
        dipsim.simulate("smollm2-chat", "snapdragon8")
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return watcher


def main() -> None:
    """Print both counts, and with --list the functions."""
    parser = argparse.ArgumentParser(description="Count the functions a trace passes through.")
    parser.add_argument("--list", action="store_true", help="name the functions")
    listed = parser.parse_args().list
    for name, met in walk().met.items():
        print(f"{name:<8} {len(met):>3} functions")
        if listed:
            print("\n".join(f"  {each}" for each in sorted(met)))


if __name__ == "__main__":
    main()
