"""Why a verdict is what it is: the same verdict as the judge's, for any text, with the right reason."""

import io
import json
import re
import sys
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_helpers import ROOT, Failing, item, run_async

from benchmarks import reward_accuracy
from conf.compose import keys
from conf.reward import ServeRewardConfig, ShapingConfig
from recipes.cli import main
from reward_server import shaping
from reward_server.explain import MEANINGS, explain
from reward_server.explaining.steps import RULES, SHOWN, difference, visible
from reward_server.local import LocalJudge
from reward_server.scoring import math, mcq, symbolic
from reward_server.scoring.extract import FAULTS, check_format, format_fault
from reward_server.scoring.judge import Reply, judge
from reward_server.service import Refused
from reward_server.verdicts import STATUSES, Item, rules_hash

STAGES = ["finish", "format", "box", "gold", "answer", "shaping", "reward"]
NO_SHAPING = ShapingConfig()
CITIES = {"A": "London", "B": "Rome", "C": "Paris", "D": "Rome"}
THINK = "<think>a</think>"


class InProcess:
    """Slow math without a worker, which remembers as the pool does."""

    @staticmethod
    @cache
    def _good(gold):
        return Reply(bool(math.check_gold(gold, symbolic.good)))

    @staticmethod
    @cache
    def _equal(golds, answer):
        return Reply(any(math.compare(gold, answer, symbolic.same) for gold in golds))

    async def gold_is_good(self, gold):
        return self._good(gold)

    async def any_equal(self, golds, answer):
        return self._equal(golds, answer)


class Broken:
    """Slow math with a bug."""

    async def gold_is_good(self, gold):
        raise RuntimeError("a bug\x00\x07")  # no lone surrogate: the log is part of what xdist sends, as UTF-8

    any_equal = gold_is_good


def explained(one, match="equivalent", slow=None, shapes=NO_SHAPING):
    return run_async(explain(one, match, slow or InProcess(), shapes))


def without_time(verdict):
    return {name: value for name, value in verdict.items() if name != "elapsed_ms"}


def check(one, match="equivalent"):
    """The explanation of an item, after checking all that holds for every item."""
    found = explained(one, match)
    verdict = run_async(judge(one, match, InProcess()))
    assert without_time(found["verdict"]) == without_time(verdict.to_json())
    assert (found["match"], found["rules_hash"]) == (match, rules_hash(match))
    steps = found["steps"]
    assert steps[-1]["step"] == "reward" and steps[-1]["result"] == verdict.status
    order = [STAGES.index(step["step"]) for step in steps]
    assert order == sorted(order) and set(order) == set(range(len(STAGES)))
    for step in steps:
        assert set(step) == {"step", "part", "result", "why", "rule", "source"} and step["result"] and step["source"]
        assert step["why"].isprintable() and len(step["why"]) < 10 * SHOWN, step
        assert step["result"] != "error"
    assert json.loads(json.dumps(found)) == found
    results = {step["result"] for step in steps if step["step"] == "format"}
    assert ("broken" in results) == (not verdict.format)
    finished = next(step for step in steps if step["step"] == "finish")
    assert (finished["result"] == "broken") == (verdict.status == "truncated") or verdict.accuracy is None
    if verdict.accuracy is not None and len(one.ground_truth) <= 8:
        answers = {step["result"] for step in steps if step["step"] == "answer" and step["part"].startswith("answer")}
        assert ("equal" in answers) == bool(verdict.accuracy)
        assert "bad" not in {step["result"] for step in steps if step["step"] == "gold"}
    if verdict.status == "bad_gold":
        assert "bad" in {step["result"] for step in steps if step["step"] == "gold"}
    return found


@pytest.mark.parametrize("match", ["equivalent", "exact"])
@pytest.mark.parametrize("part", reward_accuracy.PARTS)
def test_every_labelled_case_is_explained_as_it_is_judged(part, match):
    for case in reward_accuracy.load(part):
        check(reward_accuracy.item(case), match)


