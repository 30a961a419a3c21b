"""A checkpoint's answers, generated in this process."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from conf.evaluate import EvalConfig
from crossthink.files import sha256_file
from recipes.evaluation.answers import Answer, draw_number, never
from recipes.evaluation.questions import Asked
from recipes.machine import threads
from recipes.manifest import MANIFEST
from recipes.models.model_folder import INDEX, is_megatron_folder, weight_files, weights_key
from recipes.rl import checkpoints
from recipes.run_folder import model_folder
from recipes.stored_weights import find_checkpoint, stored_weights

AHEAD = 2  # batches of requests that the engine holds, so that it never waits for one


class LocalAnswerer:
    """Implements `Answerer` on the local engine: same weights and seed, same answers, whatever is asked beside.

    Use it as a context: the engine is made when the first answer is wanted, and ends with the block.
    """

    def __init__(self, config: EvalConfig) -> None:
        """Find the checkpoint and load its tokenizer.

        Args:
            config: `checkpoint` and how to generate.

        Raises:
            ConfigError: there is no such checkpoint.
            UserError: its tokenizer is missing or cannot be read; says which file.
        """
        assert config.checkpoint is not None
        self._config = config
        self.checkpoint, self.trained_with = find_checkpoint(Path(config.checkpoint))
        self._folder = self.checkpoint if self.trained_with is None else model_folder(self.trained_with)
        self._stack = contextlib.ExitStack()
        from recipes.models.tokenizer import load_tokenizer
        from recipes.quiet import quiet_libraries

        quiet_libraries()
        self._tokenizer = load_tokenizer(self._folder)

    def __enter__(self) -> LocalAnswerer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def facts(self) -> dict[str, Any]:
        """See `Answerer.facts`."""
        return self._facts

    @functools.cached_property
    def _facts(self) -> dict[str, Any]:
        words = (self._folder / "tokenizer.json").read_bytes() + str(self._tokenizer.chat_template).encode()
        return {
            "engine": "local",
            "checkpoint": str(self.checkpoint),
            "weights_sha256": weights_sha256(self.checkpoint),
            "tokenizer_sha256": hashlib.sha256(words).hexdigest(),
        }

    def prompt_tokens(self, asked: Asked) -> int | None:
        """See `Answerer.prompt_tokens`."""
        return len(self._prompt_ids(asked))

    def answers(
        self, wanted: Sequence[tuple[Asked, int]], stopped: Callable[[], bool] = never
    ) -> Iterator[tuple[int, Answer]]:
        """See `Answerer.answers`."""
        if not wanted:
            return
        from recipes.rollout.interface import Request

        engine, params = self._engine
        # Neighbours in length waste the least padding; the sort is stable, so that runs share their prompt's pass.
        waiting = deque(sorted(range(len(wanted)), key=lambda index: -_characters(wanted[index][0])))
        try:
            while (waiting or engine.running + engine.waiting) and not stopped():
                while waiting and engine.running + engine.waiting < AHEAD * engine.batch_size:
                    asked, run = wanted[waiting[0]]
                    request = Request(self._prompt_ids(asked), draw_number(asked), run)
                    engine.submit(waiting.popleft(), request, params)
                for index, response in engine.step():
                    yield index, self._answer(response)
        finally:
            engine.abort(range(len(wanted)))

    def _prompt_ids(self, asked: Asked) -> tuple[int, ...]:
        from recipes.rl.prompts import make_prompt

        return make_prompt(asked.row, self._tokenizer).token_ids

    def _answer(self, response: Any) -> Answer:
        from recipes.rl.pending import decode

        text = decode(self._tokenizer, response.token_ids)
        return Answer(text, len(response.token_ids), response.finish_reason)

    @functools.cached_property
    def _engine(self) -> tuple[Any, Any]:
        """The engine with the checkpoint's weights, and how it samples."""
        import torch

        from recipes.actors.stack import prepare_stack

        prepare_stack()
        from recipes.actors.mcore.mesh import join_mesh, leave_mesh
        from recipes.models.hf_config import load_config
        from recipes.models.tokenizer import stop_ids
        from recipes.rollout.interface import SamplingParams
        from recipes.rollout.local.engine import LocalEngine

        config = self._config
        torch.set_num_threads(threads(config.threads))
        mesh = join_mesh(1, 1)
        self._stack.callback(leave_mesh)
        engine = LocalEngine(self._folder, mesh.device, config.rollout.batch_size)
        engine.refit(lambda: stored_weights(self.checkpoint, mesh), version=0)
        params = SamplingParams(
            temperature=config.temperature,
            top_p=config.top_p,
            max_tokens=config.max_response_tokens,
            stop_ids=stop_ids(self._tokenizer, self._folder),
            vocabulary=min(len(self._tokenizer), load_config(self._folder).vocab_size),
            seed=config.seed,
            step=0,
        )
        return engine, params


def weights_sha256(checkpoint: Path) -> str:
    """What changes with the weights: the hash of a checkpoint's manifest, or of a model folder's safetensors."""
    if (checkpoint / checkpoints.TRAINER).is_file() or is_megatron_folder(checkpoint):
        return sha256_file(checkpoint / MANIFEST)
    if not (checkpoint / INDEX).is_file():
        return sha256_file(weights_key(checkpoint))
    shards = sorted(set(weight_files(checkpoint).values()))
    return hashlib.sha256("".join(sha256_file(checkpoint / name) for name in shards).encode()).hexdigest()


def _characters(asked: Asked) -> int:
    return sum(len(message["content"]) for message in asked.row.prompt)
