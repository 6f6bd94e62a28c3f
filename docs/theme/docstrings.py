"""What the Python reference of the site shows beyond the source, from which griffe reads it.

A function that takes ``**options: Unpack[RunOptions]`` lists these options, as its ``help()`` does;
a name in single backticks leads to its own entry, where it has one; a page that is named is linked.
"""

import re
from collections.abc import Iterator
from typing import Any

import griffe

from dipsim import keywords

NAME = re.compile(r"(?<![`\w])`([A-Za-z_][\w.]*)`(?!`)")
PAGE = re.compile(r"\bdocs/([\w-]+)\.md\b")


class Docstrings(griffe.Extension):
    """Changes docstrings once the whole package is read."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Add links and options to every docstring of the package."""
        for owner in documented(pkg):
            owner.docstring.value = linked(owner.docstring.value, owner)
            if isinstance(owner, griffe.Function):
                list_options(owner)


def documented(owner: griffe.Module | griffe.Class) -> Iterator[griffe.Object]:
    """Yield what has a docstring in a module or class, itself first; imported names apart."""
    if owner.docstring:
        yield owner
    for member in owner.members.values():
        if isinstance(member, griffe.Module | griffe.Class):
            yield from documented(member)
        elif not member.is_alias and member.docstring:
            yield member


def linked(text: str, owner: griffe.Object) -> str:
    """Return a docstring with links from names to entries, and to pages from docs/api."""

    def link(match: re.Match[str]) -> str:
        try:
            path = owner.resolve(match[1])
        except griffe.NameResolutionError:
            return f"`{match[1]}`"
        # optional: shown as code if the reference has no such entry
        return f'<autoref optional identifier="{path}"><code>{match[1]}</code></autoref>'

    return PAGE.sub(r"[\1](../\1.md)", NAME.sub(link, text))


def list_options(function: griffe.Function) -> None:
    """Add a section of the options to a function that takes ``**options: Unpack[...]``."""
    rest = function.parameters["options"].annotation if "options" in function.parameters else None
    if not isinstance(rest, griffe.ExprSubscript) or rest.canonical_path != "typing.Unpack":
        return
    kind = function.modules_collection[rest.slice.canonical_path]
    types = kind.all_members
    options = [
        griffe.DocstringParameter(
            option.name,
            annotation=types[option.name].annotation,
            description=keywords.meaning_of(option.name),
        )
        for option in keywords.options_of(getattr(keywords, kind.name))
    ]
    sections = function.docstring.parsed
    for section in sections:
        if section.kind is griffe.DocstringSectionKind.parameters:
            for argument in section.value:
                if argument.name == "options":  # its type is the section below
                    argument.annotation = argument.value = None
    sections.append(griffe.DocstringSectionOtherParameters(options, title="Options"))
