"""Commands that explain themselves: options and commands in groups, examples, one-line refusals."""

from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from copy import copy
from difflib import get_close_matches
from typing import Any, Literal

from typer.core import TyperCommand, TyperGroup

from dipsim.errors import DipsimError

Subject = Literal[
    "Replay a trace on a device",
    "Bring your own trace, device or policy",
    "Measure and validate",
    "Put a model in the loop (needs dipsim[torch])",
    "Look up what there is",
]
"""Group of commands in ``dipsim --help``, in this order."""
SUBJECTS: tuple[Subject, ...] = Subject.__args__  # type: ignore[attr-defined]
OUTPUT, OF_LOGS = "Output", "What a routing log leaves open"
PANELS = (
    "Options",
    OF_LOGS,
    "Device and model",
    "What a token needs",
    "What stays in DRAM",
    "How the trace is replayed",
    "Flash and time",
    OUTPUT,
)
"""Groups of options in the help of a command, in this order; the first holds its own ones."""
_INDENT = 2
_running: ContextVar[Any] = ContextVar("running")
"""Context of the command that runs."""


def invocation() -> tuple[str, dict[str, Any]]:
    """Return the name of the command that runs, and what was given to it but for its output.

    Options are named as the command line spells them, with underscores.
    """
    ctx = _running.get()
    given = {
        _spelled(each): ctx.params[each.name]
        for each in ctx.command.params
        if getattr(each, "rich_help_panel", None) != OUTPUT
        and each.name in ctx.params
        and ctx.params[each.name] not in (None, False, (), [])
    }
    return ctx.info_name, given


def _spelled(param: Any) -> str:
    """Return ``open_loop`` of ``--open-loop``; of a short option its name."""
    long = [name for name in param.opts if name.startswith("--")]
    return long[0].removeprefix("--").replace("-", "_") if long else str(param.name)


class Command(TyperCommand):
    """A command whose help shows its options in groups, with an example.

    An option that takes one value is refused where it is given twice.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line.

        Raises:
            DipsimError: no such option, one of a single value is given twice, or a value is
                missing or wrong.
        """
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        given = _values(self, ctx, args)
        for each in self.params:
            _refuse_repeats(each, given.get(each.name), ctx)
        try:
            return super().parse_args(ctx, args)
        except Exception as problem:
            wrong = getattr(problem, "param", None)
            if wrong is None or not hasattr(problem, "format_message"):
                raise
            raise DipsimError(_wrong(wrong, given.get(wrong.name), problem, ctx)) from None

    def invoke(self, ctx: Any) -> Any:
        """Run the command; meanwhile `invocation` tells its name and options."""
        _running.set(ctx)
        return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then each group of options."""
        arguments = [each for each in self.get_params(ctx) if each.param_type_name == "argument"]
        if arguments:
            with formatter.section("Arguments"):
                formatter.write_dl([(_name(each), _text(each)) for each in arguments])
        for panel, options in _by_panel(self.get_params(ctx)).items():
            with formatter.section(panel):
                formatter.write_dl([(_name(each), _text(each)) for each in options])

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        """Write how the command is called."""
        pieces = [
            _metavar(each) if each.required else f"[{_metavar(each)}]"
            for each in self.get_params(ctx)
            if each.param_type_name == "argument"
        ]
        formatter.write_usage(ctx.command_path, " ".join([*pieces, "[OPTIONS]"]))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples."""
        _write_examples(self.epilog, formatter)


class Group(TyperGroup):
    """The program, whose help shows its commands in groups, with an example."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a line or two for each command, subject by subject."""
        width = max(map(len, self.commands))
        for subject in SUBJECTS:
            rows = [
                (name.ljust(width), _sentence(command.help))
                for name, command in self.commands.items()
                if getattr(command, "rich_help_panel", None) == subject
            ]
            if rows:
                with formatter.section(subject):
                    formatter.write_dl(rows)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, then the program's own options."""
        self.format_commands(ctx, formatter)
        with formatter.section("Options"):
            formatter.write_dl([(_name(each), _text(each)) for each in self.get_params(ctx)])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples."""
        _write_examples(self.epilog, formatter)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command by name.

        Raises:
            DipsimError: none of that name; the nearest is named.
        """
        command = super().get_command(ctx, cmd_name)
        if command is None and not ctx.resilient_parsing and not cmd_name.startswith("-"):
            raise DipsimError(_unknown("command", cmd_name, list(self.commands), "dipsim --help"))
        return command


# Help ---------------------------------------------------------------------------------------------


def _by_panel(params: Sequence[Any]) -> dict[str, list[Any]]:
    """Return the options of each group that has some; ``--help`` comes last of all."""
    options = [each for each in params if each.param_type_name == "option" and not each.hidden]
    panels: dict[str, list[Any]] = {panel: [] for panel in PANELS}
    for each in options:
        panels[getattr(each, "rich_help_panel", None) or PANELS[0]].append(each)
    shown = [each for each in panels[PANELS[0]] if each.name == "help"]
    if shown and panels[OUTPUT]:
        panels[PANELS[0]].remove(shown[0])
        panels[OUTPUT].append(shown[0])
    return {panel: members for panel, members in panels.items() if members}


