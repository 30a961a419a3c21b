"""The server's own page and POST /v1/explain, over HTTP as a browser and a script see them."""

import base64
import contextlib
import hashlib
import re
from html.parser import HTMLParser
from urllib.parse import urlencode, urljoin

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_helpers import item, serving

from conf.reward import ServeRewardConfig, ShapingConfig
from reward_server import page_html
from reward_server.explaining.routes import EXAMPLE_ITEM
from reward_server.verdicts import STATUSES, rules_hash

THINK = "<think>a</think>"
VOID = {"meta", "input", "rect"}
COUNTERS = {"verdicts": {}, "queue": 0, "workers": 2, "restarts": {"late": 1}, "requests": 10, "uptime_s": 5.0}
STATUS_OF_EXAMPLES = ["correct", "bad_format", "wrong", "wrong", "wrong", "bad_gold"]


@contextlib.contextmanager
def running(**config):
    """The address of a server's page."""
    with serving(workers=1, **config) as (_, url):
        yield url + "/"


@pytest.fixture(scope="module")
def url():
    with running() as url:
        yield url


class Page(HTMLParser):
    """A parsed page: refuses what does not nest, and keeps tags with their attributes and texts."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags = [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append([tag, dict(attrs), ""])
        if tag not in VOID:
            self.open.append(self.tags[-1])

    def handle_startendtag(self, tag, attrs):
        self.tags.append([tag, dict(attrs), ""])

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, (tag, self.open[-3:])
        self.open.pop()

    def handle_data(self, data):
        for one in self.open:
            one[2] += data

    def all(self, tag, **wanted):
        return [one for one in self.tags if one[0] == tag and wanted.items() <= one[1].items()]

    def text(self, tag, **wanted):
        (one,) = self.all(tag, **wanted)
        return one[2]

    @property
    def status(self):
        found = re.search(r"^(\w+) – ", self.text("title"))
        return found[1] if found else None


def form(response, kind="math", ground_truth="5", **fields):
    return {"kind": kind, "response": response, "ground_truth": ground_truth, **fields}


def sent(url, fields, code=200):
    reply = httpx.post(url, data=fields)
    assert reply.status_code == code
    return Page(reply.text)


def test_a_new_page_has_labels_and_fetches_nothing(url):
    reply = httpx.get(url)
    assert reply.status_code == 200 and reply.headers["content-type"] == "text/html; charset=utf-8"
    page = Page(reply.text)
    assert page.status is None and page.text("html").count("Judge a response") == 1
    labels = {one[1].get("for") for one in page.all("label")}
    fields = [one[1] for tag in ("input", "textarea") for one in page.all(tag) if one[1].get("type") != "radio"]
    assert {field["id"] for field in fields} <= labels and len(fields) == 5
    assert len(page.all("input", type="radio")) == 3 and page.text("legend") == "Kind"
    ids = [one[1]["id"] for one in page.tags if "id" in one[1]]
    assert len(ids) == len(set(ids))
    links = [one[1][name] for one in page.tags for name in ("href", "src", "action") if name in one[1]]
    assert links and not any(re.match(r"/|[a-z]+:", link) for link in links), "they must work under /t/TOKEN/, too"
    assert not any(name == "style" or name.startswith("on") for one in page.tags for name in one[1])


def test_only_the_page_s_own_script_and_style_may_run(url):
    reply = httpx.get(url)
    policy = dict(part.strip().split(" ", 1) for part in reply.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["form-action"] == policy["connect-src"] == "'self'"
    page = Page(reply.text)
    for tag in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.text(tag).encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert reply.headers["referrer-policy"] == "no-referrer" and reply.headers["x-content-type-options"] == "nosniff"


def test_examples_say_what_they_promise(url):
    links = [one[1]["href"] for one in Page(httpx.get(url).text).all("a") if "response=" in one[1]["href"]]
    pages = [Page(httpx.get(urljoin(url, link)).text) for link in links]
    assert [page.status for page in pages] == STATUS_OF_EXAMPLES
    assert all(len(page.all("section")) == 4 for page in pages)


@pytest.mark.parametrize(
    ("fields", "status", "part"),
    [
        (form(THINK + r"\boxed{5}"), "correct", "reward 1"),
        (form(THINK + r"\boxed{5}", ground_truth="4\n\n 5 "), "correct", "ground truth 2"),
        (form(THINK + r"\boxed{\sqrt{26}}"), "wrong", "worker"),
        (form(r"a</think>\boxed{5}", think_prefilled="true"), "correct", "the prompt supplied"),
        (form(THINK + r"\boxed{5", cut_off="true"), "truncated", "length limit"),
        (form(THINK, ground_truth=""), "bad_gold", "reward none"),
        (form(""), "no_box", "reward 0"),
        (form(THINK + r"\boxed{B}", "mcq", "B", options="A. x\r\nB) y: z\r\n"), "correct", "label alone"),
        (form(THINK + r"\boxed{y: z}", "mcq", "B", options="A. x\nB) y: z"), "correct", "full text"),
        (form(THINK + r"\boxed{Paris.}", "open", "paris"), "correct", "compared as"),
    ],
    ids=range(10),
)
def test_the_form(url, fields, status, part):
    page = sent(url, fields)
    assert page.status == status and part in page.text("html")
    assert page.text("textarea", name="response").strip() == fields["response"].strip()
    (kind,) = (one[1]["value"] for one in page.all("input", type="radio") if "checked" in one[1])
    assert kind == fields["kind"]
    checked = {one[1]["name"] for one in page.all("input", type="checkbox") if "checked" in one[1]}
    assert checked == {name for name in ("think_prefilled", "cut_off") if name in fields}


@pytest.mark.parametrize(
    ("fields", "code", "parts"),
    [
        (form("x", "mcq", "A", options="A. x\nno label"), 422, ["options", "no label", "then its text"]),
        (form("x", "mcq", "A", options="A. x\nA. y"), 422, ["options", "given twice"]),
        (form("x", "maths"), 422, ["kind", "mcq, open, math"]),
        (form("x", response_tokens="many"), 422, ["response_tokens", "many"]),
        ({f"f{n}": "x" for n in range(100)}, 422, ["fields"]),
        (form("x" * 1_000_001), 413, ["response", "max_response_chars"]),
    ],
    ids=range(6),
)
def test_a_bad_form_comes_back_with_the_reason(url, fields, code, parts):
    page = sent(url, fields, code)
    assert page.status is None and all(part in page.text("p", role="alert") for part in parts)
    assert page.text("textarea", name="options").lstrip("\n") == fields.get("options", "")


@pytest.mark.parametrize(
    ("gold", "tones"),
    [
        ("5", ["good", "good", "good", "good", "good", "note", "good"]),
        ("5\n6", ["good", "good", "good", "good", "good", "note", "good"]),
        ("6", ["good", "good", "good", "good", "bad", "note", "bad"]),
        ("", ["good", "good", "good", "bad", "note", "note", "none"]),
    ],
)
def test_a_stage_is_marked_by_what_counts(url, gold, tones):
    page = sent(url, form(THINK + r"\boxed{5}", ground_truth=gold))
    stages = [one[1]["class"] for one in page.all("li") if one[1].get("class", "").startswith("stage")]
    assert stages == [f"stage {tone}" for tone in tones]


def test_line_ends_are_those_of_the_model():
    with running(match="exact") as url:
        page = sent(url, form(THINK + "\\boxed{a\r\nb}", "open", "a"))
        assert page.status == "wrong" and r"a\nb" in page.text("html") and "match exact" in page.text("header")


def test_bytes_that_are_no_form(url):
    for body in (b"", b"\xff\xfe\x00", b"response=%ff%00%ed%a0%80&kind=math", b"&&&=;", b"response"):
        reply = httpx.post(url, content=body, headers={"content-type": "application/x-www-form-urlencoded"})
        assert reply.status_code == 200
        Page(reply.text)
    assert httpx.get(url, params={"response": "\x00"}).status_code == 200


ANY = st.text(st.characters(exclude_categories=()), max_size=40)
MARKUP = st.sampled_from(
    ["</textarea><script>alert(1)</script>", "<b>", "&amp;", '"', "'", "\x00", "\ud800", "]]>", "<!--"]
)
TEXT = st.lists(st.one_of(ANY, MARKUP), max_size=4).map("".join)


@settings(deadline=None)
@given(TEXT, TEXT, TEXT, TEXT, TEXT)
def test_no_text_becomes_markup(response, gold, options, why, tokens):
    fields = {"response": response, "ground_truth": gold, "options": options, "kind": why, "response_tokens": tokens}
    steps = [{"step": "box", "part": why, "result": "kept", "why": why, "rule": gold, "source": options}]
    verdict = {"status": "wrong", "reward": 0.0, "accuracy": 0, "format": 1, "extracted": response}
    shapes = ShapingConfig(length_penalty=0.5, length_limit=9, source_weights={"a": 2})
    for explanation, fault in (({"verdict": verdict, "steps": steps}, None), (None, why)):
        text = page_html.render(
            ServeRewardConfig(shaping=shapes), "0" * 12, COUNTERS, page_html.Asked(fields, explanation, fault)
        )
        text.encode()
        page = Page(text)
        assert len(page.all("script")) == 1 and len(page.all("textarea")) == 3 and not page.all("b", a="")
        shown = page.text("textarea", name="response").removeprefix("\n")
        assert shown == re.sub("[\x00\ud800-\udfff]", "\ufffd", response)


def test_counters_are_shown_and_kept_up_to_date():
    with running() as url:
        items = [item().to_json(), item(answer="6").to_json(), item(gold="").to_json()]
        assert httpx.post(url + "v1/score", json={"items": items}).status_code == 200
        sent(url, form(THINK + r"\boxed{5}"))
        httpx.post(url + "v1/explain", json=item().to_json())
        shown = httpx.get(url + "counters").json()
        assert shown["numbers"]["Verdicts"] == "3" and shown["numbers"]["Requests"] == "1", "explanations do not count"
        assert shown["verdicts"]["correct"] == {"count": "1", "share": "33.3"} and set(shown["verdicts"]) == set(
            STATUSES
        )
        page = Page(httpx.get(url).text)
        for key, text in shown["numbers"].items():
            assert key == "Up for" or page.text("dd", **{"data-key": key}) == text
        for status, one in shown["verdicts"].items():
            assert page.text("td", **{"data-key": f"status-{status}"}) == one["count"]
            assert page.all("rect", **{"data-bar": status})[0][1]["width"] == one["share"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.9, "5 s"), (65, "1 min 5 s"), (7260, "2 h 1 min"), (90_000, "1 d 1 h"), (0, "0 s")]
)
def test_numbers_for_people(seconds, text):
    found = page_html.numbers({**COUNTERS, "uptime_s": seconds, "verdicts": {"correct": 1234}})
    assert found["numbers"]["Up for"] == text and found["numbers"]["Workers replaced"] == "1 late"
    assert found["verdicts"]["correct"] == {"count": "1,234", "share": "100.0"}


def test_everything_works_under_a_token_in_the_path():
    with running(token="secret") as url:
        assert httpx.get(url).status_code == 401 and httpx.get(url + "t/wrong/").status_code == 401
        for name in ("counters", "v1/explain"):
            assert httpx.request("GET" if name == "counters" else "POST", url + name).status_code == 401
        page_url = url + "t/secret/"
        reply = httpx.get(page_url)
        page = Page(reply.text)
        assert reply.status_code == 200 and "secret" not in reply.text
        target = urljoin(page_url, page.all("form")[0][1]["action"])
        assert sent(target, form(THINK + r"\boxed{5}")).status == "correct"
        (link,) = (one[1]["href"] for one in page.all("a") if "silent" in one[1]["href"])
        assert Page(httpx.get(urljoin(page_url, link)).text).status == "wrong"
        for one in page.all("a"):
            assert httpx.get(urljoin(page_url, one[1]["href"])).status_code == 200
        assert httpx.get(page_url + "counters").status_code == 200


def test_what_shaping_needs_is_asked_for():
    with running(shaping={"length_penalty": 0.5, "length_limit": 10, "source_weights": {"s": 2}}) as url:
        fields = form(THINK + r"\boxed{5}")
        assert "response_tokens: is missing" in sent(url, fields, 422).text("p", role="alert")
        page = sent(url, {**fields, "response_tokens": "5", "source": "s"})
        assert page.status == "correct" and "reward 1.5" in page.text("html") and "shaped" in page.text("header")
        assert page.all("input", name="source")[0][1]["value"] == "s"


# POST /v1/explain


def explain(url, body):
    return httpx.post(url + "v1/explain", **({"content": body} if isinstance(body, bytes) else {"json": body}))


def test_explain_gives_the_verdict_of_score(url):
    one = item(answer=r"\sqrt{25}", ident="\u00e9").to_json()
    reply = explain(url, one).json()
    (verdict,) = httpx.post(url + "v1/score", json={"items": [one]}).json()["items"]
    assert reply["verdict"] | {"elapsed_ms": 0} == verdict | {"elapsed_ms": 0}
    assert reply["rules_hash"] == rules_hash("equivalent") and reply["match"] == "equivalent"
    assert reply["steps"][-1]["result"] == "correct" and reply["steps"][0]["step"] == "finish"


def test_explain_takes_any_text(url):
    reply = explain(
        url,
        rb'{"id":"a","kind":"open","response":"<think>\u0000\ud800</think>\\boxed{\ud800}","ground_truth":"\ud800"}',
    )
    assert reply.status_code == 200 and reply.json()["verdict"]["status"] == "correct"


GOOD = item().to_json()


@pytest.mark.parametrize(
    ("body", "code", "parts"),
    [
        (b"{", 422, ["body", "JSON"]),
        ([], 422, ["expected a JSON object"]),
        ({**GOOD, "kind": "x"}, 422, ["kind", "mcq, open, math"]),
        ({**GOOD, "kindd": "x"}, 422, ["kindd", "unknown field"]),
        ({"id": "a"}, 422, ["ground_truth: is missing"]),
        ({**GOOD, "response": "x" * 1_000_001}, 413, ["response", "max_response_chars"]),
    ],
    ids=range(6),
)
def test_explain_names_what_is_wrong(url, body, code, parts):
    reply = explain(url, body)
    assert reply.status_code == code and all(part in reply.json()["detail"] for part in parts)


def test_explain_is_described_with_a_true_example(url):
    described = httpx.get(url + "openapi.json").json()["paths"]["/v1/explain"]["post"]
    (example,) = described["requestBody"]["content"]["application/json"]["examples"].values()
    assert example["value"] == EXAMPLE_ITEM
    promised = described["responses"]["200"]["content"]["application/json"]["example"]
    reply = explain(url, EXAMPLE_ITEM).json()
    assert reply["verdict"] | {"elapsed_ms": 0} == promised["verdict"] | {"elapsed_ms": 0}
    assert all(step in reply["steps"] for step in promised["steps"]) and set(reply) == set(promised)


def test_a_link_asks_what_the_form_asks(url):
    fields = form(THINK + r"\boxed{\sqrt{25}}")
    assert Page(httpx.get(f"{url}?{urlencode(fields)}").text).status == "correct"
