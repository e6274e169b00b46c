"""The documents as text: their length, links and pictures, and words that do not belong into them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.docs.pages import PAGES, REPOSITORY, blocks

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")


def heading_anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_can_be_finished_and_shows_both_pictures() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert "docs/images/loop.svg" in text and "docs/images/report.png" in text
    assert "**miniature**" in text


def test_the_readme_leads_to_every_page() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert f"({page.relative_to(REPOSITORY)})" in text


@pytest.mark.parametrize("page", [*PAGES, REPOSITORY / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for found in LINK.finditer(page.read_text(encoding="utf-8")):
        target, _, anchor = (found[1] or found[2]).partition("#")
        if target.startswith(("http:", "https:")):
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in heading_anchors(file), f"{page.name} links to {target}#{anchor}"


def test_pictures_are_small_and_whole() -> None:
    images = REPOSITORY / "docs" / "images"
    assert (images / "report.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (images / "report.png").stat().st_size < 300_000
    assert ElementTree.parse(images / "loop.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_modules_in_the_text_exist(page: Path) -> None:
    """Names in backquotes with a folder of the repository in front."""
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:actors|jobs|serve|tangoflux|tests|deploy|benchmarks)/[\w/.-]+)`", text):
        assert (REPOSITORY / name).exists(), f"{page.name} names {name}"


def test_the_packages_readme_is_the_readme() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["readme"] == "README.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_has_a_language(page: Path) -> None:
    assert all(block.language for block in blocks(page))
