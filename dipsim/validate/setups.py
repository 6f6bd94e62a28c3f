"""Setups of the published cases: device, work, and the parameters that a case shares with others.

Parameters belong to a device, a backend and a weight format (`Setup.key`). Facts that the cases do
not state as numbers (classes of backends, reasons against a prediction) stand in setups.yaml.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from dipsim import files
from dipsim.errors import DipsimError, brief
from dipsim.hardware import Profile, load_profile
from dipsim.validate import error_bars as bars
from dipsim.validate.cases import SHIPPED, Case
from dipsim.validate.work import Faulting, Resident, SequentialReads, Streaming, Work

MIB = 2**20
PHONE, MEMORY, PHONE_MAPPED = bars.STREAMING, bars.MEMORY, bars.MAPPED
COMPUTER = "computer-streaming"
COMPUTER_MAPPED = "computer-mmap"


@dataclass(frozen=True)
class CaseGroup:
    """A group of cases that are judged together."""

    name: str
    title: str
    bar: float
    """Largest error of a good prediction: relative, or with ``factor`` a factor."""
    bytes_of: Literal["flash", "dram"]
    """Bytes in which the trivial predictor is a straight line."""
    factor: bool = False
    """True if ``bar`` bounds max(predicted / measured, measured / predicted)."""
    target: bool = True
    """True if the median has to be within the bar."""
    measured_on: str = ""
    """Work and device that an error bar of the group was measured on."""


GROUPS = (
    CaseGroup(
        PHONE,
        "Experts streamed, phone",
        0.15,
        "flash",
        measured_on="experts, OnePlus 15R",
    ),
    CaseGroup(MEMORY, "All weights in memory", 0.25, "dram"),
    CaseGroup(
        PHONE_MAPPED,
        "Memory-mapped, phone",
        2.0,
        "flash",
        factor=True,
        measured_on="experts, OnePlus 15R",
    ),
    CaseGroup(COMPUTER, "Experts streamed, computers", 0.25, "flash", target=False),
    CaseGroup(COMPUTER_MAPPED, "Memory-mapped, computer", 0.25, "flash", target=False),
)


@dataclass(frozen=True)
class Setup:
    """A case made ready for its prediction."""

    case: Case
    group: str
    key: str
    """Device, backend and weight format; cases of the same key share their parameters."""
    work: Work


@cache
def notes() -> Mapping[str, Any]:
    """Return the contents of setups.yaml."""
    return files.read_yaml(files.shipped(SHIPPED) / "setups.yaml", DipsimError)


def reason_against(case: Case) -> str | None:
    """Return the reason why a case is not predicted; None if it is."""
    if builder_of(case) is not None:
        return None
    for entry in notes()["not_applicable"]:
        if case.id in entry["cases"]:
            return str(entry["reason"])
    return "no rule is known for it"


def explanation_of(case: str) -> str | None:
    """Return the explanation of a bad prediction, if one is known."""
    explanations: Mapping[str, str] = notes()["explained"]
    return explanations.get(case)


def remark_on(group: str) -> str | None:
    """Return the remark that readers of a group's figures need, if there is one."""
    remarks: Mapping[str, str] = notes()["remarks"]
    return remarks.get(group)


def setup_of(case: Case) -> Setup:
    """Return the setup of a case that `reason_against` has no reason against.

    Raises:
        DipsimError: a figure that the prediction needs is missing.
    """
    build = builder_of(case)
    assert build is not None
    return build(case)


def builder_of(case: Case) -> Callable[[Case], Setup] | None:
    """Return the function that makes a case's setup; its source decides what its fields mean."""
    if case.kind == "in-memory-decode" and _memory_class(case) is not None:
        return _in_memory
    for prefix, build in _BUILDERS.items():
        if case.id.startswith(prefix):
            return build
    return None


def device(
    name: str, dram: str = "1 GB/s", flash: Mapping[str, Any] | None = None, **backend: Any
) -> Profile:
    """Return a profile of the numbers that a case states; the rules used here read no others."""
    return load_profile(
        {
            "name": name,
            "dram": {"capacity": "1 TB", "bandwidth": dram},
            "flash": flash or {"bandwidth": "1 GB/s"},
            "backends": {"engine": backend},
        }
    )


def _rate(gigabytes: float) -> str:
    return f"{gigabytes!r} GB/s"


def _overlap(case: Case) -> Literal["serial", "pipelined"]:
    on = "overlap=on" in case.policy or "overlap on" in case.policy
    return "pipelined" if on else "serial"


