"""A policy that kills the processes which load it."""

import os
from pathlib import Path

DEADLY = '''"""A policy whose process is killed the first times that it is loaded."""
import os
import signal
from pathlib import Path
from dipsim import load_policy

losses = Path({losses!r})
before = len(losses.read_text()) if losses.exists() else 0
if os.getpid() != {parent} and before < {deaths}:
    losses.write_text("x" * (before + 1))
    os.kill(os.getpid(), signal.SIGKILL)

policy = load_policy("fifo")
'''


def deadly(folder: Path, deaths: int) -> str:
    """Return a policy's file that kills so many processes, this one excepted; ``deadly.losses`` in
    the folder has a character for each."""
    losses = str(folder / "deadly.losses")
    return DEADLY.format(parent=os.getpid(), deaths=deaths, losses=losses)
