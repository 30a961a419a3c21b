import dataclasses
import hashlib
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from one_of_each_kind import MATH, MCQ, OPEN

import data_prep.demo
from crossthink.errors import ConfigError
from data_prep import templates
from data_prep.rows import Drop, PoolRow, Question, normalise, row_id, to_record_batch
from data_prep.templates import Prompts, load_prompts

LISTED = "A. six\nB. ten\nC. eight legs"

DEMO = Path(data_prep.demo.__file__).parent / "prompts"


@pytest.fixture
def folder(tmp_path):
    """A copy of the built-in prompt files."""
    for file in templates.PROMPTS_FOLDER.glob("*.txt"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_built_in_prompts_ask_for_the_output_contract():
    prompts = load_prompts()
    assert "<think>" in prompts.system and "</think>" in prompts.system and r"\boxed{" in prompts.system
    for name in ("mcq_short", "mcq_long", "open", "math"):
        assert r"\boxed{}" in getattr(prompts, name)
    assert "letter" in prompts.mcq_short and "text" not in prompts.mcq_short
    assert "letter" in prompts.mcq_long and "text" in prompts.mcq_long


def test_user_messages_of_the_built_in_prompts():
    prompts = load_prompts()
    short, long = (prompts.user_message(MCQ, template) for template in ("short", "long"))
    assert short.startswith(f"{MCQ.question}\n\n{LISTED}\n\n") and long.startswith(f"{MCQ.question}\n\n{LISTED}\n\n")
    assert short != long
    assert (
        prompts.user_message(OPEN, "long")
        == prompts.user_message(OPEN, "short")
        == prompts.open.replace("{question}", "Why?")
    )
    assert prompts.user_message(MATH, "long") == prompts.math.replace("{question}", "1+1?")
    # What the long template asks to copy is what the answer is compared with.
    assert templates.ground_truth(MCQ, "long")[0] in long.split("\n")


def test_demo_prompts_are_the_question_and_nothing_else():
    prompts = load_prompts(DEMO)
    assert prompts.system == ""
    for template in ("short", "long"):
        assert prompts.user_message(MCQ, template) == f"{MCQ.question}\n{LISTED}"
        assert prompts.user_message(OPEN, template) == "Why?"
        assert prompts.user_message(MATH, template) == "1+1?"
        assert templates.render(MCQ, prompts, template).prompt == [
            {"role": "user", "content": f"{MCQ.question}\n{LISTED}"}
        ]


@given(st.text(), st.text(), st.text())
def test_placeholders_are_filled_in_one_pass(before, question, option):
    text = before.replace("{", "").replace("}", "")
    prompts = Prompts("", "", text + r"\boxed{} {options} {question}", "{question}{question}", "")
    asked = dataclasses.replace(MCQ, question=question, options=(("A", option),))
    assert prompts.user_message(asked, "long") == rf"{text}\boxed{{}} A. {option} {question}"
    assert prompts.user_message(dataclasses.replace(asked, kind="open"), "long") == question * 2


def test_a_question_that_holds_placeholders_stays_as_it_is():
    asked = dataclasses.replace(MCQ, question="Fill {options} and {question}.", options=(("A", "{question}"),))
    message = load_prompts(DEMO).user_message(asked, "long")
    assert message == "Fill {options} and {question}.\nA. {question}"


def test_own_prompts(folder):
    (folder / "open.txt").write_bytes(b"\xef\xbb\xbfQ: {question}\r\nUse \\frac{a}{b} in \\boxed{answer}.\n\n")
    (folder / "system.txt").write_text("\n")
    prompts = load_prompts(str(folder))
    assert prompts.system == ""
    assert prompts.user_message(OPEN, "long") == "Q: Why?\nUse \\frac{a}{b} in \\boxed{answer}."
    assert prompts.math == load_prompts().math
    assert pickle.loads(pickle.dumps(prompts)) == prompts


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("math.txt", None, r"math\.txt is missing.*system\.txt, mcq_short\.txt"),
        ("open.txt", "Answer.", r"open\.txt lacks the placeholder \{question\}"),
        ("mcq_long.txt", "{question}", r"mcq_long\.txt lacks the placeholder \{options\}"),
        ("open.txt", "{question} {options}", r"open\.txt holds \{options\}, .*Allowed: \{question\}"),
        ("mcq_short.txt", "{question} {options} {hint}", r"mcq_short\.txt holds \{hint\}"),
        ("system.txt", "Solve {question}.", r"system\.txt holds \{question\}, .*Allowed: none"),
        ("open.txt", b"\xff{question}", r"open\.txt cannot be read as UTF-8"),
    ],
)
def test_prompt_files_that_cannot_be_used(file, content, message, folder):
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message):
        load_prompts(folder)


def test_a_prompt_folder_that_does_not_exist(tmp_path):
    with pytest.raises(ConfigError, match=r"prompts\.folder=.*nowhere is not a folder"):
        load_prompts(tmp_path / "nowhere")