ANY = st.text(st.characters(exclude_categories=()), max_size=40)
PIECES = ["\\boxed{", "\\boxed", "{", "}", "\\frac", "5", ",", "(", ")", "[", "\\{", "\\}", "and", "A", ". ", "Paris"]
PIECES += ["<think>", "</think>", "^", "\\sqrt", "\x00", "\ud800", "%", "cm", "=", "x", "\\pm", "\\cup", "!", "$", " "]
TEXT = st.one_of(ANY, st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
GOLDS = st.lists(TEXT, max_size=3)
KIND, MATCH = st.sampled_from(["mcq", "open", "math"]), st.sampled_from(["equivalent", "exact"])


@settings(max_examples=150, deadline=None)
@given(KIND, TEXT, GOLDS, st.booleans(), MATCH, st.sampled_from([None, "stop", "length", "\ud800"]), st.booleans())
def test_any_text_is_explained(kind, text, golds, options, match, finish, prefilled):
    listed = {"A": text, "B": golds[0] if golds else "x", "Ab": "y"} if options else None
    more = {"options": listed, "finish_reason": finish, "think_prefilled": prefilled}
    check(item(kind, text, golds, **more), match)
    check(item(kind, gold=golds, response=text, **more), match)


@settings(deadline=None)
@given(TEXT, st.booleans())
def test_format_faults_are_those_of_the_format_bit(text, prefilled):
    found = []
    while fault := format_fault(text, prefilled, found):
        assert fault not in found
        found.append(fault)
    assert check_format(text, prefilled) == (not found)
    assert found == [fault for fault in FAULTS if fault in found]


@settings(deadline=None)
@given(TEXT, TEXT)
def test_listening_to_a_comparison_changes_nothing(gold, answer):
    heard = []
    result = math.compare(gold, answer, told=lambda *what: heard.append(what))
    assert result is math.compare(gold, answer)
    assert all(rule in math.RULES for rule, *_ in heard)
    assert all((said is None) == (rule == math.WORKER) for rule, _, _, said in heard)


@settings(deadline=None)
@given(TEXT, TEXT, TEXT)
def test_a_reading_says_what_it_names(answer, one, other):
    options = (("A", one), ("B", other))
    labels, how, _ = mcq.read(answer, options)
    assert labels == mcq.labels(answer, options)
    assert (labels is None) == (how in (mcq.OTHER_TEXT, mcq.SHARED_TEXT, mcq.NO_LABEL, mcq.NOTHING, mcq.TOO_LONG))


WHY = [
    (item(finish_reason="length"), "finish", "kept", ["after a complete box"]),
    (item(response="<think>on", finish_reason="length"), "finish", "broken", ["before a box was complete"]),
    (item(response=r"\boxed{5}"), "format", "broken", ["0 × <think>", "exactly 1"]),
    (item(response=r"<think>\boxed{5}"), "format", "broken", ["0 × </think>"]),
    (item(response=r"So <think>a</think>\boxed{5}"), "format", "broken", ["text before <think>", "So"]),
    (item(response=THINK + "5"), "format", "broken", ["No complete box", "</think>"]),
    (item(response=THINK + r"\boxed{5}", think_prefilled=True), "format", "broken", ["1 × <think>, 0", "prefilled"]),
    (item(response=THINK + r"\boxed{4}\boxed{5}"), "box", "kept", ["last of 2 boxes", "“5”", "character 33"]),
    (item(response=r"<think>\boxed{5}</think>5"), "box", "note", ["1 box before it", "not count"]),
    (item(response=THINK + r"\boxed{4} \boxed{5"), "box", "broken", ["never closed", "earlier box never"]),
    (item(response=THINK + r"\boxed{ }"), "box", "broken", ["empty"]),
    (item(response=THINK + r"\boxed 5"), "box", "broken", ["without braces", "fbox"]),
    (item(gold=[]), "gold", "bad", ["none"]),
    (item(gold=["5", " "]), "gold", "bad", ["empty"]),
    (item(gold=r"\frac{1"), "gold", "bad", ["brackets do not match"]),
    (item(gold="10^{10^{10}}"), "gold", "bad", ["an exponent above 10000"]),
    (item(gold="4,"), "gold", "bad", ["a part of it is empty"]),
    (item(gold=r"\frac{5}{0}"), "gold", "bad", ["could not parse"]),
    (item(gold="[1, 2)"), "gold", "good", ["interval [ ) of 2 entries"]),
    (item("mcq", "C", "Z", options=CITIES), "gold", "bad", ["“Z” is neither a label", "“A”, “B”, “C”, “D”"]),
    (item("mcq", "C", "C. London", options=CITIES), "gold", "bad", ["label “C” with the text of option “A”"]),
    (item("open", "x", " . "), "gold", "bad", ["nothing is left"]),
    (item("mcq", "(C)", "C", options=CITIES), "answer", "equal", ["label alone", "“C”"]),
    (item("mcq", "C. paris", "C", options=CITIES), "answer", "equal", ["its own option's text"]),
    (item("mcq", "paris", "C", options=CITIES), "answer", "equal", ["full text of option “C”"]),
    (item("mcq", "A. Paris", "C", options=CITIES), "answer", "different", ["label “A” with the text of option “C”"]),
    (item("mcq", "Rome", "C", options=CITIES), "answer", "different", ["2 options", "“B”, “D”"]),
    (item("mcq", "c", "C", options=CITIES), "answer", "different", ["case matters"]),
    (item("mcq", "x" * 5000, "C", options=CITIES), "answer", "different", ["longer than any option", "5,000"]),
    (item("mcq", "Paris", "C"), "answer", "different", ["without options"]),
    (item("mcq", "A,C", "C", options=CITIES), "answer", "different", ["2 labels", "Wanted: “C”"]),
    (item("open", "The cell", "cell"), "answer", "different", ["first difference is character 1", "“the cell”"]),
    (item("open", "cells", "cell"), "answer", "different", ["ends after character 4", "goes on with “s”"]),
    (item("open", "Paris!", "paris"), "answer", "equal", ["same"]),
    (item("open", ".", "paris"), "answer", "different", ["Nothing is left"]),
    (item(answer="27.0", gold="27"), "answer", "equal", ["“27.0” = “27”", "exact fractions"]),
    (item(answer="a", gold="A"), "answer", "different", ["case included"]),
    (item(answer="silent", gold="listen"), "answer", "different", ["words"]),
    (item(answer="1+1", gold="2"), "answer", "different", ["sum or product left to do"]),
    (item(answer="5 m", gold="5 cm"), "answer", "different", ["units", "cm"]),
    (item(answer="5 million", gold="5"), "answer", "different", ["“5000000” ≠ “5”", "exact fractions"]),
    (item(answer=r"60\text{ per cent}", gold="60"), "answer", "different", ["“60” %", "per cent must stand on both"]),
    (item(answer="(x,y)=(1,2).", gold="(1,2)"), "answer", "note", ["“(x,y)” given as tuple", "read as “(x,y)=(1,2)”"]),
    (item(answer="(1,2)", gold=r"\{1,2\}"), "answer", "different", ["structures", "tuple", "unordered set"]),
    (item(answer="1", gold="1,2"), "answer", "different", ["as many entries"]),
    (item(answer="5^5^5^5^5", gold="3"), "answer", "different", ["refused", "exponents nested deeper than 2"]),
    (item(answer=r"\frac{4", response=THINK + r"\boxed{(4}"), "answer", "different", ["brackets do not match"]),
    (item(answer=r"\frac{2}{\sqrt2}", gold=r"\sqrt2"), "answer", "equal", ["worker", "equal"]),
    (item(answer="x+" * 400 + "x", gold="5"), "answer", "note", ["a worker takes it apart"]),
    (item(answer=r"(\ln 4, e)", gold=r"(2\ln 2, e^2)"), "answer", "equal", ["Asked again", r"“\ln 4”"]),
    (item(answer=r"\pi/2", gold=r"\frac{2\pi}{4}"), "answer", "equal", ["sums of terms"]),
    (item(gold=["4", "5"]), "answer", "different", ["“5” ≠ “4”"]),
    (item(gold=["4", "5"]), "answer", "equal", ["“5” = “5”"]),
    (item(response="no"), "answer", "note", ["no answer to compare"]),
    (item(gold=""), "answer", "note", ["invalid"]),
    (item(), "shaping", "note", ["None"]),
]


@pytest.mark.parametrize(("one", "stage", "result", "parts"), WHY, ids=range(len(WHY)))
def test_the_reason_is_given(one, stage, result, parts):
    steps = [step for step in check(one)["steps"] if step["step"] == stage and step["result"] == result]
    said = " ".join(step["why"] for step in steps)
    assert steps and all(part in said for part in parts), (said, parts)


@pytest.mark.parametrize(
    ("answer", "gold", "part"),
    [
        ("abc", "abx", "character 3: “x” is wanted, “c” stands there"),
        ("ab", "abx", "ends after character 2; “x” is still wanted"),
        ("abx", "ab", "goes on with “x”"),
        ("5", " 5 ", "character for character"),
    ],
)
def test_exact_names_the_place(answer, gold, part):
    assert any(part in step["why"] for step in check(item("open", answer, gold), "exact")["steps"])


@settings(deadline=None)
@given(TEXT, TEXT)
def test_the_first_difference_is_one(wanted, given_):
    if wanted != given_:
        said = difference(wanted, given_)
        same = int(re.search(r"character (\d+)", said)[1]) - ("first difference" in said)
        assert wanted[:same] == given_[:same] and wanted[same : same + 1] != given_[same : same + 1]


@pytest.mark.parametrize(
    ("slow", "result", "part"),
    [
        (Failing("timeout"), "timeout", "CPU time"),
        (Failing("error"), "error", "worker failed"),
        (Failing(None, "error"), "error", "failed at the ground truth"),
        (Broken(), "error", r"a bug\x00\x07"),
    ],
)
def test_failures_are_told_apart(slow, result, part):
    found = explained(item(gold=r"\ln 2", answer=r"\ln 3"), slow=slow)
    assert found["verdict"]["status"] == found["steps"][-1]["result"] == result
    assert any(part in step["why"] and step["result"] == result for step in found["steps"])


def test_shaping_is_told_term_by_term():
    shapes = ShapingConfig(0.1, 0.5, length_free=100, length_limit=200, source_weights={"s": 0.5})
    one = item(answer="6", source="s", response_tokens=150)
    found = explained(one, shapes=shapes)
    assert (
        found["verdict"]["reward"]
        == shaping.shape(run_async(judge(one, "equivalent", InProcess())), one, shapes).reward
    )
    whys = [step["why"] for step in found["steps"] if step["step"] == "shaping"]
    assert [why.split()[0] for why in whys] == ["+0.1", "-0.25", "-0.15"] and "becomes -0.075" in whys[2]
    assert "reward -0.075" in found["steps"][-1]["why"] and found["rules_hash"] == rules_hash("equivalent", shapes)
    invalid = explained(item(gold="", source="s", response_tokens=1), shapes=shapes)
    assert invalid["verdict"]["reward"] is None and "no reward to shape" in str(invalid["steps"])


def test_long_texts_are_shortened_and_their_length_given():
    assert visible("a" * 1000) == "a" * 160 + " […1,000 characters…] " + "a" * 80
    assert visible("a\x00\ud800\n\u202e") == r"a\x00\ud800\n\u202e"
    assert len(visible("\ud800" * 10_000)) < 2 * SHOWN
    found = check(item("open", "y" * 3_000_000, "x" * 1_000_000, response="<think>" + "z" * 3_000_000 + THINK))
    assert len(json.dumps(found["steps"])) < 20_000


@pytest.mark.parametrize("one", [item(gold=["4"] * 500), item(answer=",".join("12" * 60), gold=",".join("21" * 60))])
def test_many_ground_truths_and_entries_are_cut_short(one):
    found = check(one)
    assert len(found["steps"]) < 60


def test_a_large_set_is_told_in_a_few_steps():
    numbers = [str(n) for n in range(60)]
    one = item(answer=rf"\{{{','.join(numbers)}\}}", gold=rf"\{{{','.join(reversed(numbers))}\}}")
    found = check(one)
    assert found["verdict"]["status"] == "correct"
    assert len(found["steps"]) < 40 and any("more, not shown" in step["why"] for step in found["steps"])


def test_every_status_has_a_meaning_and_every_rule_a_place_in_the_docs():
    assert set(MEANINGS) == set(STATUSES)
    page = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
    places = set(re.findall(r'<a id="([^"]+)">', page))
    places |= {title.strip().lower().replace(" ", "-") for title in re.findall(r"^#+ (.*)$", page, re.MULTILINE)}
    for rule, source in RULES.values():
        assert rule.endswith(".") and source.rpartition("docs/rewards.md#")[2] in places, source


def test_local_judge_explains_with_real_workers():
    shapes = ShapingConfig(length_penalty=0.5, length_limit=10)
    with LocalJudge(workers=1) as local, LocalJudge(shaping=shapes, workers=1) as shaped:
        found = local.explain(item(answer=r"\sqrt{25}"))
        assert found["verdict"]["status"] == "correct" and "worker" in str(found["steps"])
        assert without_time(found["verdict"]) == without_time(local.score([item(answer=r"\sqrt{25}")])[0].to_json())
        with pytest.raises(Refused, match="response_tokens: is missing"):
            shaped.explain(item())
        with pytest.raises(Refused, match="max_response_chars"):
            local.explain(item(response="x" * (ServeRewardConfig.max_response_chars + 1)))


# `crossthink serve-reward --explain`

MCQ = ["kind=mcq", r"response=<think>a</think> \boxed{A. Paris}", "ground_truth=C", 'options={"A":"Rome","C":"Paris"}']


def command(capsys, *words):
    code = main(["serve-reward", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_words_of_the_command_line(capsys):
    code, out, err = command(capsys, "--explain", *MCQ)
    assert (code, err) == (0, "") and out.startswith("wrong: reward 0 (accuracy 0, format 1), answer A. Paris\n")
    assert "label “A” with the text of option “C”" in out and "\x1b" not in out


def test_a_file_and_stdin(capsys, tmp_path, monkeypatch):
    obj = {"kind": "math", "response": THINK + r"\boxed{5}", "ground_truth": ["4", "5"]}
    path = tmp_path / "item.json"
    path.write_text(json.dumps(obj))
    code, out, _ = command(capsys, "--explain", str(path), "match=exact")
    assert code == 0 and out.startswith("correct: reward 1") and "match exact" in out
    for words in (["--explain"], ["--explain", "-"], ["match=equivalent", "--explain"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
        code, out, _ = command(capsys, *words)
        assert code == 0 and out.startswith("correct: reward 1")


def test_several_ground_truths_flags_and_shaping(capsys):
    words = ["kind=open", r"response=a</think>\boxed{x=y}", "ground_truth=b", "ground_truth=x=y"]
    code, out, _ = command(capsys, "--explain", *words, "think_prefilled=true", "finish_reason=length")
    assert code == 0 and out.startswith("correct") and "ground truth 2" in out
    more = ["shaping.length_penalty=0.5", "shaping.length_limit=10", "response_tokens=5"]
    code, out, _ = command(capsys, "--explain", *words, *more)
    assert code == 0 and out.startswith("bad_format: reward -0.25")


def test_a_question_for_a_worker(capsys):
    words = ["kind=math", r"response=<think>a</think>\boxed{\sqrt{25}}", "ground_truth=5"]
    code, out, _ = command(capsys, "--explain", *words)
    assert code == 0 and out.startswith("correct: reward 1") and "worker" in out


@pytest.mark.parametrize(
    ("words", "stdin", "parts"),
    [
        (["--explain"], b'{"kind":', ["stdin is not JSON", "char 8"]),
        (["--explain"], b"\xff", ["stdin is not JSON"]),
        (["--explain"], b"[" * 100_000, ["stdin is not JSON"]),
        (["--explain"], b"[]", ["stdin", "expected a JSON object"]),
        (["--explain"], b'{"kind": "math", "kindd": 1}', ["stdin", "kindd", "unknown field"]),
        (["--explain", "/no/such/file"], b"", ["/no/such/file", "No such file"]),
        (["--explain", "file.json", *MCQ], b"", ["not both"]),
        (["--explain", "kind=x", *MCQ[1:]], b"", ["kind", "mcq, open, math"]),
        (["--explain", *MCQ[:2]], b"", ["ground_truth: is missing"]),
        (["--explain", *MCQ, "kind=mcq"], b"", ["kind= is given twice"]),
        (["--explain", *MCQ[:3], "options=A"], b"", ["options", "JSON object"]),
        (["--explain", *MCQ, "think_prefilled=yes"], b"", ["think_prefilled", "true or false"]),
        (["--explain", *MCQ, "response_tokens=-1"], b"", ["response_tokens: -1"]),
        (["--explain", *MCQ, "match=fuzzy"], b"", ["match=fuzzy", "equivalent, exact"]),
        (["--explain", *MCQ, "macth=exact"], b"", ["macth", "match"]),
        (["--explain", *MCQ, "shaping.length_penalty=0.5", "shaping.length_limit=9"], b"", ["response_tokens"]),
    ],
    ids=range(16),
)
def test_bad_input_of_the_command_is_named(capsys, monkeypatch, words, stdin, parts):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    code, out, err = command(capsys, *words)
    assert (code, out) == (2, "") and all(part in err for part in parts), err


def test_help_shows_the_flag_and_no_key_is_a_field(capsys):
    code, out, _ = command(capsys, "--help")
    assert code == 0 and "--explain FILE" in out and "ground_truth=" in out
    assert not set(Item.__dataclass_fields__) & set(keys(ServeRewardConfig))
