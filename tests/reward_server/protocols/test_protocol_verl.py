"""verl's reward function: in this process, in threads and forks, over HTTP, and inside verl's own manager."""

import asyncio
import json
import os
import subprocess
import sys
import threading

import psutil
import pytest
from protocol_helpers import boxed, environment, label
from reward_helpers import wait_until

from crossthink.errors import ConfigError, UserError
from reward_server.client import RewardUnavailable
from reward_server.protocols import judges
from reward_server.protocols.rewards import InvalidItems
from reward_server.protocols.verl import BadRow, compute_score

SOURCE, INFO = "crossthink/math", {"split": "train", "index": 3, "id": "row-3", "kind": "math", "question": "?"}
RIGHT = {"score": 1.0, "acc": 1.0, "format": 1.0, "invalid": 0.0, "status": "correct"}


def score(answer="5", gold=("5",), **named):
    return compute_score(SOURCE, boxed(answer), label(gold=gold), INFO, **named)


def test_in_process():
    assert score() == RIGHT
    assert score(r"\sqrt{25}") == RIGHT
    assert score("6") == {**RIGHT, "score": 0.0, "acc": 0.0, "status": "wrong"}
    unformatted = compute_score(SOURCE, r"\boxed{5}", label(), INFO)
    assert unformatted == {**RIGHT, "score": 0.0, "format": 0.0, "status": "bad_format"}


def test_as_verl_calls_it():
    """By name, with more than is needed, with or without extra_info."""
    named = {"data_source": SOURCE, "solution_str": boxed(5), "ground_truth": label()}
    assert compute_score(**named, extra_info=None) == RIGHT
    assert compute_score(**named, reward_router_address=None, reward_model_tokenizer=object()) == RIGHT


def test_exact_match_and_prefilled_thinking():
    assert score("5.0")["score"] == 1.0 and score("5.0", match="exact")["score"] == 0.0
    given = (SOURCE, r"so</think>\boxed{5}")
    assert compute_score(*given, label(), think_prefilled=True)["score"] == 1.0
    assert compute_score(*given, label(think_prefilled=True))["score"] == 1.0
    assert compute_score(*given, label())["score"] == 0.0


def test_an_address_that_is_none_is_called_as_verl_calls_it():
    with pytest.raises(ConfigError, match="^url: .* no address such as"):
        score(url="127.0.0.1:8900")


