"""No test depends on a clock: the same tests pass on a slow machine, a busy one and a stopped one.

Work is counted (`tools.work`), a program that never ends is stopped by what it may use of a
processor (`tools.cli.LIMITED`), and what must happen first is waited for without a limit.
"""

import ast
from collections.abc import Iterator

import pytest

from tools.paths import ROOT

TESTS = ROOT / "tests"
MEASURING = {
    "bench/bench_explore.py": "a benchmark measures time; no test looks at it",
    "bench/bench_kv.py": "likewise",
    "bench/bench_memory.py": "likewise",
    "bench/bench_phone.py": "likewise",
    "bench/bench_startup.py": "likewise",
    "bench/bench_sweep.py": "likewise",
    "bench/bench_time.py": "likewise",
    "bench/bench_traces.py": "likewise",
    "bench/history.py": "a record has a date",
    "bench/turns.py": "what measures for the other benchmarks",
    "tools/stub_phone.py": "a stub of the program timeout, which keeps no time",
    "tools/fuzz.py": "goes on for --seconds when it is run by hand",
}
CLOCKS = {
    "time": {
        "clock_gettime",
        "monotonic",
        "perf_counter",
        "process_time",
        "sleep",
        "thread_time",
        "time",
    },
    "asyncio": {"sleep", "timeout", "wait_for"},
    "datetime": {"now", "today", "utcnow"},
    "faulthandler": {"dump_traceback_later"},
    "mark": {"timeout"},
    "signal": {"alarm", "setitimer", "sigtimedwait"},
    "threading": {"Timer"},
}
"""What reads a clock or waits for one, by module; `time` has some with _ns at the end too."""
LIMITED = ("deadline", "timeout", "timeout_s")
"""Keywords that end something after a time, unless they are None."""


def is_clock(module: str, name: str) -> bool:
    """Tell whether a name of a module is a clock."""
    return name.removesuffix("_ns") in CLOCKS.get(module.split(".")[0], ())


def is_number(node: ast.expr) -> bool:
    """Tell whether an expression is a number, as it stands there."""
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)


def clocks_in(source: str) -> Iterator[str]:
    """Yield every use of a clock, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names if is_clock(str(node.module), alias.name)]
        elif isinstance(node, ast.Attribute):
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else node.value
            module = owner if isinstance(owner, str) else getattr(owner, "id", "")
            aware = module in ("datetime", "date") and is_clock("datetime", node.attr)
            names = [node.attr] if aware or is_clock(module, node.attr) else []
        elif isinstance(node, ast.Call):
            names = [
                str(keyword.arg)
                for keyword in node.keywords
                if keyword.arg in LIMITED
                and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is None)
            ]
            method = getattr(node.func, "attr", "")
            if method in ("wait", "join", "acquire", "result") and any(map(is_number, node.args)):
                names.append(f"{method}(seconds)")
        elif isinstance(node, ast.Dict):
            names = [
                key.value
                for key in node.keys
                if isinstance(key, ast.Constant) and key.value in LIMITED
            ]
        else:
            continue
        yield from (f"line {getattr(node, 'lineno', 0)}: {name}" for name in names)


def test_no_test_depends_on_a_clock() -> None:
    files = {path.relative_to(TESTS).as_posix(): path for path in TESTS.rglob("*.py")}
    assert set(MEASURING) <= set(files)
    found = {name: list(clocks_in(path.read_text())) for name, path in files.items()}
    assert {name: uses for name, uses in found.items() if uses and name not in MEASURING} == {}
    assert [name for name in MEASURING if not found[name]] == []


@pytest.mark.parametrize(
    "line",
    [
        "time.sleep(0.1)",
        "from time import perf_counter",
        "begin = time.monotonic_ns()",
        "subprocess.run(command, timeout=20)",
        "given = {'timeout': 120}",
        "process.wait(60)",
        "thread.join(1.5)",
        "threading.Timer(20, process.kill)",
        "signal.alarm(5)",
        "datetime.datetime.now()",
        "settings(deadline=200)",
        "pytest.mark.timeout",
    ],
)
def test_a_clock_is_noticed(line: str) -> None:
    assert len(list(clocks_in(line))) == 1


@pytest.mark.parametrize(
    "line",
    [
        "process.wait()",
        "''.join(words)",
        "os.wait4(process.pid, 0)",
        "settings(deadline=None)",
        "resource.setrlimit(resource.RLIMIT_CPU, (20, 20))",
        "datetime.date(2026, 1, 2)",
        "events.set()",
    ],
)
def test_what_is_no_clock_is_none(line: str) -> None:
    assert list(clocks_in(line)) == []
