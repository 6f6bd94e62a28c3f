"""Measure a package by its syntax trees: how it is divided, how long its parts are, how it reads.

    python tests/tools/sizes.py FOLDER [--list]

Every .py file is a module, an `__init__` too, and every folder of them below the top a package. An
import arrow leads from a module to a module of the package that it imports, anywhere in the file;
between districts, which are what the top folder holds, only arrows that cross count. Parameters of
a function are all but `self` and `cls`. Bound names are those assigned or received in functions.
"""

import argparse
import ast
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
LONG_FILE, LONG_FUNCTION, MANY_PARAMETERS = 500, 60, 8
OPENINGS = re.compile(r"(Of|That|As|Who|What|Whether|Whose|Which|By|How)\b")
NAMES = ("at", "found", "made", "said")


def read(folder: Path) -> dict[str, tuple[Path, str, ast.Module]]:
    """Read a package: by dotted name, the path, text and tree of each module."""
    modules = {}
    for path in sorted(folder.rglob("*.py")):
        parts = (folder.name, *path.relative_to(folder).with_suffix("").parts)
        text = path.read_text()
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = (path.relative_to(folder), text, ast.parse(text))
    return modules


def imports(name: str, path: Path, tree: ast.Module, known: Mapping[str, object]) -> set[str]:
    """Find the modules of the package that a module imports."""
    targets = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            up = node.level - (path.stem == "__init__")
            above = name.split(".")[: -up or None] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            inner = {f"{base}.{alias.name}" for alias in node.names}
            targets |= {each if each in known else base for each in inner}
    return (targets & known.keys()) - {name}


def district(name: str) -> str:
    """Name what the top folder holds of a module: a package or a module, or the top itself."""
    return ".".join(name.split(".")[:2])


def parameters(node: Function) -> int:
    """Count the parameters of a function, without `self` and `cls`."""
    given = node.args
    named = [each.arg for each in (*given.posonlyargs, *given.args)]
    own = named[:1] in (["self"], ["cls"])
    rest = (given.vararg is not None) + (given.kwarg is not None)
    return len(named) - own + len(given.kwonlyargs) + rest


def docstrings(tree: ast.Module) -> list[tuple[int, str]]:
    """List line and text of every docstring, those of attributes and constants too."""
    texts = []
    for node in ast.walk(tree):
        body = node.body if isinstance(node, ast.Module | ast.ClassDef | Function) else []
        for before, each in zip([None, *body], body, strict=False):
            documents = before is None or isinstance(before, ast.Assign | ast.AnnAssign)
            value = each.value if documents and isinstance(each, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                texts.append((each.lineno, value.value.strip()))
    return sorted(texts)


def bound(tree: ast.Module) -> Counter[str]:
    """Count how often each name is bound in functions: assigned, or received as a parameter."""
    functions = (each for each in ast.walk(tree) if isinstance(each, Function | ast.Lambda))
    inside = {id(node): node for function in functions for node in ast.walk(function)}
    counts: Counter[str] = Counter()
    for node in inside.values():
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            counts[node.id] += 1
        elif isinstance(node, ast.arg):
            counts[node.arg] += 1
    return counts


def repeated(places: list[tuple[str, str]]) -> list[str]:
    """List the names found in more than one place, with their places."""
    by_name: dict[str, set[str]] = {}
    for name, place in places:
        by_name.setdefault(name, set()).add(place)
    several = sorted(name for name in by_name if len(by_name[name]) > 1)
    return [f"{name}: {', '.join(sorted(by_name[name]))}" for name in several]


def measure(folder: Path) -> dict[str, int | list[str]]:
    """Measure a package: a number for each row, or the list of what the row counts."""
    modules = read(folder)
    arrows, lines, names = set(), 0, Counter[str]()
    files, functions, wide, openings = [], [], [], []
    classes, stems = [], []
    for name, (path, source, tree) in modules.items():
        arrows |= {(name, target) for target in imports(name, path, tree, modules)}
        length = len(source.splitlines())
        lines += length
        names += bound(tree)
        stems += [(path.stem, str(path))] if path.stem != "__init__" else []
        files += [f"{path}: {length}"] if length > LONG_FILE else []
        for line, text in docstrings(tree):
            if OPENINGS.match(text):
                openings.append(f"{path}:{line}: {text.splitlines()[0]}")
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                classes.append((node.name, str(path)))
            elif isinstance(node, Function):
                span = (node.end_lineno or node.lineno) - node.lineno + 1
                place = f"{path}:{node.lineno}: {node.name}"
                functions += [f"{place}, {span} lines"] if span > LONG_FUNCTION else []
                count = parameters(node)
                wide += [f"{place}, {count} parameters"] if count > MANY_PARAMETERS else []
    crossing = {(district(a), district(b)) for a, b in arrows if district(a) != district(b)}
    paths = [path for path, _, _ in modules.values()]
    return {
        "modules at the top": sum(len(path.parts) == 1 for path in paths),
        "modules": len(modules),
        "packages": sum(path.stem == "__init__" and len(path.parts) > 1 for path in paths),
        "import arrows between modules": len(arrows),
        "import arrows between districts": len(crossing),
        "lines": lines,
        f"files over {LONG_FILE} lines": files,
        f"functions over {LONG_FUNCTION} lines": functions,
        f"functions with more than {MANY_PARAMETERS} parameters": wide,
        "docstrings that begin with Of, That, As, Who, What, ...": openings,
        "class names in more than one module": repeated(classes),
        "file stems used more than once": repeated(stems),
        **{f"local names: {name}": names[name] for name in NAMES},
    }


def main() -> None:
    """Print the table, and with --list what the rows count."""
    parser = argparse.ArgumentParser(description="Measure a package by its syntax trees.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--list", action="store_true", help="list what the rows count")
    arguments = parser.parse_args()
    rows = measure(arguments.folder.resolve())
    width = max(map(len, rows))
    for row, value in rows.items():
        print(f"{row:<{width}}  {len(value) if isinstance(value, list) else value:>6}")
    for row, value in rows.items() if arguments.list else ():
        if isinstance(value, list):
            print("\n".join(["", f"{row}:", *(f"  {each}" for each in value)]))


if __name__ == "__main__":
    main()