def _name(param: Any) -> str:
    """Return ``TRACE`` for an argument, ``-p, --profile NAME|FILE`` for an option."""
    if param.param_type_name == "argument":
        return _metavar(param)
    names = ", ".join(sorted(param.opts, key=len))
    return names if param.is_flag else f"{names} {_metavar(param)}"


def _metavar(param: Any) -> str:
    return str(param.metavar or param.name.upper())


def _text(param: Any) -> str:
    """Return the help of a parameter, with its default where the text does not say it."""
    default, text = param.default, param.help or ""
    if param.name == "help":
        return "show this and leave"
    flag = getattr(param, "is_flag", False)
    plain = isinstance(default, int | float | str) and not flag and default != ""
    more = [f"[{default}]"] if plain and not text.endswith("]") else []
    if param.param_type_name == "option" and param.multiple:
        more.append("(may repeat)")
    if param.param_type_name == "option" and param.required:
        more.append("(required)")
    return " ".join([text, *more])


def _sentence(text: str | None) -> str:
    """Return the first paragraph of a command's help."""
    return " ".join((text or "").split("\n\n")[0].split())


def _write_examples(text: str | None, formatter: Any) -> None:
    """Write the lines of an epilog as they are; a line that is too long for a terminal folds."""
    examples = (text or "").splitlines()
    if not examples:
        return
    with formatter.section("Example" if len(examples) == 1 else "Examples"):
        for example in examples:
            formatter.write("\n".join(_folded(example, formatter.width - _INDENT)) + "\n")


def _folded(command: str, width: int) -> Iterator[str]:
    """Yield a command line in parts no longer than ``width``, as a shell reads it."""
    line = " " * _INDENT
    for word in command.split(" "):
        if len(line) + len(word) + 3 > width and line.strip():
            yield f"{line} \\"
            line = " " * (3 * _INDENT) + word
        else:
            line = f"{line}{' ' if line.strip() else ''}{word}"
    yield line


# Refusals -----------------------------------------------------------------------------------------


def _values(command: Command, ctx: Any, args: Sequence[str]) -> dict[str, Any]:
    """Return all values of every option, by name, not yet judged.

    Raises:
        DipsimError: an option that the command does not have.
    """
    twin = copy(command)  # of which every option takes several values, so that none is lost
    twin.params = [copy(each) for each in command.params]
    for each in twin.params:
        if each.param_type_name == "option":
            each.multiple = True
    try:
        values, _, _ = twin.make_parser(ctx).parse_args(args=list(args))
    except Exception as problem:
        wrong = getattr(problem, "option_name", None)
        if wrong is None or not hasattr(problem, "possibilities"):
            raise
        known = [name for each in command.get_params(ctx) for name in each.opts]
        refusal = _unknown("option", wrong, known, f"{ctx.command_path} --help")
        raise DipsimError(refusal) from None
    return dict(values)


def _refuse_repeats(param: Any, values: Any, ctx: Any) -> None:
    """Refuse a second value of an option that takes one; a flag may well be raised twice.

    Raises:
        DipsimError: there are several values.
    """
    if param.param_type_name != "option" or param.multiple or param.is_flag:
        return
    if isinstance(values, list | tuple) and len(values) > 1:
        name = max(param.opts, key=len)
        shown = ", ".join(map(str, values))
        raise DipsimError(f"{name} given twice ({shown}): one only{_takers(ctx, name)}")


def _wrong(param: Any, values: Any, problem: Any, ctx: Any) -> str:
    """Return a line on a value that is missing or wrong."""
    if not isinstance(values, str | list | tuple) or not values:
        return f"no {_name(param)}: add it (see {ctx.command_path} --help)"
    value = values if isinstance(values, str) else values[-1]
    name = _metavar(param) if param.param_type_name == "argument" else max(param.opts, key=len)
    why = str(getattr(problem, "message", "") or problem.format_message())
    return f"{name} {value}: {why[:1].lower()}{why[1:].rstrip('.')}"


def _takers(ctx: Any, name: str) -> str:
    """Return which commands take an option several times, as the end of a sentence."""
    commands: Mapping[str, Any] = getattr(ctx.find_root().command, "commands", {})
    takers = [
        other
        for other, command in commands.items()
        if any(name in each.opts and getattr(each, "multiple", False) for each in command.params)
    ]
    if not takers:
        return ""
    return f"; {', '.join(takers)} take{'s' if len(takers) == 1 else ''} several"


def _unknown(what: str, name: str, known: Sequence[str], see: str) -> str:
    """Return a line on a name that does not exist, with the nearest one that does."""
    begun = [each for each in known if len(name) > 2 and each.startswith(name)]
    nearest = [*begun, *get_close_matches(name, known, 1)][:1]
    hint = f"did you mean {nearest[0]}?" if nearest else "there is none like it"
    return f"no such {what} {name}: {hint} ({see} lists all)"
