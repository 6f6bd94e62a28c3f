"""`dipsim validate` without `--replay`: published measurements, and a phone's routes."""

from dipsim.cli.output import Progress, print_json, say, show
from dipsim.errors import DipsimError


def measured(
    cases: str | None,
    routes: str | None,
    metrics: str | None,
    page: str | None,
    bars: str | None,
    as_json: bool,
) -> None:
    """Predict the cases, and a phone's routes where they are given.

    Raises:
        DipsimError: half a pair of files, a file that cannot be read or written.
    """
    from dipsim.report.files import check_text, write_text

    if (routes is None) != (metrics is None):
        raise DipsimError("--routes and --metrics are two files of one run: give both, or neither")
    page_to = check_text("--page", page, ".md")
    bars_to = check_text("--bars", bars, ".json")

    from dipsim.report import validate as validation
    from dipsim.validate import bars_of, judge, judge_routes, load_cases
    from dipsim.validate.error_bars import bars_text

    with Progress("judged", "cases"):
        known = load_cases(cases)
        replayed = None
        if routes is not None and metrics is not None:
            replayed = judge_routes(routes, metrics)
        found = judge(known)
    if page_to is not None:
        write_text("--page", page_to, validation.page(found, replayed))
        say(f"wrote {page_to}")
    if bars_to is not None:
        write_text("--bars", bars_to, bars_text(bars_of(found)))
        say(f"wrote {bars_to}")
    if as_json:
        print_json(validation.to_dict(found, replayed))
    elif page_to is None and bars_to is None:
        show(validation.render(found, replayed))
