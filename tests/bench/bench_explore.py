"""How long the explorer takes: ``python tests/bench/bench_explore.py``.

From the start of the process to the first figures and to the first chart in a headless Chromium;
and from a step of a slider to new figures, when nothing else runs and while what stands beside the
last figures is still worked out.
"""

import argparse
import json
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import history
from machine import this_machine

EXPLORE = [sys.executable, "-m", "dipsim", "explore", "--no-browser"]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WATCH = """
window.seen = {};
const wanted = { figures: "#tiles dd", chart: ".chart .main-svg" };
new MutationObserver(() => {
  for (const [name, selector] of Object.entries(wanted)) {
    if (seen[name] || !document.querySelector(selector)) continue;
    seen[name] = performance.timeOrigin + performance.now();
  }
}).observe(document, { subtree: true, childList: true });
"""
"""Notes when figures and charts first appear."""
STEP = """
async ([option, key, wait]) => {
  await new Promise((done) => setTimeout(done, wait));
  const input = document.getElementById(`c-${option}`);
  const section = document.getElementById("now");
  return await new Promise((done) => {
    const begun = performance.now();
    new MutationObserver((_, observer) => {
      if (section.classList.contains("stale")) return;
      observer.disconnect();
      done(performance.now() - begun);
    }).observe(section, { attributes: true, attributeFilter: ["class"] });
    input.stepUp(key);
    for (const name of ["input", "change"]) input.dispatchEvent(new Event(name, { bubbles: true }));
  });
}
"""
"""Moves a slider and returns the milliseconds until its figures stand in the page."""
SLIDERS = {"DRAM": ("dip", "size"), "density": ("dip", "density"), "gamma": ("dip-ca", "gamma.glu")}


@contextmanager
def started() -> Iterator[tuple[float, float, str]]:
    """The explorer: when it was started, the seconds until it said its address, and the address."""
    begun = time.time()
    with subprocess.Popen(EXPLORE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        try:
            yield begun, time.time() - begun, address
        finally:
            process.send_signal(signal.SIGINT)


def start_up(browser: Any) -> dict[str, float]:
    """Seconds from the start of the process to its address, to figures and to a chart."""
    with started() as (begun, said, address):
        page = browser.new_page()
        page.add_init_script(WATCH)
        page.goto(address, wait_until="commit")
        page.wait_for_selector("#tiles dd")
        page.wait_for_selector(".chart .main-svg", state="attached")
        seen = page.evaluate("seen")
        page.close()
        return {"address": said} | {name: at / 1000 - begun for name, at in seen.items()}


def steps(page: Any, option: str, wait: int, count: int) -> float:
    """Median milliseconds from a step of a slider to its figures, ``wait`` after the last ones."""
    taken = [page.evaluate(STEP, [option, 1, wait]) for _ in range(count)]
    return statistics.median(taken)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="of starts, after one that compiles")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the times here")
    given = parser.parse_args(arguments)
    machine = this_machine()
    print(machine)
    figures: dict[str, float] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        rounds = [start_up(browser) for _ in range(given.rounds + 1)][1:]
        for name in rounds[0]:
            figures[f"start to {name}, s"] = statistics.median(each[name] for each in rounds)
        with started() as (_, _, address):
            page = browser.new_page()
            page.goto(address)
            page.wait_for_selector("#tables:not([hidden])")
            for name, (method, option) in SLIDERS.items():
                page.select_option("#c-method", method)
                steps(page, option, 3000, 1)  # may compile
                figures[f"{name}, at rest, ms"] = steps(page, option, 2000, 5)
                figures[f"{name}, 300 ms after the last, ms"] = steps(page, option, 300, 10)
        browser.close()
    for name, value in figures.items():
        print(f"{name:40}{value:9.2f}")
    if given.json:
        history.write(given.json, machine, figures=figures)
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
