"""The data card: one page, self-contained, well-formed, and saying what the manifest says."""

import html
import json
import re
from html.parser import HTMLParser

import pytest
from prep_helpers import config, math_rows, mmlu_rows, prepare

from conf.prep import DecontaminateConfig
from data_prep import card, prep
from data_prep.pool import Pool
from data_prep.steps import STEPS, Tally

OPEN_ENDED = {"meta", "rect", "path", "line"}  # elements that need no end


class Page(HTMLParser):
    """Elements, text and attributes of a page; fails where an end has no beginning."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.stack, self.tags, self.links, self.cells, self.text = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in OPEN_ENDED or tag == "rect":
            self.stack.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag, f"</{tag}> out of place"

    def handle_data(self, data):
        self.text.append(data)
        if self.stack and self.stack[-1] in ("td", "th"):
            self.cells[-1] += data


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    rows = mmlu_rows(40)
    nasty = {"question": "<script>alert('x')</script> & \"<b>\"?", "choices": ["<i>", "</pre>", "a & b", "c"]}
    rows += [rows[0], rows[1] | {"choices": ["a", "a", "b", "c"]}, rows[2] | nasty]
    numina = [{"problem": "p", "answer": "proof", "problem_type": "x", "source": "s"}]
    numina[0] |= {"problem_is_valid": "Yes", "solution_is_valid": "Yes"}
    numina.append(numina[0] | {"answer": "2"})
    paths = {}
    for name, found in {"mmlu_train": rows, "math": math_rows(3), "numina_math": numina}.items():
        paths[name] = folder / f"{name}.jsonl"
        paths[name].write_text("".join(json.dumps(row) + "\n" for row in found))
    return prepare(folder / "my <pool> & co", paths)


@pytest.fixture(scope="module")
def page(pool):
    return Page((pool.path / "card.html").read_text("utf-8"))


def test_the_page_is_whole_and_needs_nothing_else(page, pool):
    assert set(page.stack) <= {"html", "body"} and {"table", "svg", "pre"} <= set(page.tags)
    assert "script" not in page.tags and page.links == []
    text = (pool.path / "card.html").read_text("utf-8")
    assert not re.search(r"https?://|@import|url\(", text.replace("http://www.w3.org/2000/svg", ""))
    assert not re.search(r"\b20\d\d-\d\d-\d\d|\d\d:\d\d:\d\d", text), "a card does not depend on when it was made"


def test_it_says_what_the_manifest_says(page, pool):
    said = "".join(page.text)
    assert "my <pool> & co" in said and "45 verifiable questions, sources:" in said
    assert pool.manifest["licence"] in said and pool.sha256[:16] in said
    for name, facts in pool.manifest["sources"].items():
        assert name in page.cells and facts["licence"] in page.cells
        for step in facts["steps"]:
            for reason in step["dropped"]:
                assert reason in page.cells and step["step"] in page.cells
    for prompt in pool.manifest["prompts"].values():
        assert prompt["text"] in said
    assert all(name in said for name in pool.manifest["decontamination"]["absent"])


def longest(pool, name):
    return max(len(row.question) for row in pool.rows(name))


def test_every_source_has_its_samples_and_histograms(page, pool):
    text = (pool.path / "card.html").read_text("utf-8")
    text = text.partition("<h2>Prompts")[0]  # one of them is called math, too
    parts = re.split(r"<h3>(mmlu_train|math|numina_math)</h3>", text)
    found = {name: part.split("<h2>")[0] for name, part in zip(parts[1::2], parts[2::2], strict=True)}
    samples = {name: part.count("<pre>") for name, part in found.items()}
    assert samples == {name: min(5, rows) for name, rows in pool.counts.items()}
    assert all(part.count("<svg") == 2 for part in found.values()), "question and ground truth"
    assert all(f"max {longest(pool, name)}" in part for name, part in found.items())
    (row,) = pool.rows("numina_math")
    assert html.escape(row.prompt[-1]["content"]) in found["numina_math"]


def test_the_same_pool_gives_the_same_page(pool):
    tallies = {name: Tally(rows_in=facts["rows_in"]) for name, facts in pool.manifest["sources"].items()}
    assert card.page(pool, tallies, "a") == card.page(Pool.open(pool.path), tallies, "a")
    assert "<p>Nothing.</p>" in card.page(pool, tallies, "a")


def test_a_decontaminated_pool_says_how_much_was_found(raw_file, raw_rows, tmp_path):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "mmlu_test.jsonl").write_text(json.dumps(raw_rows["mmlu_train"][1]) + "\n")
    chosen = config(tmp_path / "pool", {"mmlu_train": raw_file("mmlu_train")})
    chosen.decontaminate = DecontaminateConfig(path=str(tmp_path / "benchmarks"))
    prep.run(chosen)
    page = Page((tmp_path / "pool" / "card.html").read_text("utf-8"))
    assert "in_mmlu_test" in page.cells and "decontaminate" in page.cells
    assert "amc23" in "".join(page.text) and STEPS["decontaminate"] in "".join(page.text)
