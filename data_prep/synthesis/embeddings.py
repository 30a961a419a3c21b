"""Texts to vectors, by an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from conf.synth import EmbeddingsConfig
from crossthink.errors import UserError
from crossthink.secret import read_secret


def embedder(config: EmbeddingsConfig) -> Callable[[list[str]], np.ndarray]:
    """A function that asks for one vector a text.

    Raises (when it is called):
        UserError: the endpoint cannot be reached, refuses, or gives another number of vectors.
    """
    import openai

    assert config.endpoint is not None and config.model is not None
    key = read_secret(config.token, "embeddings.token") or "none"
    client = openai.OpenAI(base_url=config.endpoint.rstrip("/"), api_key=key)

    def embed(texts: list[str]) -> np.ndarray:
        try:
            reply = client.embeddings.create(model=config.model or "", input=texts)
        except openai.OpenAIError as error:
            raise UserError(f"embeddings.endpoint={config.endpoint}: {error}") from error
        vectors = [one.embedding for one in sorted(reply.data, key=lambda one: one.index)]
        if len(vectors) != len(texts):
            raise UserError(
                f"embeddings.endpoint={config.endpoint} gave {len(vectors)} vectors for {len(texts)} texts."
            )
        return np.array(vectors)

    return embed
