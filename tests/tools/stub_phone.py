"""A phone of stubs: programs on a PATH of their own, in which no time passes but that of a clock
in a file, and whose battery is as warm as a file says."""

import os
import shutil
import subprocess
from pathlib import Path

FREE = 100_000
"""MB that are free on the flash, unless a test says else."""
REAL = ("basename", "cat", "du", "grep", "head", "mkdir", "mktemp", "mv", "rm", "sed", "tail",
        "tar", "uname")  # fmt: skip
"""Programs of the machine that the script may use."""
STUBS = {
    "date": 'case $1 in +%s) cat "$STUB/clock" ;; *) echo 2026-01-02T03:04:05Z ;; esac',
    "sleep": 'pass "$1"; echo "sleep $1" >>"$STUB/calls"',
    "sync": ":",
    "df": 'echo "Filesystem blocks used free of mounted"\n'
    'echo "/dev/f 9 9 $(cat "$STUB/free") 1% /d"',
    "dd": 'echo "dd $*" >>"$STUB/calls"\n'
    'for a; do case $a in of=*) echo x >"${a#of=}";; esac; done',
    "getprop": 'echo "stub of $1"',
    # timeout -k 5 LIMIT COMMAND...: what hangs is stopped when the limit has passed
    "timeout": '[ "$1" != -k ] || shift 2\nlimit=$1; shift\n'
    'case $1 in dumpsys|termux-battery-status) exec "$@" ;; esac\n'
    'echo "limit $limit ${1##*/}" >>"$STUB/calls"\n'
    'if [ -e "$STUB/hangs-${1##*/}" ]; then pass "$limit"; exit 124; fi\nexec "$@"',
    "fio": 'echo "fio $*" >>"$STUB/calls"; pass 3; echo "{\\"fio version\\": \\"stub\\"}"',
    "mbw": 'echo "mbw $*" >>"$STUB/calls"; pass 4; echo "AVG stub"',
    "stream_c.exe": 'echo stream >>"$STUB/calls"; pass 5; echo "Triad: stub"',
    "llama-bench": 'echo "llama-bench $*" >>"$STUB/calls"; pass 30; echo "{\\"model\\": 1}"\n'
    'if [ -e "$STUB/heats" ]; then echo 450 >"$STUB/sys/class/power_supply/battery/temp"; fi',
}
"""Bodies of the stubs; ``pass N`` lets N seconds pass, in which the battery cools a little."""
PASS = """pass() {
    echo $(($(cat "$STUB/clock") + $1)) >"$STUB/clock"
    battery=$STUB/sys/class/power_supply/battery/temp
    if [ -e "$STUB/cools" ]; then echo $(($(cat "$battery") - $1)) >"$battery"; fi
}
"""


class StubPhone:
    """A phone on which the script runs; ``calls`` is what was called, in order."""

    def __init__(self, folder: Path, shell: str) -> None:
        program, *words = shell.split()
        self.shell = [str(shutil.which(program)), *words]  # the PATH of the phone lacks it
        self.stub, self.home = folder / "stub", folder / "a home"
        self.models = folder / "some models"
        self.bin = self.stub / "bin"  # wrappers and stubs, never links to programs of the machine
        battery = self.stub / "sys/class/power_supply/battery"
        for made in (self.bin, battery, self.home, self.models):
            made.mkdir(parents=True)
        for name in REAL:
            self.program(name, f'exec {shutil.which(name)} "$@"')
        for name, body in STUBS.items():
            self.program(name, body)
        self.temperature = battery / "temp"
        self.temperature.write_text("310\n")
        self.state("clock", "1000")
        self.state("free", str(FREE * 1024))
        (self.stub / "proc").mkdir()
        self.state("proc/cpuinfo", "processor\t: 0\n" * 8 + "Serial : 0123\n")
        self.state("proc/meminfo", "MemTotal: 12000000 kB\nMemAvailable: 6000000 kB\n")
        for name in ("a.gguf", "b b.gguf", "c-00001-of-00002.gguf", "c-00002-of-00002.gguf"):
            (self.models / name).write_bytes(b"GGUF")

    def program(self, name: str, body: str) -> None:
        """Put a program on the PATH, as a file of its own: no link is written through."""
        (self.bin / name).unlink(missing_ok=True)
        (self.bin / name).write_text(f"#!/bin/sh\n{PASS}{body}\n")
        (self.bin / name).chmod(0o755)

    def without(self, *names: str) -> None:
        """Take programs off the PATH."""
        for name in names:
            (self.bin / name).unlink()

    def state(self, name: str, text: str = "") -> None:
        """Write a file that stubs look at."""
        (self.stub / name).write_text(text)

    def environment(self, **options: object) -> dict[str, str]:
        """Return the variables that the script sees."""
        folders = {name: str(self.stub / name.lower()) for name in ("SYS", "PROC")}
        given = {name: str(value) for name, value in options.items()}
        own = {"PATH": str(self.bin), "STUB": str(self.stub), "MODELS": str(self.models)}
        return {**own, **folders, **given}

    def start(self, script: str, **options: object) -> "subprocess.Popen[str]":
        """Start the script in the home folder."""
        (self.stub / "script.sh").write_text(script)
        return subprocess.Popen(
            [*self.shell, str(self.stub / "script.sh")],
            cwd=self.home,
            env=self.environment(**options),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def calls(self) -> list[str]:
        """What was called, in order."""
        log = self.stub / "calls"
        return log.read_text().splitlines() if log.exists() else []

    def called(self, name: str) -> list[str]:
        """Calls of one program, in order."""
        return [call for call in self.calls if call.split()[0] == name]

    @property
    def seconds(self) -> int:
        """Seconds that passed."""
        return int((self.stub / "clock").read_text()) - 1000

    @property
    def left(self) -> list[str]:
        """Names in the home folder."""
        return sorted(os.listdir(self.home))
