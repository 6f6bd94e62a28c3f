"""Which machine a benchmark runs on: what it prints, and the class whose ratios compare."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import llvmlite.binding as llvm

ARCHITECTURES = {"x86_64": "x86-64", "amd64": "x86-64", "aarch64": "arm64", "arm64": "arm64"}
X86_VECTORS = {"avx512f": ("avx512", 512), "avx2": ("avx2", 256)}
"""The name and width in bits of the vectors that a feature of the processor tells, widest first."""
PACKAGES = ("numpy", "numba", "libcachesim")


class Machine(NamedTuple):
    """A processor and what runs on it."""

    processor: str
    architecture: str
    vectors: str
    width: int
    """Bits of a vector."""
    cores: int
    """That this process may use."""
    versions: dict[str, str]
    core: str = ""
    """Name that LLVM has for the processor's design, e.g. znver5."""

    @property
    def name(self) -> str:
        """Class of the machine: ratios compare within one. Designs with equally wide vectors differ
        too much in what a gather, a mask or a branch costs."""
        return "-".join(part for part in (self.architecture, self.vectors, self.core) if part)

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return (
            f"{self.processor}: {self.name}, vectors of {self.width} bits, "
            f"{self.cores} core{'s' * (self.cores != 1)}; {versions}"
        )


def vectors_of(architecture: str, features: Mapping[str, bool]) -> tuple[str, int]:
    """Name and width of the widest vectors; LLVM may list no features of an ARM processor."""
    if architecture == "arm64":
        return "neon", 128
    for feature, vectors in X86_VECTORS.items():
        if features.get(feature):
            return vectors
    return ("sse", 128) if architecture == "x86-64" else ("any", 64)


def this_machine() -> Machine:
    """Tell about the machine this process runs on."""
    system = platform.machine().lower()
    architecture = ARCHITECTURES.get(system, system)
    versions = {"Python": platform.python_version()}
    versions |= {name: version(name) for name in PACKAGES if find_spec(name)}
    return Machine(
        _model(),
        architecture,
        *vectors_of(architecture, llvm.get_host_cpu_features()),
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        versions,
        llvm.get_host_cpu_name(),
    )


def _model() -> str:
    """Name of the processor; Linux on ARM has none."""
    cpus = Path("/proc/cpuinfo")
    for line in cpus.read_text().splitlines() if cpus.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
