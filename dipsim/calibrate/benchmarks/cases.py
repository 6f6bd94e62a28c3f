"""Reader of cases, the form that ``dipsim validate`` reads: published rates as data."""

import re
from collections.abc import Mapping
from typing import Any

from dipsim import files
from dipsim.calibrate.benchmarks.reading import RATES, Format, Refusals, day, number, parsed
from dipsim.calibrate.benchmarks.source import Source
from dipsim.calibrate.measured import Measurements, Origin, Rate
from dipsim.errors import DipsimError
from dipsim.validate.cases import Case, cases_of

MOST_YAML = 2**22
"""Characters of YAML that are read at most, as reading it takes long."""


def read(source: Source) -> Measurements:
    """Read the rates of cases of the kinds decode and prefill; the other kinds tell no rate.

    Raises:
        DipsimError: it is damaged, or a case is.
    """
    cases = cases_of(_contents(source), source.name)
    refusals = Refusals(source.name)
    rates = []
    for case in cases.facts:
        if case.id not in cases.measured:
            continue
        origin = Origin(source.name, "cases", day(case.source), case.source)
        try:
            rates.append(_rate(case, cases.measured[case.id], origin))
        except ValueError as problem:
            refusals.add(case.id, str(problem))
    devices = {rate.case.device: rate.origin for rate in rates if rate.case.device}
    return Measurements(
        tuple(rates),
        devices=tuple(devices.items()),
        models=cases.models,
        refused=refusals.sentences(),
    )


def _contents(source: Source) -> Mapping[str, Any]:
    text = source.text
    if text.lstrip().startswith("{"):
        data = parsed(text, source.name)
    elif len(text) > MOST_YAML:
        raise DipsimError(f"{source.name}: larger than {MOST_YAML} bytes: give it as JSON")
    else:
        data = files.parse_yaml(text, source.name)
    if not isinstance(data, dict):
        raise DipsimError(f"{source.name}: expected a mapping with cases")
    return data


def _rate(case: Case, figure: float, origin: Origin) -> Rate:
    """Return the rate of a case in tokens per second.

    Raises:
        ValueError: it tells none, in a sentence.
    """
    if case.kind not in ("decode", "prefill"):
        raise ValueError(
            f"kind {case.kind}: only decode and prefill are rates of a model in memory"
        )
    if case.not_predicted:
        raise ValueError(case.not_predicted)
    value = figure
    if not case.is_rate:
        tokens = 1 if case.kind == "decode" else case.prompt
        if tokens is None:
            raise ValueError("a time without the number of tokens of the prompt")
        value = tokens / case.seconds_of(figure)
    number(value, "the rate", RATES)
    return Rate(case.model_copy(update={"unit": "tokens/s"}), value, origin)


def _recognises(head: str) -> bool:
    as_json = re.match(r"\s*\{", head) and re.search(r'"cases"\s*:\s*\[', head)
    return bool(as_json or re.search(r"(?m)^cases:\s*$", head))


CASES = Format("cases of dipsim validate (JSON, YAML)", _recognises, read)
