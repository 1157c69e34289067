"""Every relative link of a page leads to a file of the repository."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" not in target and not target.startswith("#"):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")), ids=lambda page: page.name)
def test_a_page_with_commands_says_or_links_to_how_to_install(page):
    text = page.read_text()
    if re.search(r"^```(python|sh|bash)|^(python -m sparselt|sparselt) ", text, flags=re.MULTILINE):
        assert "README.md#install" in text or "\n## Install\n" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_is_that_of_the_activated_environment_on_every_page(page):
    assert ".venv/bin/python" not in page.read_text() and ".venv/bin/pip" not in page.read_text()
