"""Report of `dipsim profiles --check`: what is wrong with a profile, and models run on it."""

from collections.abc import Sequence

from rich.console import Group, RenderableType

from dipsim.analysis.finding import Finding
from dipsim.analysis.reference import DEPTH, Compared, ReferenceRun, sizes_of
from dipsim.hardware import Profile
from dipsim.report.summary import between
from dipsim.report.tables import Table, line
from dipsim.units import BANDWIDTH, BYTES, show_number


def findings(profile: Profile, found: Sequence[Finding], laws: int) -> RenderableType:
    """Return a line for each finding, errors in red; one line where there are none."""
    if not found:
        return line(f"{profile.name}: nothing to mend ({laws} laws)")
    return Group(
        *(
            line(f"error: {finding}", style="red")
            if finding.certain
            else line(f"doubt: {finding}", style="yellow")
            for finding in found
        )
    )


def refusal(profile: Profile, found: Sequence[Finding]) -> str:
    """Return the line on a profile that has errors."""
    errors = sum(finding.certain for finding in found)
    counts = {"error": errors, "doubt": len(found) - errors}
    shown = [f"{many} {kind}{'s' * (many > 1)}" for kind, many in counts.items() if many]
    return f"profile {profile.name}: {' and '.join(shown)}: mend what is an error"


def runs(compared: Compared) -> RenderableType:
    """Return the runs of the models of reference on both devices, and why it is that one."""
    own, nearest = compared.profile.name, compared.nearest.name
    rows = Table("model", own, nearest, whole=(0,))
    for here, there in compared.runs:
        rows.add_row(here.model, _run(here), _run(there))
    pairs = zip(_sizes(compared.profile), _sizes(compared.nearest), strict=True)
    dram, bandwidth, flash = (f"{here} and {there}" for here, there in pairs)
    return Group(
        line(),
        line(f"dense models at a depth of {DEPTH} tokens, tokens/s"),
        rows,
        line(),
        line(
            f"{nearest} is the shipped device that is nearest to {own} by the size of DRAM "
            f"({dram}), its bandwidth ({bandwidth}) and that of flash "
            f"({flash})."
        ),
    )


def _sizes(profile: Profile) -> tuple[str, str, str]:
    dram, bandwidth, flash = sizes_of(profile)
    return BYTES.show(dram), BANDWIDTH.show(bandwidth), BANDWIDTH.show(flash)


def _run(run: ReferenceRun) -> str:
    if run.rate is None:
        return "does not fit"
    rate = show_number(run.rate, 3)
    shown = rate if run.interval is None else f"{rate}, {between(run.interval)}"
    if run.flash_bytes:
        return f"does not fit: {shown}, {BYTES.show(run.flash_bytes)} a token from flash"
    return shown
