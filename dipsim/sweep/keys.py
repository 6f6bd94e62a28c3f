"""Keys of a sweep file: the options of a run or of a judged model, and those of the sweep."""

import difflib
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SkipValidation, create_model

from dipsim.errors import DipsimError, brief
from dipsim.settings import OPTIONS, Settings

Pairs = dict[str, str | float]
"""Names and numbers, e.g. of ``gamma`` or ``overrides``."""
INPUTS: dict[str, tuple[Any, str]] = {
    "trace": (str | None, "a file, or the name of a shipped one"),
    "profile": (str, "device: a name or a YAML file"),
    "model": (str | None, "a preset, YAML, config.json or GGUF [the one that the trace names]"),
    "overrides": (str | Pairs | None, "of the profile: flash.bandwidth=2GB/s, or a mapping"),
}
"""Options of a run that are no settings: type of a value, and help."""
LOOP: dict[str, tuple[Any, str]] = {
    "text": (str | None, "judge the model itself, on a UTF-8 file or python-reference"),
    "text_tokens": (int | None, "of the text: tokens that are judged, at most [all]"),
    "window": (int | None, "of the text: tokens of a sequence [512]"),
    "adapter": (str | None, "of the model: a folder that dipsim lora wrote"),
    "lora_steps": (int | None, "of the model: train an adapter for the masks in so many steps"),
    "requantise": (str | None, "of the model: MLP weights by column first, e.g. 4:32"),
    "geometry": (str | None, "of the model: sizes and storage, as run --model"),
}
"""Options of a model that is judged in closed loop: type of a value, and help."""
SHARE = "dram_share"
"""Key of a size of DRAM as a share of the model at its own bits."""
RUN = (*INPUTS, *LOOP, SHARE, *OPTIONS)
"""Options of a cell, as keys of a sweep file."""
FILES = (
    *("trace", "profile", "model", "static_from", "warm_from", "prefetch", "text", "adapter"),
    "geometry",
)
"""Options that may name a file."""
PLUGINS = ("method", "policy")
"""Options that may be ``file.py:attribute``."""
PAIRS = ("overrides", *(name for name, option in OPTIONS.items() if option.kind is dict))
"""Options that are mappings; each of their names may be a key of its own: ``gamma.glu``."""
_MOST_SEEDS = 10_000


class When(BaseModel):
    """Change of the cells that match."""

    model_config = ConfigDict(extra="forbid")

    when: dict[str, Any] = Field(description="values that the cells have, by option")
    set: dict[str, Any] = Field(description="options that they get instead")


class TableKeys(BaseModel):
    """Table of a sweep."""

    model_config = ConfigDict(extra="forbid")

    title: str = Field("", description="heading [its figure]")
    rows: str | list[str] = Field(description="axes with a row for each of their values")
    columns: str | None = Field(None, description="axis with a column for each value [figures]")
    figures: list[str] = Field([], description="columns, or with an axis there a table for each")
    at_loss: list[float] = Field(
        [], description="columns: the highest rate at so much perplexity above the dense model's"
    )


class Keys(BaseModel):
    """Keys of a sweep file beside the options of its cells."""

    model_config = ConfigDict(extra="forbid", title="dipsim sweep")

    name: str | None = Field(None, description="of the sweep [that of the file]")
    title: str = Field("", description="text for people")
    note: str = Field("", description="remark below the tables")
    extends: str | None = Field(None, description="file whose keys these replace")
    seeds: int | None = Field(
        None, description="number of seeds, an axis", ge=1, le=_MOST_SEEDS, strict=True
    )
    zip: list[dict[str, list[Any]]] | dict[str, list[Any]] = Field(
        [], description="options that change together, lists of equal length"
    )
    where: list[dict[str, Any]] | dict[str, Any] = Field(
        [], description="only cells that match one of these: options and their values"
    )
    exclude: list[dict[str, Any]] | dict[str, Any] = Field([], description="no cells that match")
    rules: list[When] = Field([], alias="for", description="changes of single cells, in order")
    tables: list[TableKeys] = Field([], description="what is shown of the cells [the fastest]")


def _option_fields() -> dict[str, Any]:
    """Return a field for each option of a cell: a value, or a list of them."""
    fields: dict[str, Any] = {}
    for name in RUN:
        kind, text = _declared_as(name)
        value = Annotated[kind | list[kind], SkipValidation]  # type: ignore[valid-type]
        fields[name] = (value, Field(None, description=text))
    return fields


def _declared_as(name: str) -> tuple[Any, str]:
    """Return the type of an option's values, and its help."""
    if name in INPUTS or name in LOOP:
        return {**INPUTS, **LOOP}[name]
    if name == SHARE:
        return float | None, "DRAM as a share of the model at its own bits, whatever those stored"
    field, text = Settings.model_fields[name], OPTIONS[name].help
    if OPTIONS[name].kind is dict:
        return str | float | Pairs, text
    if name in ("dram", "cache", "kv_dram", "kv_budget"):
        return str | float | None, text
    kind = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return kind, text


SweepFile = create_model("SweepFile", __base__=Keys, **_option_fields())
"""Schema of a sweep file. Values of options are checked with each cell, by `make_settings`."""


def schema() -> dict[str, Any]:
    """Return the JSON Schema of sweep files."""
    made: dict[str, Any] = SweepFile.model_json_schema()
    pair = {"description": "one of the option's pairs: a number or a text, or a list of them"}
    return {**made, "patternProperties": {rf"^({'|'.join(PAIRS)})\.": pair}}


def is_option(key: str) -> bool:
    """Return whether a key is an option of a cell, or a pair of one: ``gamma.glu``."""
    option, dot, name = key.partition(".")
    return key in RUN or bool(dot and name and option in PAIRS)


def check_key(key: Any, where: str) -> None:
    """Refuse a key that sweep files do not have.

    Raises:
        DipsimError: with the nearest one that they have.
    """
    known = [field.alias or name for name, field in SweepFile.model_fields.items()]
    if key not in known and not is_option(str(key)):
        meant = f"did you mean {close[0]}? " if (close := _near(str(key), known)) else ""
        raise DipsimError(
            f"{where}: unknown key {brief(repr(key), 60)}: {meant}(dipsim sweep --schema has all)"
        )


def check_option(name: str, where: str) -> None:
    """Refuse what is no option of a cell.

    Raises:
        DipsimError: with the nearest option.
    """
    if not is_option(name):
        meant = f"; did you mean {close[0]}?" if (close := _near(name, RUN)) else ""
        raise DipsimError(f"{where}: {brief(repr(name), 60)} is no option of a run{meant}")


def _near(name: str, known: Any) -> list[str]:
    return difflib.get_close_matches(name, list(known), 1)