def test_prompts_are_described_with_their_digests(folder):
    described = load_prompts(folder).describe()
    assert list(described) == ["system", "mcq_short", "mcq_long", "open", "math"]
    for facts in described.values():
        assert facts["sha256"] == hashlib.sha256(facts["text"].encode()).hexdigest()
    (folder / "math.txt").write_text("{question}")
    changed = load_prompts(folder).describe()
    assert {name for name in described if changed[name] != described[name]} == {"math"}
    assert changed["math"]["text"] == "{question}"


def test_answer_templates():
    assert templates.ground_truth(MCQ, "short") == ["C"]
    assert templates.ground_truth(MCQ, "long") == ["C. eight legs"]
    assert templates.ground_truth(OPEN, "short") == templates.ground_truth(OPEN, "long") == ["because"]


def test_mixed_template_changes_nothing():
    for question in (MCQ, OPEN, MATH):
        assert templates.question_template(question, "mixed") is question


def test_mcq_template_keeps_questions_with_options():
    assert templates.question_template(MCQ, "mcq") is MCQ
    assert templates.question_template(OPEN, "mcq") == templates.question_template(MATH, "mcq") == Drop("no_options")


def test_open_template():
    opened = templates.question_template(MCQ, "open")
    assert (opened.kind, opened.options, opened.answers, opened.gold_label) == ("open", None, ("eight legs",), None)
    assert opened.gold_text is None and opened.question == MCQ.question and opened.meta == MCQ.meta
    for other in (OPEN, MATH):
        assert templates.question_template(other, "open") is other
    empty = dataclasses.replace(MCQ, options=(("C", ""),))
    assert templates.question_template(empty, "open").answers == ()


def test_open_template_drops_what_needs_its_options():
    stem = dataclasses.replace(MCQ, question="Which of the following ways can one file taxes?")
    gold = dataclasses.replace(MCQ, options=(("A", "x"), ("C", "All of the above")))
    assert templates.question_template(stem, "open") == Drop("stem_needs_options:of_the_following")
    assert templates.question_template(gold, "open") == Drop("gold_needs_options:names_options")
    assert templates.question_template(stem, "mcq") is stem


def test_an_unknown_question_template():
    with pytest.raises(ValueError, match="allowed: mixed, open, mcq"):
        templates.question_template(MCQ, "as_is")


def test_render():
    prompts = dataclasses.replace(load_prompts(), system="Be brief.")
    row = templates.render(MCQ, prompts, "long")
    assert row.prompt == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": prompts.user_message(MCQ, "long")},
    ]
    assert row.id == row_id(MCQ)
    assert row.ground_truth == ["C. eight legs"]
    assert row.options == {"A": "six", "B": "ten", "C": "eight legs"}
    assert row.meta == '{"licence":"MIT","subject":"","file":"x.jsonl","row":3}'
    assert (row.kind, row.domain, row.source, row.question) == ("mcq", "gpr", "mmlu_train", MCQ.question)
    silent = templates.render(MATH, dataclasses.replace(prompts, system=""), "short")
    assert [message["role"] for message in silent.prompt] == ["user"]
    assert silent.options is None and silent.ground_truth == ["2"]
    assert PoolRow.from_arrow(to_record_batch([row]).to_pylist()[0]) == PoolRow.from_json(row.to_json()) == row


def id_of(source, kind, question, options):
    return row_id(Question(source, "gpr", kind, question, options and tuple(options.items())))


def test_the_id_is_fixed_for_good():
    # Written out: pools, rollouts and reports of other releases refer to rows by it.
    assert id_of("math", "math", "1+1?", None) == "6c2e578d5ab02dfadf97983cc62cb7c4"
    assert id_of("mmlu_train", "mcq", "Q?", {"A": "x", "B": "y"}) == "d489d45d4b50d4e29adffb3ed2f0f1b8"


def test_what_the_id_depends_on():
    base = id_of("s", "mcq", "What  is\nit?", {"A": "x", "B": "y"})
    assert id_of("s", "mcq", "What is it?", {"A": "y", "B": " x"}) == base
    assert id_of("s", "mcq", "What is it\u0301?", None) == id_of("s", "mcq", "What is i\u0074\u0301?", None)
    others = [
        id_of("t", "mcq", "What is it?", {"A": "x", "B": "y"}),
        id_of("s", "open", "What is it?", {"A": "x", "B": "y"}),
        id_of("s", "mcq", "what is it?", {"A": "x", "B": "y"}),
        id_of("s", "mcq", "What is it?", {"A": "x", "B": "z"}),
        id_of("s", "mcq", "What is it?", {"A": "x y"}),
        id_of("s", "mcq", "What is it?", None),
    ]
    assert len({base, *others}) == 7
    assert normalise("e\u0301  N\n") == "\u00e9 N"
