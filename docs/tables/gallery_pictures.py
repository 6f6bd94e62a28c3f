"""Draw the pictures of the gallery: the first screen of its reports in headless Chromium.

python docs/tables/gallery_pictures.py [FOLDER]     writes docs/pictures/report-*.png
"""

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "theme"))
import gallery  # noqa: E402

FOLDER = HERE.parent / "pictures"
THEMES = ("light", "dark")
NAMES = [f"report-{name}-{theme}.png" for name in gallery.REPORTS for theme in THEMES]
SIZE = {"width": 1100, "height": 760}


def write(folder: Path) -> None:
    """Write all pictures to a folder."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, TemporaryDirectory() as made:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name, make in gallery.REPORTS.items():
            report = Path(made) / f"{name}.html"
            report.write_text(make())
            for theme in THEMES:
                page = browser.new_page(viewport=SIZE, color_scheme=theme, reduced_motion="reduce")
                page.goto(report.as_uri())
                page.wait_for_selector(".main-svg")
                page.wait_for_timeout(1500)
                page.screenshot(path=folder / f"report-{name}-{theme}.png")
                page.close()
        browser.close()


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
