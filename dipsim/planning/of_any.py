"""Ways that any model has: fewer bits, less KV, mapped files, other engines, smaller models."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from dipsim.errors import DipsimError
from dipsim.model import FORMAT_BITS, Model, load_model, model_names
from dipsim.planning.plainly import plainly
from dipsim.planning.question import Figures, Question
from dipsim.planning.way import Way

NOT_KNOWN, ANOTHER = "not known", "another model"
"""Losses that are no figures."""
KV_BITS = (8, 4)
SHORTER = (2, 4)
"""Parts of the context that are tried."""
_NARROWER = 0.95
"""Share of the model's bits below which a format is narrower."""
_ALIKE = 0.01
"""Share by which bits differ that are taken for the same."""
_LEAST_GAIN = 1.05
"""Gain of rate below which a change is no way."""


def fewer_bits(question: Question) -> Iterator[Way]:
    """Yield the model in each narrower format, on the fastest of the engines that have a rate for
    it."""
    own = bits_of(question.model)
    tried: dict[str, list[Way]] = {}
    for name, engine in question.device.backends.items():
        for form in engine.gemv:
            bits = FORMAT_BITS.get(form, own)
            if bits < _NARROWER * own:
                options = {"weight_format": form, "bits": bits, "backend": name}
                why = f"{bits:g} bits for {own:.3g}"
                ways = _way(question, f"{form} on {name}", why, options, NOT_KNOWN)
                tried.setdefault(form, []).extend(ways)
    for of_format in filter(None, tried.values()):
        yield max(of_format, key=lambda way: way.figures.rate.value)


def bits_of(model: Model) -> float:
    """Return the mean bits of a weight."""
    return 8 * model.total_bytes / model.parameters


def less_kv(question: Question, plain: Figures | None) -> Iterator[Way]:
    """Yield runs with fewer KV bits and shorter contexts, where these are faster."""
    for bits in KV_BITS:
        yield from _if_faster(
            plain,
            _way(
                question,
                f"KV of {bits} bits",
                "less KV to hold and read",
                {"kv_bits": bits},
                NOT_KNOWN,
            ),
        )
    for part in SHORTER:
        context = question.context // part
        if context <= question.prompt:
            continue
        why = f"KV of {context:,} positions for {question.context:,}"
        way = _way(question, f"context {context}", why, {"context": context}, "none")
        yield from _if_faster(plain, way)


def _if_faster(plain: Figures | None, ways: Iterator[Way]) -> Iterator[Way]:
    for way in ways:
        if plain is None or way.figures.rate.value > _LEAST_GAIN * plain.rate.value:
            yield way


def mapped(question: Question) -> Iterator[Way]:
    """Yield the model mapped into memory, whose pages come in by faults."""
    why = "pages are loaded when they are touched"
    yield from _way(question, "mmap", why, {"io": "mmap"}, "none")


def without_cache(question: Question, plain: Figures | None) -> Iterator[Way]:
    """Yield a mixture none of whose experts is kept, where this is faster: nothing is copied."""
    why = "experts are read whenever they are used: no copy into a cache"
    yield from _if_faster(plain, _way(question, "no cache", why, {"policy": "none"}, "none"))


def other_engines(question: Question, plain: Figures | None) -> Iterator[Way]:
    """Yield plain runs on the device's other backends, where these are faster."""
    own, _ = question.device.backend(question.options.get("backend"))
    for name, engine in question.device.backends.items():
        if name != own:
            why = f"{engine.engine or 'another unit'} instead of {own}"
            way = _way(question, f"backend {name}", why, {"backend": name}, "none")
            yield from _if_faster(plain, way)


def smaller_models(question: Question) -> Iterator[Way]:
    """Yield plain runs of the smaller presets of the same family, at as many bits a weight."""
    model = question.model
    bits = round(bits_of(model), 3)
    for name in model_names():
        other: Model = load_model(name)
        same = family_of(name) == family_of(model.name) != ""
        if same and other.experts is None and other.parameters < 0.9 * model.parameters:
            why = f"{other.parameters / 1e9:.3g} B weights for {model.parameters / 1e9:.3g} B"
            stored: Model = other
            options: dict[str, Any] = {"model": name}
            if (
                abs(bits_of(other) / bits - 1) > _ALIKE
                or other.weight_format != model.weight_format
            ):
                stored = other.stored_at(bits, model.weight_format)
                options["bits"] = bits
                if model.weight_format is not None:
                    options["weight_format"] = model.weight_format
            yield from _way(question, name, why, options, ANOTHER, model=stored)


def family_of(name: str) -> str:
    """Return the letters that a model's name begins with: ``llama`` of ``Llama-3.2-1B``."""
    begins = re.match(r"[a-z]+", name.lower())
    return "" if begins is None else begins[0]


def _way(
    question: Question,
    name: str,
    why: str,
    options: Mapping[str, Any],
    loss: str,
    *,
    model: Model | None = None,
) -> Iterator[Way]:
    """Yield a way, unless it cannot be run.

    Args:
        model: that is run; default: the question's, at the bits of the options.
    """
    changes = options if model is None else {**options, "model": model}
    try:
        figures = plainly(question, **changes)
    except DipsimError:
        return
    yield Way(name, why, options, figures, loss)
