"""Readers of what the script of ``dipsim calibrate --script`` packs beside the outputs: facts of
the device, and its list of steps."""

import re

from dipsim.calibrate.benchmarks.reading import Format, day, words
from dipsim.calibrate.benchmarks.source import Source
from dipsim.calibrate.measured import Measurements, Origin

_DEVICE = re.compile(r"\A\d{4}-\d\d-\d\dT[\d:]{8}Z\n\S")
_STEPS = re.compile(r"\A(?:thermometer|ran|left out|failed|stopped after \d+ s): ")
_NOT_RUN = re.compile(r"(?m)^((?:left out|failed|stopped after \d+ s): .{1,2000})$")
_MOST_TOLD = 50


def read_device(source: Source) -> Measurements:
    """Read the name of the device.

    Raises:
        DipsimError: it cannot be read.
    """
    text = source.text
    stated = (
        re.search(rf"(?m)^ro\.product\.{key}=(.+)$", text) for key in ("manufacturer", "model")
    )
    name = " ".join(words(match[1], 60) for match in stated if match)
    origin = Origin(source.name, "the script", day(text[:20]))
    return Measurements(devices=((name, origin),) if name else ())


def read_steps(source: Source) -> Measurements:
    """Read which steps were left out, failed, or were stopped.

    Raises:
        DipsimError: it cannot be read.
    """
    told = _NOT_RUN.findall(source.text)
    more = (f"{len(told) - _MOST_TOLD} more steps were not run",) if len(told) > _MOST_TOLD else ()
    lines = (*(words(line) for line in told[:_MOST_TOLD]), *more)
    return Measurements(refused=tuple(f"{source.name}: {line}" for line in lines))


DEVICE = Format(
    "device.txt of the script",
    lambda head: bool(_DEVICE.match(head) and re.search(r"(?m)^(ro\.product|processor)", head)),
    read_device,
    beside=True,
)
STEPS = Format(
    "steps.txt of the script",
    lambda head: _STEPS.match(head) is not None,
    read_steps,
    beside=True,
)
