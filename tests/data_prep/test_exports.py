"""Exports as their trainers load them: all four read local files through `datasets.load_dataset`."""

import json
from dataclasses import replace

import datasets
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossthink.errors import ConfigError, UserError
from data_prep.exports import (
    EXPORTS,
    TRL_SCHEMA,
    VERL_SCHEMA,
    reward_item,
    to_nemo_rl,
    to_openrlhf,
    to_trl,
    to_verl,
    write_exports,
)
from data_prep.rows import PoolRow
from reward_server.verdicts import Item

SYSTEM = {"role": "system", "content": "Think, then answer in \\boxed{}.\n"}


def row(number, kind="mcq", **changes):
    """A pool row; only a multiple-choice one has options."""
    question = f"Question {number}?\nSecond line \u2028 {{}} é"
    options = {"A": "salt, 1\n2", "B": 'say "x"'} if kind == "mcq" else None
    made = PoolRow(
        id=f"{number:032x}",
        source={"mcq": "mmlu_train", "open": "natural_reasoning", "math": "math"}[kind],
        domain="math" if kind == "math" else "gpr",
        kind=kind,
        question=question,
        options=options,
        ground_truth=['B. say "x"'] if kind == "mcq" else [r"\frac{1}{2}", "0.5"],
        prompt=[SYSTEM, {"role": "user", "content": question + "\nAnswer."}],
    )
    return replace(made, **changes)


class FakePool:
    """What an export asks of a pool."""

    def __init__(self, rows):
        self._rows = rows

    def __len__(self):
        return len(self._rows)

    def rows(self):
        return iter(self._rows)


# No options in the first ten thousand rows: a loader that guesses types from a file's beginning must not be misled.
ROWS = [row(i, "math") for i in range(10_000)] + [row(i, "mcq") for i in range(10_000, 10_005)] + [row(10_005, "open")]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool") / "exports"
    return folder, write_exports(FakePool(ROWS), list(EXPORTS), folder)


def load(exported, name, tmp_path):
    """As the trainers do: by the file's suffix, split train."""
    file = next(file for file in sorted((exported[0] / name).iterdir()) if file.name.startswith("train."))
    kind = {".parquet": "parquet", ".jsonl": "json"}[file.suffix]
    return datasets.load_dataset(kind, data_files=str(file), cache_dir=str(tmp_path))["train"]


def messages(value):
    return [{"role": message["role"], "content": message["content"]} for message in value]


def test_verl(exported, tmp_path):
    loaded = load(exported, "verl", tmp_path)
    assert loaded.column_names == ["data_source", "prompt", "ability", "reward_model", "extra_info"]
    assert len(loaded) == len(ROWS)
    for index in (0, 10_000, 10_005):
        found, made = loaded[index], ROWS[index]
        assert found["data_source"] == f"crossthink/{made.source}"
        assert messages(found["prompt"]) == made.prompt
        assert found["ability"] == made.domain
        assert found["reward_model"] == {"style": "rule", "ground_truth": reward_item(made)}
        assert found["extra_info"] == {
            "split": "train",
            "index": index,
            "id": made.id,
            "kind": made.kind,
            "question": made.question,
        }
    assert pq.read_schema(exported[0] / "verl" / "train.parquet") == VERL_SCHEMA


def test_trl(exported, tmp_path):
    loaded = load(exported, "trl", tmp_path)
    assert pq.read_schema(exported[0] / "trl" / "train.parquet") == TRL_SCHEMA
    # Names that GRPOTrainer passes itself; a column of that name would be lost or refused.
    assert not {"completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments"} & set(
        loaded.column_names
    )
    math, mcq = loaded[0], loaded[10_000]
    assert messages(mcq["prompt"]) == ROWS[10_000].prompt
    assert (math["options"], math["ground_truth"], math["kind"]) == (None, ROWS[0].ground_truth, "math")
    assert {option["label"]: option["text"] for option in mcq["options"]} == ROWS[10_000].options


def test_nemo_rl(exported, tmp_path):
    loaded = load(exported, "nemo_rl", tmp_path)
    # A column `messages` or `task_name` would change what ResponseDataset does with a row.
    assert loaded.column_names == ["input", "output", "id", "source"]
    assert len(loaded) == len(ROWS)
    for index in (0, 10_000, 10_005):
        assert loaded[index]["input"] == ROWS[index].prompt[-1]["content"]
        assert loaded[index]["output"] == reward_item(ROWS[index])
    assert (exported[0] / "nemo_rl" / "system.txt").read_text(encoding="utf-8") == SYSTEM["content"]


def test_openrlhf(exported, tmp_path):
    loaded = load(exported, "openrlhf", tmp_path)
    assert len(loaded) == len(ROWS)
    for index in (0, 10_000, 10_005):
        assert messages(loaded[index]["input"]) == ROWS[index].prompt
        assert loaded[index]["label"] == reward_item(ROWS[index])
        assert loaded[index]["datasource"] == ROWS[index].source


