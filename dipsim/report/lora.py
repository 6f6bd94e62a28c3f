"""Report of `dipsim lora`: what masks cost, and how much of it an adapter brings back."""

from rich.console import Group, RenderableType

from dipsim.analysis.lora import Recovery
from dipsim.report.tables import Table, line
from dipsim.units import BYTES

UNITS = {
    **dict.fromkeys(("dense", "sparse", "adapted", "masks_off"), "perplexity"),
    **dict.fromkeys(("judged_tokens", "trained_tokens"), "tokens"),
    **dict.fromkeys(("cpu_minutes", "wall_minutes"), "min"),
    **dict.fromkeys(("adapter_bytes", "model_bytes"), "B"),
    "steps": "steps",
    "adapter_parameters": "parameters",
    "recovered": "share",
}
"""Units of figures that `dipsim.report.envelope` does not know."""


def render(recovery: Recovery, folder: str) -> RenderableType:
    """Return a sentence, the four perplexities, and what training and keeping the adapter take.

    Args:
        recovery: the adapter, judged.
        folder: where the adapter is kept.
    """
    answer = "masks cost no perplexity here: there is nothing to bring back"
    if recovery.recovered is not None:
        share = f"{recovery.recovered:.1%}"
        answer = f"the adapter brings back {share} of the log-perplexity masks cost"
    rows = Table("", "masks off", "masks on", right=(1, 2))
    rows.add_row("without the adapter", f"{recovery.dense:.3f}", f"{recovery.sparse:.3f}")
    rows.add_row("with the adapter", f"{recovery.masks_off:.3f}", f"{recovery.adapted:.3f}")
    took = (
        f"trained on {recovery.trained_tokens} tokens in {recovery.steps} steps, "
        f"{recovery.cpu_minutes:.1f} minutes of processor time "
        f"({recovery.wall_minutes:.1f} on the clock)"
    )
    size = (
        f"{folder}: {BYTES.show(recovery.adapter_bytes)} kept apart, "
        f"{recovery.adapter_bytes / recovery.model_bytes:.1%} of the model's weights; fused, none"
    )
    note = f"perplexity on {recovery.judged_tokens} tokens that did not train."
    return Group(
        line(f"{recovery.model}: {answer}", style="bold"),
        rows,
        line(took),
        line(size),
        line(note, style="dim"),
    )
