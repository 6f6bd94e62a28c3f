"""What `dipsim lora` prints: what masks cost, and how much of it an adapter brings back."""

from rich.console import Group, RenderableType
from rich.text import Text

from dipsim.analysis.lora import Recovery
from dipsim.errors import printable
from dipsim.report.run import table
from dipsim.units import BYTES


def render(found: Recovery, folder: str) -> RenderableType:
    """A sentence, the four perplexities, and what training and keeping the adapter take."""
    what = "masks cost no perplexity here: there is nothing to bring back"
    if found.recovered is not None:
        what = f"the adapter brings back {found.recovered:.1%} of the log-perplexity masks cost"
    rows = table("", "masks off", "masks on", right=(1, 2))
    rows.add_row("without the adapter", f"{found.dense:.3f}", f"{found.sparse:.3f}")
    rows.add_row("with the adapter", f"{found.masks_off:.3f}", f"{found.adapted:.3f}")
    took = (
        f"trained on {found.trained_tokens} tokens in {found.steps} steps, {found.cpu_minutes:.1f} "
        f"minutes of processor time ({found.wall_minutes:.1f} on the clock)"
    )
    size = (
        f"{folder}: {BYTES.show(found.adapter_bytes)} kept apart, "
        f"{found.adapter_bytes / found.model_bytes:.1%} of the model's weights; fused, none"
    )
    note = f"perplexity on {found.judged_tokens} tokens that did not train."
    return Group(
        Text(printable(f"{found.model}: {what}"), style="bold"),
        rows,
        Text(took),
        Text(printable(size)),
        Text(note, style="dim"),
    )
