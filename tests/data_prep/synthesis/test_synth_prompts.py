import hashlib
import json
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossthink.errors import ConfigError
from data_prep.synthesis import schemas
from data_prep.synthesis.prompts import PLACEHOLDERS, PROMPTS_FOLDER, Prompt, SynthPrompts, load_prompts

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def folder(tmp_path):
    """A copy of the built-in prompt files."""
    for file in PROMPTS_FOLDER.glob("*.txt"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_the_built_in_prompts_ask_for_what_is_read():
    prompts = load_prompts(None)
    assert [field.name for field in fields(SynthPrompts)] == list(PLACEHOLDERS)
    assert {file.stem for file in PROMPTS_FOLDER.glob("*")} == set(PLACEHOLDERS)
    for prompt in (prompts.solution_mcq, prompts.solution_math):
        assert r"\boxed{}" in prompt.text and r"\boxed{unanswerable}" in prompt.text
    for name in schemas.draft_mcq(4)["properties"]:
        assert f'"{name}"' in prompts.question_mcq.text
    for name in schemas.draft_math()["properties"]:
        assert f'"{name}"' in prompts.problem.text


def test_rendering_replaces_every_placeholder_once():
    prompts = load_prompts(None)
    text = prompts.question_mcq.render(
        subject="law", subtopic="torts", difficulty="hard", count=4, passage="See {subject} and {passage} and {x}."
    )
    assert "Subject: law\nTopic: torts\nDifficulty: hard\nNumber of options: 4" in text
    assert "<passage>\nSee {subject} and {passage} and {x}.\n</passage>" in text
    assert r"\boxed{}" in prompts.solution_math.render(question=r"Find $\frac{a}{b}$.")


@given(st.text(max_size=30), st.text(max_size=30))
@settings(deadline=None)
def test_what_is_put_in_stays_as_it_is(question, options):
    prompt = Prompt("solution_mcq", r"{question}|{options}|\boxed{}")
    assert prompt.render(question=question, options=options) == rf"{question}|{options}|\boxed{{}}"


@pytest.mark.parametrize("values", [{}, {"question": "x"}, {"question": "x", "options": "y", "passage": "z"}])
def test_other_values_than_the_placeholders_are_refused(values):
    with pytest.raises(ValueError, match="takes question, options"):
        load_prompts(None).solution_mcq.render(**values)


def test_the_hash_is_that_of_the_wording(folder):
    before = load_prompts(folder)
    assert before == load_prompts(None)
    assert before.problem.hash == hashlib.sha256(before.problem.text.encode()).hexdigest()[:12]
    (folder / "problem.txt").write_text(before.problem.text + "\n\n", "utf-8")  # line feeds at the end are nothing
    assert load_prompts(folder).problem.hash == before.problem.hash
    (folder / "problem.txt").write_text(before.problem.text + " Be brief.", "utf-8")
    after = load_prompts(folder)
    assert after.problem.hash != before.problem.hash and after.solution_mcq.hash == before.solution_mcq.hash
    assert len({getattr(before, name).hash for name in PLACEHOLDERS}) == len(PLACEHOLDERS)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("solution_mcq", "{question}", "lacks the placeholder {options}. Needed: {question} and {options}"),
        (
            "solution_math",
            "{question} {passage}",
            "holds {passage}, which is no placeholder there. Allowed: {question}.",
        ),
        ("solution_math", "{question} {persnoa}", "holds {persnoa}"),
        ("problem", "", "lacks the placeholder {persona}"),
    ],
)
def test_wrong_placeholders_are_named_with_their_file(folder, name, text, said):
    (folder / f"{name}.txt").write_text(text, "utf-8")
    with pytest.raises(ConfigError) as error:
        load_prompts(folder)
    assert str(folder / f"{name}.txt") in str(error.value) and said in str(error.value)


def test_missing_and_unreadable_files(folder):
    with pytest.raises(ConfigError, match="synth.prompts=nowhere is not a folder. It must hold question_mcq.txt, "):
        load_prompts("nowhere", "synth.prompts")
    (folder / "problem.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="problem.txt cannot be read as UTF-8"):
        load_prompts(folder)
    (folder / "problem.txt").unlink()
    with pytest.raises(ConfigError, match="problem.txt is missing"):
        load_prompts(folder)


def test_braces_of_latex_and_json_are_no_placeholders(folder):
    text = r'{question} as \boxed{x}, \frac{a}{b} or {"question": "..."} and {} and { question }'
    (folder / "solution_math.txt").write_text(text, "utf-8")
    assert load_prompts(folder).solution_math.render(question="Q") == text.replace("{question}", "Q")


def test_schemas_are_strict_and_need_every_field():
    jsonschema = pytest.importorskip("jsonschema")
    for schema, good in (
        (schemas.draft_mcq(2), {"question": "q", "options": ["a", "b"], "answer": "a"}),
        (schemas.draft_math(), {"question": "q"}),
    ):
        jsonschema.Draft202012Validator.check_schema(schema)
        valid = jsonschema.Draft202012Validator(json.loads(json.dumps(schema))).is_valid
        assert valid(good) and not valid(good | {"more": "x"})
        for name in good:
            assert not valid({key: value for key, value in good.items() if key != name})
            assert not valid(good | {name: 3})
    valid = jsonschema.Draft202012Validator(schemas.draft_mcq(2)).is_valid
    assert not valid({"question": "q", "options": ["a"], "answer": "a"})
    assert not valid({"question": "q", "options": ["a", "b", "c"], "answer": "a"})
