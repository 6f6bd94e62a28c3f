"""Validation: predictions of published measurements, and their errors.

Every case is predicted without its own model in any fit (`judge`); a phone's own routes are
replayed and judged token by token (`judge_routes`).
"""

from dipsim.validate.cases import Case, Cases, load_cases
from dipsim.validate.judge import GroupResult, Judged, Validation, judge
from dipsim.validate.routes import RoutesResult, judge_routes

__all__ = [
    "Case",
    "Cases",
    "GroupResult",
    "Judged",
    "RoutesResult",
    "Validation",
    "judge",
    "judge_routes",
    "load_cases",
]
