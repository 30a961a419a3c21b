"""The tiny tokenizer and model: any text round-trips, and nothing downstream can tell that it is small."""

import subprocess
import sys

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_helpers import CORPUS, small_tokenizer
from transformers import Qwen2ForCausalLM

from recipes.models.tiny import PIECES, tiny_config, tiny_tokenizer

MARKUP = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")


def encode(text):
    return small_tokenizer()(text, add_special_tokens=False)["input_ids"]


def decode(ids):
    return small_tokenizer().decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


UNICODE = st.text(st.characters(codec="utf-8"), max_size=40)
MIXED = st.lists(UNICODE | st.sampled_from([*PIECES, *MARKUP, *CORPUS, " ", "\n", "\r\n", "  12 "]), max_size=8)


@given(MIXED.map("".join))
@example("\x00\x7f\x80\xa0\u2028\ufeff\U0001f600e\u0301\u202e")
@example(" , . ' n't  'm \n\n ")
@settings(deadline=None, max_examples=150)
def test_any_text_round_trips(text):
    ids = encode(text)
    assert decode(ids) == text
    assert all(0 <= token < len(small_tokenizer()) for token in ids)


@given(UNICODE.filter(lambda text: not any(mark in text for mark in MARKUP)))
@settings(deadline=None, max_examples=50)
def test_text_never_makes_markup(text):
    """Only the markup itself becomes special tokens; what a user writes around it cannot."""
    assert not set(small_tokenizer().all_special_ids) & set(encode(text))


@pytest.mark.parametrize("text", ["0", "7", "12", "2026", "x12y34", "3.14159", "-5/8"])
def test_digits_are_single_tokens(text):
    ids = encode(text)
    pieces = [decode([token]) for token in ids]
    assert [piece for piece in pieces if any(c.isdigit() for c in piece)] == [c for c in text if c.isdigit()]


@pytest.mark.parametrize("piece", [*PIECES, *MARKUP])
def test_the_markup_is_one_token_each(piece):
    (token,) = encode(piece)
    assert decode([token]) == piece
    assert encode(f"a{piece}b") == [*encode("a"), token, *encode("b")]


def test_only_the_chat_markup_is_special():
    """Special tokens are cut out before judging: think tags and boxes must not be."""
    tokenizer = small_tokenizer()
    ids = encode("<think>1</think>\\boxed{1}<|im_end|><|endoftext|>")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>1</think>\\boxed{1}"
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def chatml(messages, generation):
    """ChatML as Qwen2.5 defines it."""
    text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    return text + ("<|im_start|>assistant\n" if generation else "")


@pytest.mark.parametrize("generation", [True, False])
@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "What is 12 + 30?"}],
        [{"role": "system", "content": "Be brief.\n"}, {"role": "user", "content": " {{ x }} {% y %} "}],
        [{"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"), ("user", "<b>&</b>"))],
    ],
)
def test_the_chat_template_is_chatml(messages, generation):
    found = small_tokenizer().apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
    assert found == chatml(messages, generation)


def test_the_same_corpus_makes_the_same_tokenizer():
    again = tiny_tokenizer(iter(CORPUS))
    assert again.backend_tokenizer.to_str() == small_tokenizer().backend_tokenizer.to_str()


def test_also_in_another_process():
    """A run resumed elsewhere, or a base made twice, must have the same ids; hash seeds differ between processes."""
    script = (
        "import sys; from recipes.models.tiny import tiny_tokenizer\n"
        f"sys.stdout.write(tiny_tokenizer({CORPUS!r}).backend_tokenizer.to_str())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == small_tokenizer().backend_tokenizer.to_str()


def test_the_vocabulary_is_bounded():
    """However much text there is: bytes and merges up to a limit, then the pieces and the markup."""
    texts = [f"word{n} and {n * 7919} others {chr(97 + n % 26) * (n % 9)}" for n in range(500)]
    assert len(tiny_tokenizer(texts)) == 440 + len(PIECES) + len(MARKUP)
    assert len(small_tokenizer()) >= 256 + len(PIECES) + len(MARKUP)


def test_the_config_has_what_makes_qwen2_qwen2():
    tokenizer = small_tokenizer()
    config = tiny_config(tokenizer)
    assert config.model_type == "qwen2"
    assert config.vocab_size % 16 == 0 and config.vocab_size - 16 < len(tokenizer) <= config.vocab_size
    assert config.num_key_value_heads < config.num_attention_heads  # grouped queries
    assert (config.eos_token_id, config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    torch.manual_seed(0)
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    names = dict(model.named_parameters())
    assert "model.layers.0.self_attn.q_proj.bias" in names and "lm_head.weight" not in names  # bias, tied head
    assert 450_000 < sum(p.numel() for p in names.values()) < 700_000
