"""What the site does otherwise than GitHub with the same pages.

On GitHub a picture that is light or dark is a ``<picture>`` element, which follows the system. The
site has a switch, so there both pictures stand on the page and the theme shows the one that fits.
As Markdown, their links are also checked when the site is built. Each leads to the picture alone,
which is larger.
"""

import re
from typing import Any

from pygments.lexers.shell import BashSessionLexer

BashSessionLexer._ps1rgx = re.compile(r"^(\$ )(.*\n?)")
"""What is typed in a terminal stands after ``$``; as it comes, ``a:b 81%`` counts as typed too."""

PICTURE = re.compile(
    r'<picture>\s*<source media="\(prefers-color-scheme: dark\)" srcset="(?P<dark>[^"]+)">\s*'
    r'<img alt="(?P<alt>[^"]+)" src="(?P<light>[^"]+)">\s*</picture>'
)
BOTH = "".join(
    rf"[![\g<alt>](\g<{theme}>#only-{theme})](\g<{theme}>)" for theme in ("light", "dark")
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return the page with both pictures in place of every ``<picture>``.

    Raises:
        ValueError: a ``<picture>`` is written otherwise, and would be shown without its style.
    """
    page = PICTURE.sub(BOTH, markdown)
    if "<picture>" in page:
        raise ValueError(f"a <picture> is not of the form {PICTURE.pattern}")
    return page
