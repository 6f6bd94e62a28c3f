"""A program that runs many command lines, each in a process of its own that is forked from it.

What a program needs is imported once, which takes longer than to refuse a file.
"""

import ctypes
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

SERVER = """
import json, os, resource, sys
import dipsim.cli.run, dipsim.simulate, dipsim.trace.convert, numba
from dipsim.cli import main


def alone(words, folder, said, told, seconds):
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)
    os.dup2(os.open(said, os.O_WRONLY), 2)
    sys.argv = ["dipsim", *words]
    code = 1
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        with open(told, "w") as file:
            file.write(open("/proc/self/status").read())
        os._exit(code)


for line in sys.stdin:
    child = os.fork()
    if not child:
        alone(**json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Ended(NamedTuple):
    """Exit code, standard error, and the most memory in KiB."""

    code: int
    said: str
    memory: int


def _as_anybody() -> None:
    """Even root then may not read what permissions forbid."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.prctl(24, capability)  # PR_CAPBSET_DROP; takes effect when a program is started


class Forks:
    """Runs command lines, each with so many seconds of a processor, and without root's rights."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=_as_anybody,
        )

    def run(self, words: tuple[str, ...], folder: Path) -> Ended:
        """Run a command line in a folder."""
        server = self._server
        assert server.stdin is not None
        assert server.stdout is not None
        with tempfile.NamedTemporaryFile("r") as said, tempfile.NamedTemporaryFile("r") as told:
            task = {"words": words, "folder": str(folder), "seconds": self._seconds}
            print(json.dumps(task | {"said": said.name, "told": told.name}), file=server.stdin)
            server.stdin.flush()
            code = int(server.stdout.readline())
            memory = re.search(r"VmHWM:\s+(\d+) kB", told.read())
            assert memory is not None, "the program did not live to tell"
            return Ended(code, said.read(), int(memory[1]))

    def close(self) -> None:
        """End the program."""
        self._server.communicate()
        assert self._server.returncode == 0
