"""TRL's reward function on the rows of our export, and inside GRPOTrainer."""

import pickle

import pytest
from protocol_helpers import boxed, byte_tokenizer

from data_prep.exports import TRL_SCHEMA, to_trl
from data_prep.rows import PoolRow
from reward_server.protocols.trl import BadColumns, CrossThinkReward

OPTIONS = [{"label": "A", "text": "Rome"}, {"label": "B", "text": "Paris"}]


def columns(**changes):
    """Four rows: math, multiple choice, open, and one whose gold is empty."""
    return {
        "kind": ["math", "mcq", "open", "math"],
        "ground_truth": [["5"], ["B"], ["The Hague"], [""]],
        "options": [None, OPTIONS, None, None],
        "id": ["r0", "r1", "r2", "r3"],
        "source": ["math", "mmlu", "nd", "math"],
        "domain": ["math", "gpr", "gpr", "math"],
        **changes,
    }


COMPLETIONS = [boxed(r"\sqrt{25}"), boxed("B. Paris"), boxed("Amsterdam"), boxed("5")]
REWARDS = [1.0, 1.0, 0.0, None]


def messages(*texts):
    return [[{"role": "assistant", "content": text}] for text in texts]


@pytest.fixture(scope="module")
def reward():
    return CrossThinkReward()


@pytest.mark.parametrize("completions", [COMPLETIONS, messages(*COMPLETIONS)], ids=["strings", "messages"])
def test_rewards(reward, completions):
    assert reward(prompts=["?"] * 4, completions=completions, **columns()) == REWARDS
    assert reward.__name__ == "crossthink"


def test_as_trl_calls_it(reward):
    """With everything that it passes, and what it is given to log."""
    extra, metrics = {}, {}
    found = reward(
        prompts=[[{"role": "user", "content": "?"}]] * 4,
        completions=messages(*COMPLETIONS),
        completion_ids=[[1, 2, 3]] * 4,
        trainer_state=object(),
        environments=None,
        log_extra=extra.__setitem__,
        log_metric=metrics.__setitem__,
        **columns(),
    )
    assert found == REWARDS
    assert extra == {
        "status": ["correct", "correct", "wrong", "bad_gold"],
        "extracted": [r"\sqrt{25}", "B. Paris", "Amsterdam", "5"],
    }
    assert metrics == pytest.approx(
        {"crossthink/invalid": 0.25, "crossthink/accuracy": 2 / 3, "crossthink/format": 1.0}
    )


def test_nothing_but_invalid_items_has_no_means(reward):
    metrics = {}
    found = reward(["?"], [boxed(5)], kind=["math"], ground_truth=[[""]], log_metric=metrics.__setitem__)
    assert found == [None] and metrics == {"crossthink/invalid": 1.0}
    assert reward([], [], kind=[], ground_truth=[]) == []


@pytest.mark.parametrize(
    "options",
    [OPTIONS, {"A": "Rome", "B": "Paris"}, {"label": ["A", "B"], "text": ["Rome", "Paris"]}],
    ids=["list", "object", "two lists"],
)
def test_shapes_of_options(reward, options):
    one = {"kind": ["mcq"], "ground_truth": [["B"]], "options": [options]}
    assert reward(["?"], [boxed("Paris")], **one) == [1.0]


def test_reasoning_that_trl_took_out(reward):
    parsed = {"role": "assistant", "reasoning_content": "so", "content": r"\boxed{5}"}
    math = {"kind": ["math"], "ground_truth": ["5"]}
    assert reward(["?"], [[parsed]], **math) == [1.0]
    assert CrossThinkReward(think_prefilled=True)(["?"], [[parsed]], **math) == [1.0]
    parts = {"role": "assistant", "content": [{"type": "text", "text": boxed(5)}]}
    tool = {"role": "tool", "content": r"\boxed{6}"}
    assert reward(["?"], [[parts, tool]], **math) == [1.0]


def test_prefilled_thinking_and_what_ends_a_completion():
    math = {"kind": ["math"] * 2, "ground_truth": [["5"]] * 2}
    prefilled = CrossThinkReward(think_prefilled=True)
    assert prefilled(["?"] * 2, [r"so</think>\boxed{5}", boxed(5)], **math) == [1.0, 0.0]
    statuses = {}
    reward = CrossThinkReward(stop_ids=[0])
    reward(["?"] * 2, ["<think>"] * 2, completion_ids=[[7, 7], [7, 0]], log_extra=statuses.__setitem__, **math)
    assert statuses["status"] == ["truncated", "no_box"]


def test_over_http_and_pickled(server):
    reward = pickle.loads(pickle.dumps(CrossThinkReward(url=server)))
    assert reward(["?"] * 4, COMPLETIONS, **columns()) == REWARDS
    assert reward.__name__ == "crossthink" and reward.url == (server,)