def _phone(case: Case) -> Setup:
    """Set up Qwen3 on the OnePlus 15R, which reads each matrix of a missed expert alone."""

    def hw(key: str) -> str:
        return _rate(case.number("hw", key))

    layers = case.number("model", "layers")
    used = case.number("model", "topk_used")
    demand = case.number("model", f"token_demand_MiB_k{used:g}") * MIB
    lanes = 2 if "2 read lanes" in case.policy else 4
    flash = {
        "lanes": lanes,
        "align": "4 KiB",
        "reads": [
            {"size": "1 MiB", "lanes": 2, "bandwidth": hw("flash_GBs_1MiB_2lanes")},
            {"size": "4 MiB", "lanes": 2, "bandwidth": hw("flash_seq_like_GBs_cold_4MiB_2lanes")},
            {"size": "1 MiB", "lanes": 4, "bandwidth": hw("flash_GBs_1MiB_4lanes")},
        ],
    }
    # cache_copy was measured on another run of this phone (profile oneplus15r).
    copy = {"cache_copy": "8 GB/s"} if case.dram_cache_MiB else {}
    dram = hw("dram_cpu_read_GBs_4threads_measured")
    work = Streaming(
        device("OnePlus 15R", dram, flash, **copy),
        layers=layers,
        dense=case.number("model", "dense_MiB_in_layers") * MIB,
        touched=max(demand, case.bytes_of("flash")),
        missed=case.bytes_of("flash"),
        read=demand / layers / used / 3,
        overlap=_overlap(case),
    )
    return Setup(case, PHONE, "OnePlus 15R, cpu, BigMoeOnEdge, q4_k", work)


def _laptop(case: Case) -> Setup:
    """Set up Qwen3.6 on a Windows laptop; only the class of its disk is known."""
    layers, used = case.number("model", "layers"), case.number("model", "topk")
    demand = case.number("model", "token_demand_MiB") * MIB
    work = Streaming(
        device("laptop", flash={"bandwidth": "3 GB/s"}),
        layers=layers,
        dense=0.0,
        touched=max(demand, case.bytes_of("flash")),
        missed=case.bytes_of("flash"),
        read=demand / layers / used / 3,
        overlap=_overlap(case),
    )
    return Setup(case, COMPUTER, "Windows laptop, cpu, BigMoeOnEdge, q4_k", work)


def _flash_moe(case: Case) -> Setup:
    """Set up Qwen3.5-397B on an M3 Max: GPU, then SSD, then GPU.

    Experts that do not come from flash are served from the page cache.
    """
    missed, layers = case.bytes_of("flash"), case.number("model", "layers")
    bits = case.number("model", "bits")
    work = Streaming(
        device(
            "M3 Max", flash={"bandwidth": _rate(case.number("hw", "ssd_cold_parallel4_3.9MB_GBs"))}
        ),
        layers=layers,
        dense=0.0,
        touched=max(case.touched_bytes_per_token or missed, missed),
        missed=missed,
        read=case.number("model", "expert_bytes"),
    )
    return Setup(case, COMPUTER, f"M3 Max, gpu, flash-moe, {bits:g} bit", work)


def _colibri(case: Case) -> Setup:
    """Set up GLM-5.2, read expert by expert; two disks of the Ryzen machine share its processor."""
    machine = "Ryzen 9 9950X" if "9950x" in case.id else brief(case.device.split(",")[0])
    missed, layers = case.bytes_of("flash"), case.number("model", "moe_layers")
    work = Streaming(
        device(machine, flash={"bandwidth": _rate(case.number("hw", "disk_iobench_19MB_GBs"))}),
        layers=layers,
        dense=0.0,
        touched=max(case.number("model", "cold_bytes_per_token_GB") * 1e9, missed),
        missed=missed,
        read=case.number("model", "expert_MB") * 1e6,
    )
    return Setup(case, COMPUTER, f"{machine}, colibri, int4", work)


def _in_memory(case: Case) -> Setup:
    """Set up a run with all weights resident: the backend class reaches a share of DRAM's peak."""
    peak, name = _rate(case.number("hw", "dram_peak_GBs")), str(_memory_class(case))
    work = Resident(device(case.id, peak), case.bytes_of("dram"))
    return Setup(case, MEMORY, name, work)


def _memory_class(case: Case) -> str | None:
    classes = notes()["in_memory"].items()
    return next((name for name, members in classes if case.id in members), None)


def _mapped(case: Case) -> Setup:
    """Set up gpt-oss on the OnePlus 15R, where routed weights come in by page faults."""
    dram = _rate(case.number("hw", "dram_cpu_read_GBs_4threads_measured"))
    dense = case.number("model", "dense_MiB_in_layers") * MIB
    routed = case.bytes_of("flash")
    work = Faulting(device("OnePlus 15R", dram), dense + routed, routed)
    return Setup(case, PHONE_MAPPED, "OnePlus 15R, mmap, llama.cpp, mxfp4", work)


def _mapped_laptop(case: Case) -> Setup:
    """Set up a dense model larger than memory.

    An LRU of pages in a cycle hits nothing, and readahead reads in order at the 1 GB/s that the
    text on the device states.
    """
    work = SequentialReads(device("laptop", flash={"bandwidth": "1 GB/s"}), case.bytes_of("flash"))
    return Setup(case, COMPUTER_MAPPED, "2-in-1 laptop, mmap, llama.cpp, 4 bit", work)


_BUILDERS: Mapping[str, Callable[[Case], Setup]] = {
    "bmoe-qwen-": _phone,
    "bmoe-pc-": _laptop,
    "bmoe-gptoss-mmap-": _mapped,
    "flashmoe-m3max-": _flash_moe,
    "colibri-": _colibri,
    "llamacpp-711-": _mapped_laptop,
}
