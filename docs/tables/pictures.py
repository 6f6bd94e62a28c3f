"""Draw all pictures of README and of the pages, each for light and for dark backgrounds.

    python docs/tables/pictures.py [--to FOLDER] [PAGE ...]     writes docs/pictures/*

A page shows a picture where its Markdown has ``pictures/NAME-light.svg``, and one of its commands
draws it with ``--plot NAME.svg``. So the examples of the page are run, until all its pictures are
there. Without a PAGE all pages that show pictures are run, which takes some minutes.
"""

import argparse
import contextlib
import re
import tempfile
from pathlib import Path

import beside_frontier

import explorer
import gallery_pictures
import page_examples
import rate_against_dram

DOCS = Path(__file__).resolve().parents[1]
SHOWN = re.compile(r'src="pictures/([\w-]+)-light\.svg"')
OWN = {"rate-against-dram": rate_against_dram.write, beside_frontier.NAME: beside_frontier.write}
"""Pictures that no command draws, and what writes each to a folder."""
DARK = {
    "#1f2328": "#f0f6fc",  # text and axes, as matplotlibrc has them
    "#000000": "#f0f6fc",
    "#0072b2": "#4c8dff",  # too near to a dark background
}
ENVIRONMENT = {
    "MATPLOTLIBRC": str(Path(__file__).with_name("matplotlibrc")),
    "SOURCE_DATE_EPOCH": "0",  # the same bytes whenever it is drawn
}


def shown(page: Path) -> list[str]:
    """Return the names of the pictures that a page shows."""
    return SHOWN.findall(page_examples.BLOCK.sub("", page.read_text()))


def drawn_by_commands(page: Path) -> list[str]:
    """Return the names of the pictures that a page shows and its commands draw."""
    return [name for name in shown(page) if name not in OWN]


def in_the_dark(picture: str) -> str:
    """Return an SVG with the colours that a dark background needs."""
    for light, dark in DARK.items():
        picture = picture.replace(light, dark)
    return picture


def draw(page: Path, folder: Path) -> None:
    """Run the examples of a page and write its pictures to a folder.

    Raises:
        SystemExit: none of the page's commands draws a picture that it shows.
    """
    missing = drawn_by_commands(page)
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        work = Path(name)
        for _ in page_examples.run(page, work, **ENVIRONMENT):
            for picture in list(missing):
                if (drawn := work / f"{picture}.svg").exists():
                    light = drawn.read_text()
                    (folder / f"{picture}-light.svg").write_text(light)
                    (folder / f"{picture}-dark.svg").write_text(in_the_dark(light))
                    missing.remove(picture)
            if not missing:
                return
    if missing:
        raise SystemExit(f"{page}: no command has --plot {missing[0]}.svg")


def main() -> None:
    """Draw the pictures of the pages that were named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pages", metavar="PAGE", nargs="*", type=Path)
    parser.add_argument("--to", metavar="FOLDER", type=Path, default=DOCS / "pictures")
    given = parser.parse_args()
    if not given.pages:
        for write in (*OWN.values(), explorer.write, gallery_pictures.write):
            write(given.to)
    for page in given.pages or sorted(DOCS.glob("*.md")):
        if drawn_by_commands(page):
            draw(page.resolve(), given.to.resolve())


if __name__ == "__main__":
    main()
