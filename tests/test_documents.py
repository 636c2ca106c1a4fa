"""What documents quote is what was measured, what they link exists, and the commands that they show are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from bench.__main__ import app as bench
from reports.__main__ import app as reports
from reports.judge.quality import stored
from reports.show.quality import quality_listing

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def _table() -> str:
    listing = quality_listing(stored())
    lines = [listing.columns, ["---"] * len(listing.columns), *listing.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@pytest.mark.parametrize("name", ["README.md", "docs/compare.md"])
def test_the_quality_of_the_gate_is_quoted_as_measured(name: str) -> None:
    quoted = re.search(r"<!-- quality -->\n(.*?)\n<!-- /quality -->", (ROOT / name).read_text(), re.DOTALL)
    assert quoted, f"{name}: expected the table of the gate's quality"
    assert quoted[1] == _table()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings(document: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", document.read_text()):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{document.name} links {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}, link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_options_exist(document: Path) -> None:
    known = {name: get_command(app).commands for name, app in (("bench", bench), ("reports", reports))}  # type: ignore[attr-defined]
    for package, words in re.findall(r"python -m (bench|reports) ([^`#\n]*)", document.read_text()):
        name = words.split()[0]
        assert name in known[package], f"{document.name}: python -m {package} {words}"
        options = {option for parameter in known[package][name].params for option in parameter.opts}
        assert set(re.findall(r"(?<!\S)--[a-z-]+", words)) <= options, f"{document.name}: {words}"
