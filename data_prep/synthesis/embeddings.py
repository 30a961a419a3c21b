"""Texts to vectors, by an OpenAI-compatible endpoint; what was asked once is stored."""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from conf.synth import EmbeddingsConfig
from crossthink.endpoint import Access, Endpoint
from data_prep.synthesis.calls.request import Failed, Reply, Usage
from data_prep.synthesis.calls.store import AnswerStore

PURPOSE = "embedding"
BATCH = 64
"""Texts of one request."""


def endpoint_of(config: EmbeddingsConfig) -> Endpoint:
    """The server that is asked. Raises ConfigError where its address or key cannot be."""
    assert config.endpoint is not None
    access = Access(
        config.endpoint, config.model, config.token, config.deadline_s, config.retries, "embeddings.endpoint",
        "embeddings",
    )  # fmt: skip
    return Endpoint(access)


class Embedder:
    """Gives one vector for each text.

    Routes must be the same whenever a run goes on, and the vectors of a model differ by rounding with what is in the
    same batch: the first answer is stored, and stays.

    Args:
        config: the endpoint and its model.
        answers: the file with the vectors of this task.
    """

    def __init__(self, config: EmbeddingsConfig, answers: Path) -> None:
        self._config, self._answers = config, answers
        self._endpoint = endpoint_of(config)

    @functools.cached_property
    def _model(self) -> str:
        return self._endpoint.model

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors, shape (texts, width), float32.

        Raises:
            EndpointLost: the endpoint is gone, or busy for too long.
            UserError: it refuses, or gives something else than a vector for each text.
        """
        texts = [text[: self._config.max_characters] for text in texts]
        with AnswerStore(self._answers) as store:
            found = {text: self._stored(store, text) for text in texts}
            missing = [text for text, vector in found.items() if vector is None]
            for start in range(0, len(missing), BATCH):
                batch = missing[start : start + BATCH]
                found.update(zip(batch, self._asked(store, batch), strict=True))
        return np.array([found[text] for text in texts], dtype=np.float32)

    def _stored(self, store: AnswerStore, text: str) -> np.ndarray | None:
        known = store.get(self._key(text))
        if known is None or isinstance(known, Failed):
            return None
        return np.frombuffer(base64.b64decode(known.text), dtype="<f4")

    def _asked(self, store: AnswerStore, batch: list[str]) -> list[np.ndarray]:
        began = time.monotonic()
        vectors = [np.array(one, dtype="<f4") for one in asyncio.run(self._ask(batch))]
        seconds = time.monotonic() - began
        for at, (text, vector) in enumerate(zip(batch, vectors, strict=True)):
            used = Usage(1 if at == 0 else 0)
            said = base64.b64encode(vector.tobytes()).decode("ascii")
            store.put(self._key(text), PURPOSE, self._model, Reply(said, self._model, used), used, seconds)
        return vectors

    async def _ask(self, batch: list[str]) -> list[list[float]]:
        async with self._endpoint as endpoint:
            return await endpoint.tries(lambda: endpoint.vectors(self._model, batch))

    def _key(self, text: str) -> str:
        return hashlib.sha256(f"{self._model}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()
