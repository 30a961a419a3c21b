"""What `crossthink difficulty` refuses before anything starts."""

from __future__ import annotations

import pytest
from pool_helpers import write_pool

from conf.compose import resolve
from conf.difficulty import DifficultyConfig
from crossthink.errors import ConfigError, UserError
from data_prep.rows import PoolRow
from recipes import difficulty


def config(*words):
    return resolve("difficulty", DifficultyConfig, ["data=pool", "out=out", "checkpoint=model", *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["keep=solved"], "keep=solved is not allowed. Allowed: unsolved, range"),
        (["domains=[maths]"], "'maths' is no domain. Allowed: gpr, math.*Did you mean 'math'"),
        (["domains=[]"], "domains="),
        (["keep=range", "keep_range=[0.5,0.1]"], "keep_range="),
        (["keep_range=[0]"], "keep_range="),
        (["samples=0"], "samples=0 is too small"),
        (["samples=4", "temperature=0"], "temperature=0.* one answer 4 times"),
        (["endpoint=http://x"], "checkpoint= .* or endpoint="),
        (["checkpoint=null"], "checkpoint= .* or endpoint="),
        (["max_response_tokens=0"], "max_response_tokens=0 is too small"),
    ],
)
def test_impossible_values(words, message):
    with pytest.raises(ConfigError, match=message):
        difficulty.check(config(*words))


def test_greedy_asks_at_temperature_0_and_several_samples_do_not():
    one, four = (difficulty.eval_config(config(f"samples={count}")) for count in (1, 4))
    assert (one.runs, one.temperature) == (1, 0.0) and (four.runs, four.temperature) == (4, 1.0)
    assert one.out == "out/answers"


def test_rules():
    assert difficulty.keep_rule(config()).keeps(0.0) and not difficulty.keep_rule(config()).keeps(0.1)
    half = difficulty.keep_rule(config("keep=range", "keep_range=[0.25,0.5]"))
    assert [half.keeps(rate) for rate in (0.0, 0.25, 0.5, 0.75)] == [False, True, True, False]


@pytest.fixture
def pool(tmp_path):
    row = PoolRow("i", "sums", "math", "math", "1+1?", None, ["2"], [{"role": "user", "content": "1+1?"}])
    return write_pool(tmp_path / "pool", [row])


def test_a_pool_without_rows_of_the_domains(tmp_path, pool):
    with pytest.raises(ConfigError, match="has no row of these domains"):
        difficulty.run(config(f"data={pool.path}", f"out={tmp_path / 'out'}"))
    assert not (tmp_path / "out").exists()


def test_a_start_that_reached_nobody_may_be_repeated(tmp_path, pool):
    pytest.importorskip("openai")
    out, nobody = tmp_path / "out", "endpoint=http://127.0.0.1:9/v1"
    words = config(f"data={pool.path}", f"out={out}", "checkpoint=null", nobody, "domains=[math]")
    for _ in range(2):
        with pytest.raises(UserError, match="cannot be reached") as caught:
            difficulty.run(words)
        assert not isinstance(caught.value, ConfigError)
    (out / "answers" / "reward_server.log").touch()
    with pytest.raises(UserError, match="cannot be reached"):
        difficulty.run(words)
    (out / "answers" / "answers.jsonl").touch()
    with pytest.raises(ConfigError, match="already exists. Add resume=true"):
        difficulty.run(words)


def test_a_folder_of_something_else(tmp_path, pool):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match="holds no marks of a pool"):
        difficulty.run(config(f"data={pool.path}", f"out={tmp_path}", "resume=true"))
