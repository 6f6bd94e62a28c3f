"""Commands that list what there is: profiles, models, policies, methods."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from dipsim.cli import completion
from dipsim.cli.app import Json, command
from dipsim.cli.inputs import load_device
from dipsim.cli.output import print_json, print_report, say, show
from dipsim.cli.progress import Progress
from dipsim.errors import DipsimError


def _one(names: Callable[[str], list[str]]) -> Any:
    """Return the argument that names one of what a command lists."""
    return typer.Argument(help="show one in full", metavar="NAME|FILE", autocompletion=names)


@command(
    "Look up what there is",
    "dipsim profiles --where 'dram>=8GB,backend=npu' --sort measured",
    "dipsim profiles snapdragon8",
    "dipsim profiles --check snapdragon8",
)
def profiles(
    name: Annotated[str | None, _one(completion.profiles)] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            help="a figure, e.g. dram, available, bandwidth, flash, iops, measured, engine, name",
            metavar="KEY",
            autocompletion=completion.profile_keys,
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="only those with e.g. 'dram>=8GB' or backend=npu; several with commas",
            metavar="CONDITION",
        ),
    ] = None,
    check: Annotated[
        str | None,
        typer.Option(
            help="test a profile, and run models on it",
            metavar="FILE|NAME",
            autocompletion=completion.profiles,
        ),
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="JSON Schema of a profile")] = False,
    as_json: Json = False,
) -> None:
    """List the devices, show one (or a file) with the source of every number, or test one."""
    from dipsim.analysis.profile_list import select
    from dipsim.hardware import profile_names, profile_schema
    from dipsim.report import catalogue

    asked = {"NAME": name, "--check": check, "--schema": schema, "--sort, --where": sort or where}
    several = [option for option, given in asked.items() if given]
    if len(several) > 1:
        raise DipsimError(f"{' and '.join(several)} ask for several things: give one of them")
    if schema:
        print_json(profile_schema())
    elif check is not None:
        _check_profile(check, as_json)
    elif name is not None:
        device = load_device(name, None)
        if as_json:
            print_json(catalogue.profile_dict(device))
        else:
            show(catalogue.profile(device))
    else:
        known = [load_device(each, None) for each in profile_names()]
        chosen = select(known, where or (), sort)
        if as_json:
            print_json(catalogue.profiles_dict(chosen))
        else:
            show(catalogue.profiles(chosen))


@command(
    "Look up what there is",
    "dipsim models llama-3-8b",
)
def models(
    name: Annotated[str | None, _one(completion.models)] = None, as_json: Json = False
) -> None:
    """List the model presets, or show one (or a YAML file)."""
    from dipsim.model import load_model, model_names
    from dipsim.report import catalogue

    known = [load_model(each) for each in ([name] if name else model_names())]
    if as_json:
        dumps = {m.name: m.model_dump(mode="json", exclude_none=True) for m in known}
        print_json(dumps[known[0].name] if name else dumps)
    else:
        show(catalogue.model(known[0]) if name else catalogue.models(known))


@command(
    "Look up what there is",
    "dipsim policies",
    "dipsim policies --check mine.py:policy",
)
def policies(
    check: Annotated[
        list[str] | None,
        typer.Option(help="test a policy against the contract", metavar="FILE:ATTR"),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the cache policies, or test one of your own."""
    from dipsim.policies import load_policy
    from dipsim.report import catalogue

    if check is None:
        if as_json:
            print_report(catalogue.policies_dict(), units={"parameters": "the policy's own"})
        else:
            show(catalogue.policies())
        return
    if as_json:
        raise DipsimError("--json lists the policies, --check tests one: drop one of them")
    from dipsim.analysis.policy_laws import LAWS, check_policy

    _check(check, load_policy, check_policy, len(LAWS))


@command(
    "Look up what there is",
    "dipsim methods",
    "dipsim methods --check mine.py:method",
)
def methods(
    check: Annotated[
        list[str] | None,
        typer.Option(help="test a method against the contract", metavar="FILE:ATTR"),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the sparsification methods, or test one of your own."""
    from dipsim.methods import load_method
    from dipsim.report import catalogue

    if check is None:
        if as_json:
            print_report(catalogue.methods_dict())
        else:
            show(catalogue.methods())
        return
    if as_json:
        raise DipsimError("--json lists the methods, --check tests one: drop one of them")
    from dipsim.analysis.method_laws import LAWS, check_method

    _check(check, load_method, check_method, len(LAWS))


@command(
    "Look up what there is",
    "dipsim systems",
)
def systems(as_json: Json = False) -> None:
    """List what may stand beside the weights: rules for KV, tokens and layers, by their options."""
    from dipsim.report import catalogue

    if as_json:
        print_report(catalogue.systems_dict())
    else:
        show(catalogue.systems())


def _check_profile(given: str, as_json: bool) -> None:
    """Test a profile, run models of reference on it; exit code 2 if a number is impossible."""
    from dipsim.analysis.profile_laws import LAWS, check_profile
    from dipsim.analysis.reference import compare_to_nearest
    from dipsim.report import profile_check

    if as_json:
        raise DipsimError("--json lists the profiles, --check tests one: drop one of them")
    device = load_device(given, None)
    findings = check_profile(device)
    show(profile_check.findings(device, findings, len(LAWS)))
    with Progress(f"running models on {device.name}"):
        compared = compare_to_nearest(device)
    show(profile_check.runs(compared))
    if any(finding.certain for finding in findings):
        say(profile_check.refusal(device, findings))
        raise typer.Exit(2)


def _check(
    names: list[str], load: Callable[[str], Any], faults_of: Callable[[Any], list[str]], laws: int
) -> None:
    """Test what was named against its contract, and say what is wrong; exit code 2 if anything is.

    Args:
        load: finds the object of a name.
        faults_of: returns its faults, a sentence each.
        laws: number of laws that are tested.
    """
    from dipsim.report.tables import line

    broken = 0
    for name in names:
        with Progress(f"checking {name}"):
            faults = faults_of(load(name))
        for fault in faults:
            say(f"{name}: {fault}")
        broken += bool(faults)
        if not faults:
            show(line(f"{name}: keeps the contract ({laws} laws)"))
    if broken:
        raise typer.Exit(2)
