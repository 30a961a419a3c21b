"""Algorithm options that cannot work are refused before anything starts, by name and with what is allowed."""

import pytest

from conf.compose import resolve
from conf.train import TrainConfig
from crossthink.errors import ConfigError
from recipes.checks import check_algorithm
from recipes.train import check


def config(*words):
    return resolve("train", TrainConfig, ["out=x", "recipe=tiny", *words])


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["algorithm=ppo"],
        ["algorithm=ppo", "algorithm.gamma=0.99", "algorithm.value_clip=null", "critic.lr=1e-4"],
        ["algorithm.kl_in=reward", "algorithm.kl_estimator=k1"],
        ["algorithm.clip_high=0.28", "algorithm.dual_clip=3", "algorithm.importance_cap=2"],
        ["algorithm.average=constant", "algorithm.divide_by_std=false", "algorithm.dynamic_sampling=4"],
        ["rollout.servers=2", "rollout.lag=1", "algorithm.importance_cap=2", "rollout.max_mismatch=0.5"],
        ["rollout.url=[http://a:1,http://b:2]", "rollout.lag=1", "rollout.uncorrected=true", "rollout.token=s"],
        ["rollout.servers=1", "rollout.overlap_log_probs=true", "rollout.transport=files"],
        ["rollout=trtllm"],
        ["algorithm.overlong_buffer=40", "algorithm.mask_truncated=true", "optimizer.max_skipped=1"],
    ],
)
def test_what_works(words):
    check(config(*words))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["algorithm.name=dpo"], ("algorithm=dpo", "grpo, ppo")),
        (["algorithm.kl_estimator=k4"], ("algorithm.kl_estimator=k4", "k1, k2, k3")),
        (["algorithm.kl_in=both"], ("algorithm.kl_in=both", "loss, reward")),
        (["algorithm.average=mean"], ("algorithm.average=mean", "sequence, token, constant")),
        (["algorithm.kl=-1"], ("algorithm.kl=-1.0", "0.0 to 100.0")),
        (["algorithm.kl=nan"], ("algorithm.kl=nan", "0.0 to 100.0")),
        (["algorithm.clip_high=-0.1"], ("algorithm.clip_high=-0.1", "0.0 to")),
        (["algorithm.dual_clip=1.0"], ("algorithm.dual_clip=1.0", "above 1")),
        (["algorithm.importance_cap=0"], ("algorithm.importance_cap=0.0", "above 0")),
        (["algorithm.overlong_buffer=41"], ("algorithm.overlong_buffer=41", "max_response_tokens=40")),
        (["algorithm.dynamic_sampling=-1"], ("algorithm.dynamic_sampling=-1", "0 to")),
        (["algorithm=ppo", "algorithm.gae_lambda=1.5"], ("algorithm.gae_lambda=1.5", "0.0 to 1.0")),
        (["algorithm=ppo", "critic.lr=2"], ("critic.lr=2.0", "0.0 to 1.0")),
        (["optimizer.max_skipped=0"], ("optimizer.max_skipped=0", "1 to")),
        (["algorithm.gamma=0.9"], ("algorithm.gamma=0.9", "no use with algorithm=grpo", "algorithm=ppo")),
        (["algorithm=ppo", "algorithm.dynamic_sampling=2"], ("dynamic_sampling=2", "no use with algorithm=ppo")),
        (["rollout.lag=1"], ("rollout.lag=1", "rollout.servers=N")),
        (["rollout.overlap_log_probs=true"], ("rollout.overlap_log_probs=True", "rollout.url=[...]")),
        (["rollout.lag=2", "rollout.servers=1"], ("rollout.lag=2", "0, 1")),
        (["rollout.lag=1", "rollout.servers=1"], ("algorithm.importance_cap=2.0", "rollout.uncorrected=true")),
        (
            ["rollout.lag=1", "rollout.servers=1", "rollout.uncorrected=true", "algorithm.dynamic_sampling=1"],
            ("algorithm.dynamic_sampling=1", "rollout.lag=1"),
        ),
        (
            ["rollout.servers=1", "rollout.overlap_log_probs=true", "algorithm.kl=0"],
            ("overlap_log_probs=true", "algorithm.kl=0"),
        ),
        (["rollout.transport=nccl"], ("rollout.transport=nccl", "auto, collective, files")),
        (["rollout.servers=1", "rollout.url=[http://a:1]"], ("rollout.servers=1", "rollout.url=['http://a:1']")),
        (["rollout.url=[a:1]"], ("rollout.url=a:1", "http://HOST:PORT")),
        (["reward.url=[a:1]"], ("reward.url=a:1", "http://HOST:PORT")),
        (["rollout.token=x"], ("rollout.token", "the run has none", "Drop it")),
        (["rollout=trtllm", "rollout.servers=0"], ("rollout=trtllm", "rollout.servers=N")),
        (["rollout.max_mismatch=-1"], ("rollout.max_mismatch=-1.0", "0.0 to 100.0")),
        (["rollout.bucket_mb=0"], ("rollout.bucket_mb=0.0", "0.001 to")),
        (["actor.data_parallel=0"], ("actor.data_parallel=0", "at least 1")),
        (["actor.threads=0"], ("actor.threads=0", "at least 1")),
        (["actor.pipeline_parallel=5"], ("actor.pipeline_parallel=5", "4 layers of model=tiny")),
        (["actor.tensor_parallel=4"], ("actor.tensor_parallel=4", "2 key-value heads of model=tiny", "Divisors of 2")),
    ],
)
def test_what_is_refused(words, says):
    with pytest.raises(ConfigError) as caught:
        check(config(*words))
    for part in says:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["checkpoint.best=loss", "eval.every=1"], ("checkpoint.best=loss", "reward, accuracy, format")),
        (["checkpoint.best=accuracy"], ("checkpoint.best=accuracy", "needs eval.every=")),
        (["checkpoint.margin_s=-1"], ("checkpoint.margin_s=-1.0", "0.0 to")),
        (["checkpoint.keep=0"], ("checkpoint.keep=0", "at least 1")),
        (["checkpoint.every=0"], ("checkpoint.every=0", "at least 1")),
    ],
)
def test_checkpoints_that_cannot_be(words, says):
    test_what_is_refused(words, says)


def test_the_best_checkpoint_may_be_asked_for():
    check(config("checkpoint.best=accuracy", "eval.every=10", "checkpoint.asynchronous=true"))


def test_a_job_end_that_is_none(monkeypatch):
    monkeypatch.setenv("CROSSTHINK_JOB_END", "tonight")
    with pytest.raises(ConfigError, match="CROSSTHINK_JOB_END=tonight"):
        check(config())


def test_ppo_changes_the_average_only():
    """Every other default is the dataclass's."""
    ppo, plain = config("algorithm=ppo").algorithm, TrainConfig().algorithm
    changed = {key for key, value in vars(ppo).items() if value != getattr(plain, key)}
    assert changed == {"name", "average"} and ppo.average == "token"
    check_algorithm(config("algorithm=ppo"))
