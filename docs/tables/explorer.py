"""Draw the pictures of the explorer: its page in headless Chromium, light and dark.

python docs/tables/explorer.py [FOLDER]     writes docs/pictures/explorer-*.png
"""

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "pictures"
NAME = "explorer"
THEMES = ("light", "dark")
SETTINGS = "profile=paper-a18&method=dip-ca&size=80"
"""What is shown, as the address of the page keeps it."""
SIZE = {"width": 1220, "height": 900}


def write(folder: Path) -> None:
    """Write both pictures to a folder."""
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "dipsim", "explore", "--no-browser"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            address = process.stdout.readline().split()[0]
            try:
                for theme in THEMES:
                    shoot(browser, f"{address}#{SETTINGS}", theme, folder / f"{NAME}-{theme}.png")
            finally:
                process.send_signal(signal.SIGINT)
        browser.close()


def shoot(browser: Any, address: str, theme: str, file: Path) -> None:
    """Write what stands on the first screen, once all of it is drawn."""
    page = browser.new_page(viewport=SIZE, color_scheme=theme, reduced_motion="reduce")
    page.goto(address)
    page.wait_for_selector("#panels [data-name=what-the-same-memory-could-do-1]:not(.stale)")
    page.wait_for_selector("#panels [data-name=rate-against-memory-1]:not(.stale) .main-svg")
    page.wait_for_timeout(1000)
    page.screenshot(path=file)
    page.close()


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
