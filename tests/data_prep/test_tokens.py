import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prep_helpers import check_sums, config, dropped

from conf.prep import PromptConfig
from crossthink.errors import ConfigError
from data_prep import prep
from data_prep.pool import Pool
from data_prep.tokens import PromptMeter, describe

tokenizers = pytest.importorskip("tokenizers", reason="counting tokens needs the package tokenizers")
pytest.importorskip("jinja2", reason="chat templates need the package jinja2")

# With what such templates use: trimmed blocks, `continue`, special tokens, the reply's opening.
CHAT = """{{ bos_token }}
{%- for message in messages %}
    {%- if message.role == 'nobody' %}
        {% continue %}
    {% endif %}
<|im_start|>{{ message['role'] }}
{{ message['content'] | trim }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% generation %}<think>{% endgeneration %}
{% endif %}"""


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A model folder with a small tokenizer of bytes, which would add a token of its own before every text."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["Which gas do plants take in? How many legs has a spider?"] * 3, trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(folder / "tokenizer.json"))
    bos = {"__type": "AddedToken", "content": "<s>", "lstrip": False, "normalized": False}
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**facts, "chat_template": CHAT}))
    return folder


@pytest.fixture(scope="session")
def theirs(model):
    transformers = pytest.importorskip("transformers", reason="the comparison needs transformers")
    return transformers.AutoTokenizer.from_pretrained(str(model))


def count_theirs(tokenizer, messages, template=None):
    found = tokenizer.apply_chat_template(
        messages, chat_template=template, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return len(found)


MESSAGES = [
    {"role": "system", "content": "Be <|im_end|> kind. \u00e9 \u8a9e \U0001f600"},
    {"role": "user", "content": "  Which gas do plants take in?\n\n"},
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.just("a <s> b<|im_start|>")


@settings(deadline=None, max_examples=40)
@given(contents=st.lists(TEXT, min_size=1, max_size=3))
def test_counts_are_those_of_transformers(model, theirs, contents):
    messages = [
        {"role": role, "content": text} for role, text in zip(("system", "user", "nobody"), contents, strict=False)
    ]
    assert PromptMeter(str(model), 10).count([messages]) == [count_theirs(theirs, messages)]


@pytest.mark.parametrize(
    "template",
    [
        "{{ bos_token }}{{ eos_token }}{{ unk_token }}x",
        "{% if tools is not none %}T{% endif %}{{ messages | tojson }}{{ tools | tojson(indent=2) }}",
        "{{ messages[0]['content'] | upper }}\n{%- generation -%}\n y {% endgeneration %}",
        "{% set system = messages[0] %}{{ system.role }}{{ strftime_now('%Y-%m-%d') }}",
    ],
)
def test_templates_may_use_what_transformers_gives_them(model, theirs, tmp_path, template):
    (tmp_path / "chat_template.jinja").write_text(template)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((model / name).read_bytes())
    messages = [{"role": "user", "content": "<b>Is 1 < 2 & 'so'?</b>"}]
    assert PromptMeter(str(tmp_path), 10).count([messages]) == [count_theirs(theirs, messages, template)]


def test_a_tokenizer_alone_measures_plain_text(model):
    meter = PromptMeter(str(model / "tokenizer.json"), 10)
    joined = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    joined.no_truncation(), joined.no_padding()
    text = "\n".join(message["content"] for message in MESSAGES)
    assert meter.count([MESSAGES, MESSAGES]) == [len(joined.encode(text, add_special_tokens=False))] * 2
    assert meter.count([]) == []


def test_several_templates_in_one_file(model, tmp_path):
    facts = json.loads((model / "tokenizer_config.json").read_text())
    several = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": CHAT}]
    (tmp_path / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**facts, "chat_template": several}))
    assert PromptMeter(str(tmp_path), 1).count([MESSAGES]) == PromptMeter(str(model), 1).count([MESSAGES])


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"tokenizer.json": None}, "holds no tokenizer.json. Give a folder with"),
        ({"tokenizer.json": b"{"}, "tokenizer.json cannot be read"),
        ({"tokenizer_config.json": b"{"}, "tokenizer_config.json is not JSON"),
        ({"tokenizer_config.json": None}, "has no chat template. Give a folder with"),
        ({"tokenizer_config.json": b'{"chat_template": [{"name": "rag"}]}'}, "has no chat template"),
        ({"chat_template.jinja": b"{% if %}"}, "its chat template cannot be compiled"),
        ({"chat_template.jinja": b"{% break %}"}, "its chat template cannot be compiled"),
        ({"chat_template.jinja": b"{{ messages[7].content.x }}"}, "its chat template fails"),
        (
            {"chat_template.jinja": b"{% if messages[0].role == 'system' %}{{ raise_exception('No!') }}{% endif %}"},
            "The chat template refuses the prompt: No!. A template without a system role needs an empty system.txt",
        ),
    ],
)
def test_damaged_tokenizers_are_refused_before_anything_is_read(model, raw_file, tmp_path, files, says):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((model / name).read_bytes())
    for name, content in files.items():
        (folder / name).unlink(missing_ok=True) if content is None else (folder / name).write_bytes(content)
    chosen = config(tmp_path / "pool", {"math": raw_file("math")}, prompts=PromptConfig(tokenizer=str(folder)))
    with pytest.raises(ConfigError, match=says):
        prep.run(chosen)
    assert not list(tmp_path.glob("*pool*"))


def test_a_pool_states_the_length_of_every_prompt_and_drops_long_ones(model, theirs, raw_file, raw_rows, tmp_path):
    rows = [row | {"question": row["question"] * n} for row in raw_rows["mmlu_train"] for n in (1, 2, 100)]
    paths = {"mmlu_train": raw_file("mmlu_train", rows), "natural_reasoning": raw_file("natural_reasoning")}
    chosen = config(tmp_path / "pool", paths, prompts=PromptConfig(tokenizer=str(model), max_tokens=600))
    prep.run(chosen)
    pool = Pool.open(chosen.out)
    check_sums(pool)
    assert pool.counts == {"mmlu_train": 4, "natural_reasoning": 2}
    assert dropped(pool, "mmlu_train") == {("prompt_length", "prompt_too_long"): 2}
    for row in pool.rows():
        assert row.prompt_tokens == count_theirs(theirs, row.prompt) <= 600
    assert pool.manifest["tokenizer"] == describe(str(model))
    assert list(pool.manifest["tokenizer"]) == ["tokenizer.json", "tokenizer_config.json"]

    # The budget itself is within the budget.
    most = max(row.prompt_tokens for row in pool.rows())
    chosen = config(tmp_path / "exact", paths, prompts=PromptConfig(tokenizer=str(model), max_tokens=most))
    prep.run(chosen)
    assert len(Pool.open(chosen.out)) == 6
