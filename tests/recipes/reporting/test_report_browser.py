"""The comparison page in a real browser: no errors, filters that filter, nothing wider than a phone."""

import html
import json
import re
import shutil
import subprocess

import pytest
from comparison_world import make_world, write_sweep

from conf.report import ReportConfig
from recipes import report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--enable-logging=stderr", "--virtual-time-budget=5000",
    "--dump-dom",
)  # fmt: skip
PHONE = 390

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")

# Around the page: it stands in a frame as wide as a phone's screen, and what is found ends up in the title.
HARNESS = """<!DOCTYPE html><title>nothing</title><script>
const found = {errors: []};
const look = (frame) => {
  const page = frame.contentDocument;
  const form = page.getElementById("samples-form");
  const shown = () => [...page.querySelectorAll(".sample")];
  const set = (name, value) => { form[name].value = value; form.dispatchEvent(new Event("input", {bubbles: true})); };
  found.width = frame.contentWindow.innerWidth;
  found.overflow = page.documentElement.scrollWidth;
  found.hidden = form.hidden;
  found.scripts = page.scripts.length;
  found.first = shown().length;
  page.getElementById("samples-more").click();
  found.more = shown().length;
  set("right", "right");
  found.badges = [...new Set([...page.querySelectorAll(".sample .badge")].map((e) => e.className))];
  found.right = page.getElementById("samples-count").textContent;
  set("right", "");
  set("topic", "amc23");
  found.topics = [...new Set(shown().map((e) => e.querySelector("summary span:nth-child(2)").textContent))];
  set("topic", "");
  set("origin", "gpr_up, step 20");
  found.step = shown().length;
  set("text", "ALERT(1)");
  found.nasty = shown().map((e) => e.querySelector(".answer").textContent);
  found.inside = page.querySelectorAll(".sample script, .sample .answer *").length;
  set("text", "no answer has these words");
  found.none = page.getElementById("samples-count").textContent;
  const sticky = page.querySelector("table.wide td");
  sticky.closest(".scroll").scrollLeft = 200;
  found.sticky = sticky.getBoundingClientRect().left >= 0;
};
window.addEventListener("load", () => {
  const frame = document.querySelector("iframe");
  try { look(frame); } catch (error) { found.errors.push(String(error)); }
  document.title = JSON.stringify(found);
});
</script><iframe width="WIDTH" height="800" style="border: 0" srcdoc="PAGE"></iframe>"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What the browser found, and what it wrote to its console."""
    folder = tmp_path_factory.mktemp("browser")
    words = {**make_world(folder), "sweep": str(write_sweep(folder))}
    report.run(ReportConfig(**words, out=str(folder / "report.html")))
    page = html.escape((folder / "report.html").read_text("utf-8"))
    (folder / "harness.html").write_text(HARNESS.replace("WIDTH", str(PHONE)).replace("PAGE", page))
    asked = subprocess.run(
        [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"file://{folder / 'harness.html'}"],
        capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", asked.stdout, re.DOTALL)
    assert title, asked.stderr[-2000:]
    return json.loads(html.unescape(title[1])), [line for line in asked.stderr.splitlines() if "CONSOLE" in line]


def test_it_opens_without_errors(seen):
    found, console = seen
    assert found["errors"] == [] and console == []
    assert found["scripts"] == 2 and found["hidden"] is False


def test_nothing_is_wider_than_a_phone(seen):
    found, _ = seen
    assert found["width"] == PHONE and found["overflow"] <= PHONE and found["sticky"]


def test_filters(seen):
    found, _ = seen
    assert (found["first"], found["more"]) == (10, 20)
    assert found["badges"] == ["badge right"]
    right, of = re.fullmatch(r"(\d+) of (\d+) answers", found["right"]).groups()
    assert 0 < int(right) < int(of)
    assert found["topics"] == ["amc23"] and found["step"] > 1
    assert found["none"] == f"0 of {of} answers"


def test_what_a_model_wrote_stays_text(seen):
    found, _ = seen
    assert len(found["nasty"]) == 1 and "<script>alert(1)</script>" in found["nasty"][0]
    assert found["inside"] == 0