def test_exact_match():
    math = {"kind": ["math"], "ground_truth": [["5"]]}
    assert CrossThinkReward(match="exact")(["?"], [boxed("5.0")], **math) == [0.0]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"kind": None}, ["kind", "export=[trl]"]),
        ({"ground_truth": None}, ["ground_truth"]),
        ({"kind": ["math", "essay", "open", "math"]}, ["completion 1", "r1", "essay", "mcq, open, math"]),
        ({"ground_truth": [["5"], 7, ["x"], [""]]}, ["completion 1", "ground_truth", "7"]),
        ({"options": [None, "AB", None, None]}, ["completion 1", "options", "AB"]),
    ],
    ids=range(5),
)
def test_damaged_columns_are_named(reward, changes, parts):
    with pytest.raises(BadColumns) as error:
        reward(["?"] * 4, COMPLETIONS, **columns(**changes))
    assert all(part in str(error.value) for part in parts), error.value


def test_a_damaged_completion_is_named(reward):
    for damaged in (5, [5], [{"role": "assistant", "content": 5}]):
        with pytest.raises(BadColumns, match="completion 0"):
            reward(["?"], [damaged], kind=["math"], ground_truth=[["5"]])


def test_impossible_arguments():
    with pytest.raises(ValueError, match="equivalent, exact"):
        CrossThinkReward(match="fuzzy")
    with pytest.raises(ValueError, match="match"):
        CrossThinkReward(url="http://127.0.0.1:1", match="exact")


def pool_rows():
    """The rows above as the pool has them."""
    table = columns()
    for n, kind in enumerate(table["kind"]):
        options = table["options"][n]
        yield PoolRow(
            id=f"r{n}",
            source=table["source"][n],
            domain=table["domain"][n],
            kind=kind,
            question="?",
            options=None if options is None else {one["label"]: one["text"] for one in options},
            ground_truth=table["ground_truth"][n],
            prompt=[{"role": "user", "content": f"question {n}?"}],
        )


def export(folder):
    """Our export of these rows, loaded as TRL's users load it."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [to_trl(row, n) for n, row in enumerate(pool_rows())]
    pq.write_table(pa.Table.from_pylist(rows, schema=TRL_SCHEMA), folder / "train.parquet")
    return datasets.load_dataset("parquet", data_files=str(folder / "train.parquet"), cache_dir=str(folder))["train"]


def test_our_export(reward, tmp_path):
    inputs = list(export(tmp_path))
    named = {key: [row[key] for row in inputs] for key in inputs[0] if key != "prompt"}
    assert reward([row["prompt"] for row in inputs], messages(*COMPLETIONS), **named) == REWARDS


def tiny(folder):
    """A random Qwen2 with a tokenizer of bytes."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = byte_tokenizer(folder)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return tokenizer


@pytest.mark.parametrize("scripted", [True, False], ids=["scripted completions", "its own completions"])
def test_trl_itself(tmp_path, scripted):
    """GRPOTrainer makes a step on our export; the invalid row is left out of its means."""
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    tokenizer = tiny(tmp_path / "model")
    seen = []

    class Spy(CrossThinkReward):
        def __call__(self, *args, **named):
            seen.append(super().__call__(*args, **named))
            return seen[-1]

    def rollout(prompts, trainer):
        """Right answers for the even completions, wrong ones for the odd."""
        found = {"prompt_ids": [], "completion_ids": [], "logprobs": []}
        for n, prompt in enumerate(prompts):
            index = int(prompt[0]["content"].split()[1][0])
            text = COMPLETIONS[index] if n % 2 == 0 else boxed("no")
            ids = tokenizer(text)["input_ids"] + [tokenizer.eos_token_id]
            found["prompt_ids"].append(tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"])
            found["completion_ids"].append(ids)
            found["logprobs"].append([-1.0] * len(ids))
        return found

    trainer = trl.GRPOTrainer(
        model=str(tmp_path / "model"),
        reward_funcs=Spy(stop_ids=[tokenizer.eos_token_id]),
        train_dataset=export(tmp_path),
        processing_class=tokenizer,
        args=trl.GRPOConfig(
            output_dir=str(tmp_path / "out"),
            per_device_train_batch_size=8,
            num_generations=2,
            max_completion_length=24,
            max_steps=1,
            logging_steps=1,
            report_to="none",
            use_cpu=True,
            bf16=False,
            save_strategy="no",
            disable_tqdm=True,
        ),
        **({"rollout_func": rollout} if scripted else {}),
    )
    trainer.train()
    (log,) = [one for one in trainer.state.log_history if "reward" in one]
    assert "rewards/crossthink/mean" in log
    assert log["crossthink/invalid"] == pytest.approx(0.25)
    (rewards,) = seen
    assert rewards.count(None) == 2
    if scripted:
        assert sorted(one for one in rewards if one is not None) == [0.0] * 4 + [1.0] * 2
        assert log["reward"] == pytest.approx(1 / 3) and log["crossthink/format"] == 1.0
        assert log["crossthink/accuracy"] == pytest.approx(1 / 3)
    else:
        assert log["reward"] == 0.0