def test_one_judge_for_many_threads():
    found = []
    threads = [threading.Thread(target=lambda: found.append(score(r"\sqrt{25}"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [RIGHT] * 6
    assert len(judges._STATE.judges) <= 2  # one for each match that was asked for


def test_after_a_fork():
    assert score() == RIGHT
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if score(r"\sqrt{25}") == RIGHT else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert score(r"\sqrt{25}") == RIGHT


def test_a_fork_at_the_worst_moment():
    """The parent's lock is taken when it forks, and its thread is not there to give it back."""
    assert score() == RIGHT
    with judges._STATE.lock:
        child = os.fork()
        if not child:
            code = 1
            try:
                code = 0 if score() == RIGHT else 2
            finally:
                os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def test_over_http(server):
    assert score(url=server) == RIGHT
    assert score("6", url=[server, server])["status"] == "wrong"
    found = []
    threads = [threading.Thread(target=lambda: found.append(score(url=server))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [RIGHT] * 4


def test_a_configuration_of_omegaconf(server):
    from omegaconf import OmegaConf

    assert score(**dict(OmegaConf.create({"url": [server], "token": None}))) == RIGHT


def test_a_server_that_is_not_there(monkeypatch):
    monkeypatch.setattr(judges, "DEADLINE_S", 0.5)
    monkeypatch.setattr(judges, "RewardClient", impatient)
    with pytest.raises(RewardUnavailable, match="127.0.0.1:9"):
        score(url="http://127.0.0.1:9")


def impatient(urls, **named):
    """A client that gives up soon, by whichever limits its version has."""
    import inspect

    from reward_server.client import RewardClient

    limits = {"outage_limit_s": 0.5} if "outage_limit_s" in inspect.signature(RewardClient).parameters else {}
    return RewardClient(urls, **named, **limits)


@pytest.mark.parametrize(
    ("ground_truth", "parts"),
    [
        ("72", ["JSON object", "kind", "ground_truth"]),
        ("x = 2", ["not JSON", "reward_item"]),
        (None, ["null"]),
        ('{"kind": "math"}', ["ground_truth", "missing"]),
        ({"kind": "essay", "ground_truth": "x"}, ["essay", "mcq, open, math"]),
    ],
)
def test_a_damaged_row_is_named(ground_truth, parts):
    with pytest.raises(BadRow) as error:
        compute_score(SOURCE, boxed(5), ground_truth, INFO)
    assert all(part in str(error.value) for part in ["crossthink/math", "row-3", "reward_model.ground_truth", *parts])


def test_an_invalid_item_is_no_number():
    with pytest.raises(InvalidItems) as error:
        score(gold=("",))
    assert all(part in str(error.value) for part in ("row-3", "index 3", "bad_gold", "invalid_as"))
    assert isinstance(error.value, UserError)
    stands_in = score(gold=("",), invalid_as=0.25)
    assert stands_in == {"score": 0.25, "acc": 0.25, "format": 1.0, "invalid": 1.0, "status": "bad_gold"}


@pytest.mark.parametrize(
    ("named", "part"),
    [({"match": "fuzzy"}, "equivalent, exact"), ({"url": "http://x", "match": "exact"}, "match"), ({"url": []}, "url")],
)
def test_impossible_arguments(named, part):
    with pytest.raises(ValueError, match=part):
        score(**named)


def test_the_reward_worker_leaves_nothing_behind():
    """A process that scored ends by itself, and so do its workers."""
    program = (
        "import json, psutil\n"
        "from reward_server.protocols.verl import compute_score\n"
        f"print(json.dumps(compute_score('s', {boxed(5)!r}, {label()!r})), flush=True)\n"
        "print(json.dumps([one.pid for one in psutil.Process().children(recursive=True)]), flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert json.loads(first) == RIGHT
    wait_until(lambda: not any(map(psutil.pid_exists, json.loads(second))))


def test_verl_itself():
    """Its loader, its reward manager, its batches and its validation metrics."""
    pytest.importorskip("verl", reason="verl is not installed")
    import numpy as np
    import torch
    from omegaconf import OmegaConf
    from verl import DataProto
    from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager
    from verl.trainer.ppo.metric_utils import process_validation_metrics
    from verl.trainer.ppo.reward import get_custom_reward_fn

    function = get_custom_reward_fn(
        OmegaConf.create(
            {
                "reward": {
                    "custom_reward_function": {
                        "path": "pkg://reward_server.protocols.verl",
                        "name": "compute_score",
                        "reward_kwargs": {"invalid_as": 0.0},
                    }
                }
            }
        )
    )

    class Letters:
        def decode(self, ids, skip_special_tokens):
            return "".join(chr(int(one)) for one in ids)

    def sample(response, gold):
        ids = torch.tensor([[ord(letter) for letter in response]])
        return DataProto.from_dict(
            {"responses": ids, "attention_mask": torch.ones(1, ids.shape[1] + 2, dtype=torch.long)},
            {
                "data_source": np.array([SOURCE], dtype=object),
                "reward_model": np.array([{"style": "rule", "ground_truth": label(gold=gold)}], dtype=object),
                "extra_info": np.array([dict(INFO)], dtype=object),
            },
        )

    async def run():
        manager = NaiveRewardManager(OmegaConf.create({}), Letters(), function)
        manager.loop = asyncio.get_running_loop()
        pairs = [(boxed(5), ("5",)), (boxed(6), ("5",)), (boxed(5), ("",)), (boxed(r"\sqrt{25}"), ("5",))]
        return await asyncio.gather(*(manager.run_single(sample(*pair)) for pair in pairs))

    results = asyncio.run(run())
    assert [one["reward_score"] for one in results] == [1.0, 0.0, 0.0, 1.0]
    infos = [one["reward_extra_info"] for one in results]
    columns = {key: np.array([info[key] for info in infos]) for key in infos[0]}  # as verl's agent loop makes them
    batch = DataProto.from_dict({"x": torch.zeros(4, 1)}, columns)
    batch = DataProto.concat([batch[:1], batch[1:]])
    assert batch.non_tensor_batch["status"].tolist() == ["correct", "wrong", "bad_gold", "correct"]
    lists = {key: values.tolist() for key, values in batch.non_tensor_batch.items()}
    metrics = process_validation_metrics([SOURCE] * 4, ["a", "a", "b", "b"], lists)[SOURCE]
    means = {name: values["mean@2"] for name, values in metrics.items()}
    assert means == {"score": 0.5, "acc": 0.5, "format": 1.0, "invalid": 0.25}
