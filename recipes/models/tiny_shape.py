"""The sizes of the tiny model, which are checked without torch before it is made."""

TINY_VOCABULARY = 440
"""Before the pieces and the chat markup: bytes and the merges of the demo's words."""

TINY_SHAPE = {
    "model_type": "qwen2",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
"""Qwen2 with every feature of Qwen2.5 (QKV bias, grouped queries, padded vocabulary), four layers of width 128."""
