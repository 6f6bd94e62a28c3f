"""What the site does otherwise than GitHub with the same pages.

On GitHub a picture that is light or dark is a ``<picture>`` element, which follows the system. The
site has a switch, so there both pictures stand on the page and the theme shows the one that fits.
As Markdown, their links are also checked when the site is built. Each leads to the picture alone,
which is larger.

GitHub shows a notebook; the site makes a page of it. The reports of the gallery are made with the
site, as each is a file of its own.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pygments.lexers.shell import BashSessionLexer

sys.path.insert(0, str(Path(__file__).parent))  # mkdocs loads a hook as a file alone
import gallery

BashSessionLexer._ps1rgx = re.compile(r"^(\$ )(.*\n?)")
"""What is typed in a terminal stands after ``$``; as it comes, ``a:b 81%`` counts as typed too."""

PICTURE = re.compile(
    r'<picture>\s*<source media="\(prefers-color-scheme: dark\)" srcset="(?P<dark>[^"]+)">\s*'
    r'<img alt="(?P<alt>[^"]+)" src="(?P<light>[^"]+)">\s*</picture>'
)
BOTH = "".join(
    rf"[![\g<alt>](\g<{theme}>#only-{theme})](\g<{theme}>)" for theme in ("light", "dark")
)
NOTEBOOK = "examples.ipynb"


def on_files(files: Files, config: Any) -> Files:
    """Add the page of the notebook, under its name, and the reports of the gallery."""
    notebook = files.get_file_from_path(NOTEBOOK)
    page = "\n\n".join(notebook_parts(json.loads(notebook.content_string)))
    files.append(File.generated(config, NOTEBOOK.replace(".ipynb", ".md"), content=page))
    for path, report in gallery.reports():
        files.append(File.generated(config, path, content=report))
    return files


def notebook_parts(notebook: dict[str, Any]) -> Iterator[str]:
    """Yield the cells of a notebook as Markdown, each with what it shows."""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        yield source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
        for output in cell.get("outputs", ()):
            shown = {kind: "".join(text) for kind, text in output.get("data", {}).items()}
            if "text/html" in shown:
                plain = re.sub(r"<style.*?</style>", "", shown["text/html"], flags=re.DOTALL)
                yield re.sub(r"<table[^>]*>", "<table>", plain)
            elif "image/png" in shown:
                picture = shown["image/png"].replace("\n", "")
                yield f'<img alt="What it draws" src="data:image/png;base64,{picture}">'
            else:
                text = "".join(output.get("text", ())) or shown["text/plain"]
                yield f"```text\n{text.rstrip()}\n```"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return the page with both pictures in place of every ``<picture>``.

    Raises:
        ValueError: a ``<picture>`` is written otherwise, and would be shown without its style.
    """
    page = PICTURE.sub(BOTH, markdown)
    if "<picture>" in page:
        raise ValueError(f"a <picture> is not of the form {PICTURE.pattern}")
    return page.replace(f"]({NOTEBOOK})", f"]({NOTEBOOK.replace('.ipynb', '.md')})")


def on_page_content(html: str, page: Page, **_: Any) -> str:
    """Let a search show pages that explain before the reference, which has every word."""
    if page.file.src_uri.startswith("api/"):
        page.meta["search"] = {"boost": 0.2}
    return html
