"""Does the site of the docs build, hold together, and show every public name?"""

import html
import logging
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import griffe
import pytest
from mkdocstrings import Inventory

import page_examples
import pictures
from dipsim import keywords
from tools.paths import DOCS, ROOT

EXTENDED = ("dipsim", "dipsim.kv.rules", "dipsim.layers", "dipsim.lm", "dipsim.tokens")
"""Packages whose every public name the reference has; of contracts it has whole modules."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built without a warning."""
    folder = tmp_path_factory.mktemp("site")
    # without -q, which hides warnings from the option strict too
    command = [sys.executable, "-m", "mkdocs", "build", "-f", "docs/theme/mkdocs.yml"]
    environment = {**page_examples.ENVIRONMENT, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [*command, "-d", str(folder)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert all(line.startswith("INFO") for line in done.stderr.splitlines()), done.stderr
    return folder


@pytest.mark.slow  # builds the site, and the reports of its gallery
def test_the_site_has_the_pages_and_none_of_the_scripts(site: Path) -> None:
    assert (site / "writing-a-policy.html").exists()
    assert (site / "examples.ipynb").exists()
    assert not (site / "tables").exists()
    assert {path.name for path in (site / "theme").iterdir()} == {"extra.css", "iframe-worker.js"}


def test_every_page_stands_in_the_navigation_of_the_site_and_on_its_first_page() -> None:
    navigation = (DOCS / "theme/mkdocs.yml").read_text()
    first = (DOCS / "index.md").read_text()
    for page in DOCS.glob("*.md"):
        assert f": {page.name}\n" in navigation
        assert page.name == "index.md" or f"({page.name})" in first, page.name


@pytest.mark.slow  # builds the site, and the reports of its gallery
def test_nothing_of_the_site_comes_from_another_host(site: Path) -> None:
    for file in (*site.rglob("*.html"), *site.rglob("*.css")):
        text = file.read_text()
        assert not re.search(r"""(\bsrc=|<link[^>]* href=|url\()["']?(https?:)?//""", text), file


@pytest.mark.slow  # builds the site, and the reports of its gallery
def test_the_site_can_be_searched_from_a_disk(site: Path) -> None:
    index = (site / "search/search_index.js").read_text()
    assert index.startswith("var __index = ")
    assert "iframe-worker.js" in (site / "index.html").read_text()
    for word in ("writing-a-policy.html", "api/runs.html#dipsim.simulate.simulate"):
        assert f'"{word}"' in index


@pytest.mark.slow  # builds the site, and the reports of its gallery
def test_a_picture_follows_the_switch_of_the_site(site: Path) -> None:
    for page in DOCS.glob("*.md"):
        built = (site / f"{page.stem}.html").read_text()
        for name in pictures.shown(page):
            for theme in ("light", "dark"):
                assert re.search(rf'src="[./]*pictures/{name}-{theme}.svg#only-{theme}"', built)


def test_a_picture_that_the_site_could_not_switch_stops_it() -> None:
    on_page = runpy.run_path(str(DOCS / "theme/hooks.py"))["on_page_markdown"]
    assert on_page("no picture") == "no picture"
    with pytest.raises(ValueError, match="<picture>"):
        on_page('<picture><img src="pictures/mrc-light.svg"></picture>')


@pytest.mark.slow  # builds the site, and the reports of its gallery
def test_what_is_typed_stands_after_a_dollar(site: Path) -> None:
    prompts = {
        prompt
        for file in site.rglob("*.html")
        for prompt in re.findall(r'<span class="gp">(.*?)</span>', file.read_text())
    }
    assert prompts == {"$ "}


@pytest.mark.slow  # builds the site, and the reports of its gallery
def test_the_notebook_is_a_page_with_what_it_shows(site: Path) -> None:
    page = (site / "examples.html").read_text()
    assert "128 tokens, 30 layers" in page
    assert page.count('src="data:image/png;base64,') == 2
    assert "<td>31846.5</td>" in page
    assert 'href="examples.html"' in (site / "index.html").read_text()


# The Python reference ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def package() -> griffe.Module:
    """The source, as the reference reads it."""
    package = griffe.load(
        "dipsim",
        search_paths=[ROOT],
        docstring_parser="google",
        docstring_options={"warn_missing_types": False},  # mypy sees to types; kernels have none
    )
    assert isinstance(package, griffe.Module)
    return package


@pytest.mark.parametrize("name", EXTENDED)
def test_the_reference_has_every_public_name(site: Path, package: griffe.Module, name: str) -> None:
    with (site / "objects.inv").open("rb") as file:
        entries = set(Inventory.parse_sphinx(file))
    module = package.modules_collection[name]
    assert isinstance(module.exports, list)
    missing = [
        each
        for each in map(str, module.exports)
        if not {f"{name}.{each}", module.imports.get(each, "")} & entries
    ]
    assert missing == []


@pytest.mark.slow  # builds the site, and the reports of its gallery
def test_the_reference_lists_the_options_of_a_function(site: Path) -> None:
    page = (site / "api/runs.html").read_text()
    _, entry = page.split('id="dipsim.simulate.simulate"')
    listed = entry[entry.index("<details") : entry.index("</details>")]
    options = re.findall(r"<b><code>(\w+)</code></b>", listed)
    assert options == [option.name for option in keywords.options_of(keywords.RunOptions)]
    for name in options:
        assert keywords.meaning_of(name) in html.unescape(listed)
    assert page.count("<summary>Options</summary>") == 5


@pytest.mark.slow  # builds the site, and the reports of its gallery
def test_a_name_in_a_docstring_leads_to_its_entry(site: Path) -> None:
    page = (site / "api/policies.html").read_text()
    assert re.search(r'<a [^>]*href="#dipsim.policies.contract.Policy"[^>]*><code>Policy<', page)
    assert '<a href="../writing-a-policy.html">writing-a-policy</a>' in page
    assert not any("<autoref" in page.read_text() for page in (site / "api").iterdir())


def documented(owner: griffe.Object) -> Iterator[griffe.Object]:
    if owner.docstring:
        yield owner
    for member in owner.members.values():
        if isinstance(member, griffe.Object):
            yield from documented(member)


def test_every_argument_of_a_docstring_has_a_line_and_is_one(
    package: griffe.Module, caplog: pytest.LogCaptureFixture
) -> None:
    """Of all modules, those too that are on no page."""
    with caplog.at_level(logging.WARNING, "griffe"):
        sections = [section for each in documented(package) for section in each.docstring.parsed]
    assert sum(section.kind.value == "parameters" for section in sections) > 100
    assert caplog.messages == []
