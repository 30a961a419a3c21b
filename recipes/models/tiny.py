"""The tiny model: a Qwen2 of about 0.6 million parameters with a byte-level tokenizer, made here instead of downloaded.

Its folder looks like any other Hugging Face model folder, so nothing downstream knows that it is small.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config

from recipes.models.tiny_shape import TINY_SHAPE, TINY_VOCABULARY

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
# One token each, because a byte-level model would spend most of its response on spelling them.
PIECES = ("<think>", "</think>", "\\boxed{", "system\n", "user\n", "assistant\n")

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)


def tiny_tokenizer(corpus: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on `corpus`, so that any text round-trips, with Qwen2.5's chat markup.

    Digits stay single tokens, as in Qwen2.5: arithmetic is learned digit by digit.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TINY_VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    core.train_from_iterator(corpus, trainer)
    core.add_tokens([AddedToken(piece, normalized=False) for piece in PIECES])
    core.add_special_tokens([AddedToken(t, normalized=False) for t in (END_OF_TEXT, TURN_START, TURN_END)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def tiny_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2Config:
    """Of `recipes.models.tiny_shape`, with this tokenizer's ids."""
    return Qwen2Config(
        vocab_size=-(-len(tokenizer) // 16) * 16,
        **{key: value for key, value in TINY_SHAPE.items() if key != "model_type"},
        max_position_embeddings=4096,
        rms_norm_eps=1e-6,
        initializer_range=0.1,  # about 1/sqrt(width); at the usual 0.02 the warm start takes twice the steps
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        dtype="float32",
    )
