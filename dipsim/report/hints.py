"""Hints on what to try next and warnings about figures, a sentence each, the weightiest first."""

from dipsim.result import Result
from dipsim.units import BYTES

INPUT_ENERGY = 0.997
"""Share of plain top-k's energy below which cache-aware masking hurts at the input stage."""


def warnings(result: Result) -> list[str]:
    """Return what makes the figures of a run less than a user may think."""
    texts = []
    sizes = result.traffic.capacity
    empty = [
        name
        for name, capacity in zip(
            result.traffic.groups, () if sizes is None else sizes.T, strict=False
        )
        if not capacity.all() and result.policy != "none"
    ]
    if empty:
        texts.append(f"caches of {', '.join(empty)} hold no unit (C = 0): every access misses")
    if result.plain_kept is not None and "mlp_input" in result.traffic.groups:
        group = result.traffic.groups.index("mlp_input")
        ratio = result.energy_kept[group] / result.plain_kept[group, 1]
        if ratio < INPUT_ENERGY:
            texts.append(
                f"mlp_input keeps {ratio:.4f} of the energy plain top-k keeps; below "
                f"{INPUT_ENERGY} perplexity rises steeply: {_gentler(result)}"
            )
    if "over-available" in result.marks:
        texts.append(
            "more DRAM than the device leaves to an app (dram.available): a real one may kill the "
            "app or swap"
        )
    if "part" in result.marks:
        layers = result.config["settings"]["layers"]
        texts.append(f"layers {layers} alone: rates and bytes are those of a part of the model")
    if result.config["settings"].get("layout") == "row":
        texts.append(
            "layout row stores no column alone, so every group that holds columns is read whole "
            "whenever it misses anything: store columns together (--layout column or bundle)"
        )
    if result.config["settings"].get("io") == "buffered" and not result.page_cache:
        texts.append(
            "no DRAM is left for the page cache, so --io buffered reads everything from flash: "
            "give less --dram, or -s page_cache.size=1GB"
        )
    warned = ("none", "lru")  # analysis.cliff warns of lru before the run
    if sizes is None and not result.hits and result.budget.cache and result.policy not in warned:
        texts.append(
            "one global cache hits nothing: by the time a unit comes round again, the other layers "
            "have pushed it out; give more DRAM, or --scope layer"
        )
    if result.budget.streamed:
        texts.append(
            f"{BYTES.show(result.budget.streamed)} of static weights do not fit and are read "
            "from flash for every token"
        )
    return texts


def hints(result: Result) -> list[str]:
    """Return what a user would learn most from trying."""
    if result.fits:
        return ["the model fits in DRAM: try --dram 50% or --cache-fraction 0.6"]
    if result.config["settings"].get("io") == "mmap":
        return ["page faults cost far more than reads: compare --io direct"]
    texts = []
    if result.budget.streamed:
        texts.append("static weights exceed DRAM: try more --dram, fewer --bits, less --context")
    active = result.traffic.active[result.traffic.measured]
    sizes = result.traffic.capacity
    small = sizes is not None and bool((sizes <= active.min(axis=0)).all() and sizes.any())
    ranked = result.other_admission == "ranked"  # the policy could, and does not
    if small and ranked:
        texts.append(
            "C <= |A| everywhere, so all policies with forced admission hit alike: "
            "try --admission ranked, or more DRAM"
        )
    even = result.config["settings"].get("allocate", "even") == "even" and sizes is not None
    divide = "try --allocate optimal, " if even and len(result.traffic.groups) > 1 else ""
    if result.flash_bytes_per_token > 2 * result.flash_useful_bytes_per_token > 0:
        texts.append(
            "flash moves more than twice the useful bytes (units smaller than pages or read "
            f"whole): {divide}compare --profile paper-a18"
        )
    if result.method == "dip":
        texts.append("try --method dip-ca, which prefers what is in DRAM")
    elif ranked and not small:
        texts.append("try --admission ranked, which streams rarely used units through")
    if result.policy not in ("opt", "belady", "none") and result.method != "dip-ca":
        texts.append("see what other policies do, and the optimum: dipsim compare")
    return texts


def _gentler(result: Result) -> str:
    """Return advice on how to prefer less what is in DRAM."""
    masking = result.config["settings"].get("masking") or "gamma"
    if masking.startswith("approximate"):
        return "lower top_m, or use the rule gamma"
    if masking.startswith("blend"):
        return "raise its gamma (blend needs one near 1), or use the rule gamma"
    return "raise its gamma, e.g. --gamma mlp_input=.5,glu=.2"