def test_trls_own_functions_take_the_rows(exported, tmp_path):
    trl = pytest.importorskip("trl.data_utils", reason="trl is not installed; pip install --no-deps trl")
    example = load(exported, "trl", tmp_path)[0]
    assert trl.is_conversational(example)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


@settings(deadline=None, max_examples=50)
@given(
    kind=st.sampled_from(["mcq", "open", "math"]),
    question=TEXT,
    gold=st.lists(TEXT, min_size=1, max_size=3),
    texts=st.lists(TEXT, min_size=2, max_size=10),
)
def test_every_export_gives_back_question_gold_and_options(tmp_path_factory, kind, question, gold, texts):
    options = dict(zip("ABCDEFGHIJ", texts, strict=False)) if kind == "mcq" else None
    prompt = [SYSTEM, {"role": "user", "content": question}]
    made = row(1, kind, question=question, ground_truth=gold, options=options, prompt=prompt)
    folder = tmp_path_factory.mktemp("exports")
    write_exports(FakePool([made]), list(EXPORTS), folder)
    (verl,) = pq.read_table(folder / "verl" / "train.parquet").to_pylist()
    (trl,) = pq.read_table(folder / "trl" / "train.parquet").to_pylist()
    nemo_rl, openrlhf = (
        json.loads((folder / name / "train.jsonl").read_bytes().removesuffix(b"\n")) for name in ("nemo_rl", "openrlhf")
    )
    assert verl["prompt"] == trl["prompt"] == openrlhf["input"] == prompt
    assert nemo_rl["input"] == verl["extra_info"]["question"] == question
    assert trl["ground_truth"] == gold
    assert (trl["options"] and {o["label"]: o["text"] for o in trl["options"]}) == options
    for item in (verl["reward_model"]["ground_truth"], nemo_rl["output"], openrlhf["label"]):
        # The reward server takes it as it is.
        judged = Item.from_json({"id": made.id, "response": "", **json.loads(item)})
        assert (judged.kind, judged.ground_truth) == (kind, tuple(gold))
        assert (judged.options and dict(judged.options)) == options


def test_the_facts_say_what_was_written_and_the_bytes_repeat(exported, tmp_path):
    folder, facts = exported
    assert list(facts) == ["verl", "nemo_rl", "trl", "openrlhf"]
    assert {name: list(fact["files"]) for name, fact in facts.items()} == {
        "verl": ["train.parquet"],
        "nemo_rl": ["system.txt", "train.jsonl"],
        "trl": ["train.parquet"],
        "openrlhf": ["train.jsonl"],
    }
    assert all(fact["rows"] == len(ROWS) and fact["version"] == 1 for fact in facts.values())
    assert facts["trl"]["files"]["train.parquet"]["bytes"] == (folder / "trl" / "train.parquet").stat().st_size
    assert write_exports(FakePool(ROWS), ["trl", "openrlhf", "trl"], tmp_path) == {
        name: facts[name] for name in ("trl", "openrlhf")
    }


def test_an_unknown_name_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match=r"no shape 'nemo-rl'. Allowed: verl, nemo_rl, trl, .*Did you mean 'nemo_rl'"):
        write_exports(FakePool(ROWS), ["trl", "nemo-rl"], tmp_path / "exports")
    assert not (tmp_path / "exports").exists()


def test_what_nemo_rl_cannot_hold_is_an_error_and_leaves_no_file(tmp_path):
    with pytest.raises(UserError, match="row .*02 of math has another system message"):
        write_exports(
            FakePool([row(1, "math"), row(2, "math", prompt=row(2).prompt[1:])]), ["trl", "nemo_rl"], tmp_path
        )
    turns = [*row(1).prompt, {"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    with pytest.raises(UserError, match="has the roles system, user, assistant, user"):
        write_exports(FakePool([row(1, prompt=turns)]), ["nemo_rl", "openrlhf"], tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_pool_without_system_message_has_no_system_file(tmp_path):
    facts = write_exports(FakePool([row(1, prompt=row(1).prompt[1:])]), ["nemo_rl"], tmp_path)
    assert list(facts["nemo_rl"]["files"]) == ["train.jsonl"]


def test_shapes_are_pure_functions_of_row_index_and_split():
    made = row(7)
    assert to_verl(made, 3, "test")["extra_info"] == {
        "split": "test",
        "index": 3,
        "id": made.id,
        "kind": "mcq",
        "question": made.question,
    }
    for shape in (to_verl, to_nemo_rl, to_trl, to_openrlhf):
        assert shape(made, 0) == shape(made, 0)
    assert made == row(7)
