"""What a sweep found over its seeds, in the report and in its own page and picture."""

import json

import pytest
from comparison_world import write_sweep
from report_helpers import Page
from test_report_comparison import table_of

from conf.report import ReportConfig
from crossthink.errors import UserError
from recipes import report
from recipes.reporting.directions import directions_png
from recipes.reporting.over_seeds import page, read_view


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return write_sweep(tmp_path_factory.mktemp("swept"))


def test_the_report_begins_with_the_seeds(sweep, tmp_path):
    report.run(ReportConfig(sweep=str(sweep), out=str(tmp_path / "r.html")))
    markdown = (tmp_path / "r.md").read_text("utf-8")
    found = json.loads(sweep.read_text())
    rows = table_of(markdown, "### Table 4: blends")
    assert list(rows) == ["**base**", "**nd**", "**gpr\\_up**"]
    mean = found["arms"]["gpr_up"]["mean"]
    half = (mean["interval"][1] - mean["interval"][0]) / 2
    assert rows["**gpr\\_up**"][-3:] == [f"{100 * mean['mean']:.1f} (± {100 * half:.1f})", "3", "58.12"]
    verdicts = table_of(markdown, "### The paper's directions")
    assert verdicts["**gpr\\_up − base**"][-1] == verdicts["**gpr\\_up − nd**"][-1] == "holds"
    assert "$x$" not in markdown and markdown.index("Sweep \\<b\\>") < markdown.index("## Beside the paper")
    text = (tmp_path / "r.html").read_text("utf-8")
    assert "and not of all seeds" in markdown and "and not of all seeds" in text
    shown = Page(text)
    assert len(shown.ids) == len(set(shown.ids)) and {one[1:] for one in shown.references} <= set(shown.ids)
    assert shown.tags.count("svg") == 1 and '<span class="up">holds</span>' in text and "Sweep <b>" not in text


def test_its_own_page_holds_the_same_tables_and_what_is_missing(sweep):
    text = page(json.loads(sweep.read_text()), "sweep.png")
    assert text.startswith("# Sweep ") and "](sweep.png)" in text and "- only\\_mr/seed\\_0: failed\\_with 1" in text
    assert table_of(text, "### The paper's directions")["**gpr\\_up − nd**"][-1] == "holds"
    assert "![" not in page(json.loads(sweep.read_text()), None)


def test_directions_are_drawn_with_the_same_bytes(sweep, tmp_path):
    directions = read_view(sweep).directions
    assert [one.label for one in directions] == ["gpr_up − nd"]
    assert {one.verdict for one in directions} == {"up"} and all(one.interval for one in directions)
    for name in ("one", "other"):
        directions_png(tmp_path / name, directions)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    assert (tmp_path / "one").read_bytes().startswith(b"\x89PNG")


def test_one_seed_has_no_interval_and_no_verdict(tmp_path):
    view = read_view(write_sweep(tmp_path, seeds=1))
    assert {one.verdict for one in view.directions} == {"even"} and not any(one.interval for one in view.directions)
    assert all(not cell.small for table in view.tables for row in table.rows for cell in row.cells)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "is not the JSON file"),
        ('{"arms": {}}', "sweep.json"),
        ('{"format": "crossthink-sweep"}', r"does not hold what crossthink sweep writes there \(KeyError\('arms'\)\)"),
        ('{"format": "crossthink-sweep", "arms": 3}', "does not hold what crossthink sweep writes there"),
    ],
)
def test_what_is_no_sweep_is_refused(tmp_path, content, said):
    path = tmp_path / "some.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=f"some.json .*{said}"):
        report.run(ReportConfig(sweep=str(path), out=str(tmp_path / "r.html")))
    assert not (tmp_path / "r.html").exists()
