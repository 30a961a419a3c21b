"""From a command's words to its configuration: what is taken, what is refused and how it says so."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.actor import ActorConfig, OptimizerConfig
from conf.algorithm import AlgorithmConfig
from conf.blend import BlendConfig
from conf.compose import groups, keys, options, resolve
from conf.evaluate import EvalConfig
from conf.prep import PrepConfig, SourceConfig
from conf.report import DoctorConfig, ReportConfig
from conf.reward import RewardConfig, ServeRewardConfig
from conf.sweep import SweepConfig
from conf.train import (
    CheckpointConfig,
    DemoConfig,
    EvalDuringConfig,
    RolloutConfig,
    SamplingConfig,
    TrainConfig,
    WarmStartConfig,
)
from crossthink.errors import EXIT_USAGE, ConfigError

TRAIN = ["model=tiny", "out=runs/x"]
# The fewest words that each command takes.
FEWEST = {
    "demo": (DemoConfig, []),
    "prep": (PrepConfig, ["out=pool"]),
    "serve-reward": (ServeRewardConfig, []),
    "train": (TrainConfig, TRAIN),
    "eval": (EvalConfig, ["checkpoint=c", "data=d", "out=o"]),
    "report": (ReportConfig, ["run=r"]),
    "doctor": (DoctorConfig, []),
    "sweep": (SweepConfig, ["out=s"]),
}


def train(*words):
    return resolve("train", TrainConfig, [*TRAIN, *words])


def refused(command, *words):
    schema, fewest = FEWEST[command]
    with pytest.raises(ConfigError) as caught:
        resolve(command, schema, [*fewest, *words])
    assert caught.value.exit_code == EXIT_USAGE
    message = str(caught.value)
    assert "\n" not in message and "Traceback" not in message
    return message


@pytest.mark.parametrize("command", FEWEST)
def test_every_command_resolves_its_defaults(command):
    schema, fewest = FEWEST[command]
    config = resolve(command, schema, fewest)
    assert type(config) is schema
    # Every key is there and of its type: writing it down and checking it against the schema changes nothing.
    for name in keys(schema):
        value = config
        for part in name.split("."):
            value = getattr(value, part)
        assert value != "???", name


def test_a_default_stands_once_in_the_dataclass():
    config = train()
    assert config.warm_start == WarmStartConfig()
    assert config.optimizer == OptimizerConfig()
    assert config.sampling == SamplingConfig()
    assert config.reward == RewardConfig()
    assert config.checkpoint == CheckpointConfig()
    assert config.eval == EvalDuringConfig()
    assert (config.algorithm, config.actor, config.rollout) == (AlgorithmConfig(), ActorConfig(), RolloutConfig())
    plain = TrainConfig()
    for name in ("steps", "prompts_per_step", "samples_per_prompt", "max_prompt_tokens", "max_response_tokens", "seed"):
        assert getattr(config, name) == getattr(plain, name)


def test_the_papers_numbers_are_the_defaults():
    config = train()
    assert (config.steps, config.prompts_per_step, config.samples_per_prompt) == (650, 128, 8)
    assert (config.optimizer.lr, config.algorithm.kl, config.algorithm.clip) == (1e-6, 0.001, 0.2)
    assert (config.sampling.temperature, config.sampling.top_p) == (1.0, 1.0)
    assert config.max_prompt_tokens + config.max_response_tokens == 5000
    assert config.algorithm.unbiased_std and config.algorithm.advantage_epsilon == 1e-6
    assert config.blend.name == "gpr_up"


def test_values_reach_their_keys():
    config = train("optimizer.lr=3e-4", "optimizer.betas=[0.9,0.99]", "steps=7", "actor.threads=2", "data=null")
    assert (config.optimizer.lr, config.optimizer.betas, config.steps) == (3e-4, [0.9, 0.99], 7)
    assert (config.actor.threads, config.data) == (2, None)
    config = train("reward.url=[http://a:1,http://b:2/x]", "resume=true", "blend=nd", "blend.name=mine")
    assert config.reward.url == ["http://a:1", "http://b:2/x"]
    assert config.resume and config.blend.name == "mine" and config.blend.weights == {}


@pytest.mark.parametrize("words", [["recipe=tiny", "steps=3"], ["steps=3", "recipe=tiny"]])
def test_a_word_of_ones_own_beats_the_recipe(words):
    config = resolve("train", TrainConfig, ["out=x", *words])
    assert config.steps == 3
    assert config.prompts_per_step < TrainConfig().prompts_per_step and config.optimizer.lr > OptimizerConfig().lr
    assert (config.model.name, config.blend.name) == ("tiny", "pool")
    assert config.optimizer.betas == OptimizerConfig().betas


def test_the_demo_is_the_tiny_recipe():
    demo = resolve("demo", DemoConfig, [])
    tiny = resolve("train", TrainConfig, ["recipe=tiny", "out=runs/demo"])
    one, other = dataclasses.asdict(demo), dataclasses.asdict(tiny)
    del one["defaults"], other["defaults"]
    assert one == other


def test_sources_nest_under_their_names():
    words = ["out=pool", "sources=[math,syn_qa]", "sources.syn_qa.limit=3", "sources.math.path=a b"]
    config = resolve("prep", PrepConfig, words)
    assert config.sources == {"math": SourceConfig(path="a b"), "syn_qa": SourceConfig(limit=3)}
    assert resolve("prep", PrepConfig, ["out=pool", "sources=[ math , syn_qa ]"]).sources.keys() == {"math", "syn_qa"}
    assert resolve("prep", PrepConfig, ["out=pool", "sources=[]"]).sources == {}


def test_a_weight_of_any_source_can_be_given():
    """Also of one that nobody knows; the trainer checks it against the pool."""
    given = train("blend=pool", "blend.weights.math=0.5", "blend.weights.mine=2").blend.weights
    assert given == {"math": 0.5, "mine": 2.0}
    assert train("blend=only_mr", "blend.weights.math=0").blend.weights["math"] == 0.0


def test_weights_may_name_domains_and_kinds():
    blend = train("blend.by=domain", "blend.weights={gpr:1,math:3}").blend
    assert (blend.name, blend.by, blend.weights) == ("custom", "domain", {"gpr": 1.0, "math": 3.0})
    assert train("blend=mcq_up", "blend.weights.open=1.5").blend.weights == {"mcq": 2.0, "open": 1.5}


def test_scores_can_be_given():
    assert train("blend=score").blend.scores["math"] is None
    given = train("blend=score", "blend.scores.math=50.5", "blend.scores.mine=3", "blend.scores.syn_qa=null").blend
    assert (given.scores["math"], given.scores["mine"], given.scores["syn_qa"]) == (50.5, 3.0, None)
    assert given.scores["numina_math"] == 53.06


def test_weights_given_whole_stand_alone():
    blend = train("blend.weights={math:1,mine:2}").blend
    assert (blend.name, blend.provenance, blend.weights) == ("custom", "ours", {"math": 1.0, "mine": 2.0})
    assert train("recipe=tiny", "blend.weights={math:1}").blend.weights == {"math": 1.0}


@pytest.mark.parametrize(
    ("command", "word", "wanted"),
    [
        ("train", "stepz=3", "'stepz' is not a key of `crossthink train`. Did you mean 'steps'?"),
        ("train", "optimizer.lrr=1", "Did you mean 'optimizer.lr'?"),
        ("train", "modle=tiny", "Did you mean 'model'?"),
        ("train", "actor.tensor_paralel=2", "Did you mean 'actor.tensor_parallel'?"),
        ("train", "reward.max_invalid_=1", "Did you mean 'reward.max_invalid'?"),
        ("train", "sources=[math]", "'sources' is not a key"),
        ("train", "sources.math.path=x", "'sources.math.path' is not a key"),
        ("train", "defaults=[]", "'defaults' is not a key"),
        ("train", "hydra.run.dir=x", "'hydra.run.dir' is not a key"),
        ("train", "hydra/launcher=basic", "'hydra/launcher' is not a key"),
        ("train", "blend@here=nd", "is not a key"),
        ("train", "=1", "is not a key"),
        ("prep", "filters.max_answer_wrods=1", "Did you mean 'filters.max_answer_words'?"),
        ("prep", "blend.weights.math=1", "'blend.weights.math' is not a key"),
        ("prep", "pool_templates.question_template=open", "is not a key"),
        ("prep", "sources.math.path=x", "sources.math: math is not among sources=[...]. Name it there"),
        ("prep", "sources.math.pth=x", "Did you mean 'sources.math.path'?"),
        ("prep", "sources.maths.path=x", "Did you mean 'sources.math.path'?"),
        ("serve-reward", "prot=1", "Did you mean 'port'?"),
        ("eval", "optimizer.lr=1", "'optimizer.lr' is not a key of `crossthink eval`"),
        ("doctor", "port=1", "Did you mean 'ports'?"),
    ],
)
def test_unknown_keys_name_the_nearest(command, word, wanted):
    message = refused(command, word)
    assert wanted in message and f"crossthink {command} --help" in message


@pytest.mark.parametrize(
    ("command", "word", "wanted"),
    [
        ("train", "blend=gpr_upp", "Did you mean 'gpr_up'?"),
        ("train", "blend=null", "blend=null does not exist"),
        ("train", "blend=[nd,pool]", "does not exist"),
        ("train", "blend=nd,pool", "does not exist"),
        ("train", "blend=", "blend= does not exist"),
        ("train", "recipe=tny", "Did you mean 'tiny'?"),
        ("train", "recipe=null", "recipe=null does not exist"),
        ("demo", "recipe=table3_math", "does not exist. Allowed: tiny."),
        ("prep", "recipe=tiny", "does not exist"),
        ("prep", "recipe=table3_numina", "Did you mean 'table3_numina_math'?"),
        ("train", "algorithm=grop", "Did you mean 'grpo'?"),
        ("train", "actor=megatrom", "Did you mean 'megatron'?"),
        ("train", "rollout=vllm", "Allowed: local, trtllm."),
        ("eval", "rollout=trtllm", "Allowed: local."),
        ("prep", "sources=[math,sinqa]", "sources=sinqa does not exist"),
        ("prep", "sources=null", "sources=null does not exist"),
    ],
)
def test_unknown_options_list_what_is_allowed(command, word, wanted):
    group = word.partition("=")[0]
    message = refused(command, word)
    assert wanted in message and ", ".join(options(group, FEWEST[command][0])) in message


def test_a_model_is_a_known_name_or_a_folder():
    known = "qwen2_5_32b, qwen2_5_7b, tiny"
    assert f"model=nowhere is neither a known model ({known}) nor a folder" in refused("train", "model=nowhere")
    assert "model=folder is neither" in refused("train", "model=folder")
    assert "model=null is neither" in refused("train", "model=null")


@pytest.mark.parametrize("group", sorted({*groups()} - {"model", "sources", "blend"}))
def test_every_option_of_every_group_resolves(group):
    for command, (schema, fewest) in FEWEST.items():
        if group in set(keys(schema)):
            for option in options(group, schema):
                config = resolve(command, schema, [*fewest, f"{group}={option}"])
                chosen = getattr(config, group)
                assert (chosen if isinstance(chosen, str) else chosen.name) == option


def test_every_source_resolves():
    config = resolve("prep", PrepConfig, ["out=x", f"sources=[{','.join(options('sources'))}]"])
    assert sorted(config.sources) == options("sources")
    # Whole sources from the hub, but for the two of which the paper takes a sample (Table 1).
    samples = {"natural_reasoning": 100_000, "numina_math": 87_350}
    assert config.sources == {name: SourceConfig(sample=samples.get(name)) for name in options("sources")}


@pytest.mark.parametrize("name", options("blend"))
def test_blends_are_whole(name):
    blend: BlendConfig = train(f"blend={name}").blend
    assert blend.name == name and blend.provenance in ("reported", "derived", "ours")
    names = {"source": options("sources"), "domain": ["gpr", "math"], "kind": ["mcq", "open"]}[blend.by]
    assert set(blend.weights) <= set(names) and set(blend.scores) <= set(options("sources"))


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("steps=1.5", "steps"),
        ("steps=many", "steps"),
        ("steps=null", "steps"),
        ("seed=", "seed"),
        ("optimizer.lr=fast", "optimizer.lr"),
        ("actor.tensor_parallel=x", "actor.tensor_parallel"),
        ("reward.url=http://x", "reward.url is a list, which wants brackets: reward.url=[...]"),
        ("optimizer=3", "optimizer"),
        ("out=null", "out"),
        ("resume=perhaps", "resume"),
        ("seed=1,2", "seed"),
        ("steps=[1", "steps=[1 cannot be read"),
        ("blend.name=a (b)", "blend.name=a (b) cannot be read"),
    ],
)
def test_wrong_types_name_the_key(word, key):
    assert key in refused("train", word)


@pytest.mark.parametrize(
    ("command", "word", "names"),
    [
        ("train", "nodes=1", "actor, rollout, reward, gpus_per_node."),
        ("train", "optimizer=null", "lr, warmup_steps, betas"),
        ("train", "rollout.trtllm=", "tensor_parallel, max_batch_size"),
        ("eval", "request=[1]", "model, token, concurrency"),
        ("eval", "reward=off", "url, match, shaping"),
        ("sweep", "study=foo", "steps, single_steps, train_rows"),
        ("sweep", "eval=true", "data, benchmarks, words."),
    ],
)
def test_a_value_for_a_group_names_its_keys(command, word, names):
    key = word.partition("=")[0]
    wanted = f"{word} is not allowed: {key} is a group of keys. Give them one by one, {key}.NAME=...: {names}"
    assert refused(command, word).startswith(wanted)


def test_a_group_may_be_given_whole():
    config = train("nodes={actor: 2, gpus_per_node: 4}", "optimizer={lr: 0.5}")
    assert (config.nodes.actor, config.nodes.gpus_per_node, config.optimizer.lr) == (2, 4, 0.5)
    assert config.optimizer.betas == OptimizerConfig().betas


@pytest.mark.parametrize("word", ["steps", "+steps=3", "~blend", "++steps=3", "--steps", "", "-x"])
def test_words_that_are_no_assignment(word):
    assert refused("train", word).startswith(f"'{word}' is not of the form key=value.")


@pytest.mark.parametrize(
    ("command", "words", "key"),
    [
        ("train", ["out=x"], "model"),
        ("train", ["model=tiny"], "out"),
        ("prep", [], "out"),
        ("eval", ["checkpoint=x", "data=y"], "out"),
    ],
)
def test_what_is_required_is_named(command, words, key):
    with pytest.raises(ConfigError, match=rf"^{key}= is required for `crossthink {command}`"):
        resolve(command, FEWEST[command][0], words)


# All that a shell can pass, line ends left aside; half of the characters mean something to Hydra or OmegaConf.
PATHS = st.text(
    st.sampled_from("\\'${}")
    | st.sampled_from("=(){}[],:'\"\\$ #~@!%&*+-?.|/\t")
    | st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]),
    min_size=1,
    max_size=20,
).filter(lambda path: path not in ("null", "???"))
AWKWARD = [
    "a b", " a ", "a=b", "a(b", "a,b", "{a: b}", "[a]", "'", "\"", "\\", "a\\", "\\'", "\\\\'", "$", "\\$", "${b}",
    "a${oc.env:HOME}", "${", "\\${x}", "\\\\${x", "x: y", "#", "~", "1", "1e3", "true", "0x1", "1_000", "2020-01-01",
    "- a", "@a", "!x", "%", "|", ">", "*", "&", "\u2028",
]  # fmt: skip


def come_out(paths):
    """Up to seven paths through one command line."""
    names = options("sources")[: len(paths) - 1]
    words = [f"sources.{name}.path={path}" for name, path in zip(names, paths[1:], strict=True)]
    config = resolve("prep", PrepConfig, [f"out={paths[0]}", f"sources=[{','.join(names)}]", *words])
    return [config.out, *(config.sources[name].path for name in names)]


@pytest.mark.parametrize("start", range(0, len(AWKWARD), 7))
def test_awkward_paths_come_out_as_they_are(start):
    assert come_out(AWKWARD[start : start + 7]) == AWKWARD[start : start + 7]


@given(st.lists(PATHS, min_size=7, max_size=7))
@settings(deadline=None, max_examples=8)
def test_any_path_comes_out_as_it_is(paths):
    assert come_out(paths) == paths


@pytest.mark.parametrize(
    ("command", "key"),
    [
        ("train", "out"),
        ("train", "data"),
        ("train", "eval.data"),
        ("train", "reward.token"),
        ("eval", "checkpoint"),
        ("eval", "data"),
        ("eval", "out"),
        ("eval", "endpoint"),
        ("eval", "benchmarks_path"),
        ("eval", "few_shot_path"),
        ("eval", "prompts"),
        ("eval", "request.model"),
        ("eval", "request.token"),
        ("eval", "request.tokenizer"),
        ("report", "run"),
        ("report", "out"),
        ("doctor", "path"),
        ("serve-reward", "token"),
    ],
)
def test_every_key_that_is_a_path_is_literal(command, key):
    schema, fewest = FEWEST[command]
    value = resolve(command, schema, [*fewest, f"{key}=a =(b), '${{c}}'\\"])
    for part in key.split("."):
        value = getattr(value, part)
    assert value == "a =(b), '${c}'\\"


@given(st.lists(PATHS.map(lambda path: path.replace("/", "")).filter(lambda path: path.strip(".")), min_size=1))
@settings(deadline=None, max_examples=4)
def test_a_models_folder_may_have_any_name(tmp_path_factory, names):
    folder = tmp_path_factory.getbasetemp().joinpath("models", *names[:3])
    folder.mkdir(parents=True, exist_ok=True)
    config = resolve("train", TrainConfig, ["out=x", f"model={folder}"])
    assert (config.model.name, config.model.path) == ("folder", str(folder))
