"""What the documentation says of the tree: files that it names exist, links lead somewhere, diffs apply."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = (
    "benchmarks", "conf", "crossthink", "data_prep", "docker", "docs", "recipes", "requirements", "reward_server",
    "slurm", "tests",
)  # fmt: skip
PAGES = {str(page.relative_to(ROOT)): page for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))}
FILES = {f"/{path.relative_to(ROOT)}" for folder in FOLDERS for path in (ROOT / folder).rglob("*.*")}
# Files of others, and those that a page tells its reader to make.
STRANGERS = re.compile(
    r"^(_torch|llmapi|executor|sampling_params|train_gpt|serve_ppo|app\.py)|gsm8k|NAME|/(recorded|checked)\.yaml"
)
SPAN = re.compile(r"```.*?```|`([^`\n]+)`", re.DOTALL)
NAMED = re.compile(
    r"(?<![\w./*{}-])([\w-][\w./-]*\.(?:py|j2|sh|lock)|(?:conf|docs|recipes|tests)/[\w./-]+\.\w+)(?::(\w+))?"
)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings, and the page's own."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return slugs | set(re.findall(r'<a id="([^"]+)"', text))


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist_and_hold_what_is_named_in_them(page):
    for span in SPAN.findall(PAGES[page].read_text("utf-8")):
        for name, inside in NAMED.findall(span):
            found = [path for path in FILES if path.endswith(f"/{name}")]
            assert found or STRANGERS.search(name), f"{name} does not exist"
            made = re.compile(rf"^\s*(?:def|class) {inside}\b|^{inside}\b.* = ", re.MULTILINE)
            assert not inside or any(made.search((ROOT / path[1:]).read_text("utf-8")) for path in found), inside


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", PAGES[page].read_text("utf-8")):
        name, _, anchor = link.partition("#")
        target = (PAGES[page].parent / name).resolve() if name else PAGES[page]
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text("utf-8")), link


def test_the_diffs_of_contributing_apply():
    diffs = re.findall(r"```diff\n(.*?)```", PAGES["CONTRIBUTING.md"].read_text("utf-8"), re.DOTALL)
    assert len(diffs) == 5
    for diff in diffs:
        words = ["git", "apply", "--check", "-C1", "-"]
        ended = subprocess.run(words, input=diff, cwd=ROOT, text=True, capture_output=True)
        assert ended.returncode == 0, ended.stderr
