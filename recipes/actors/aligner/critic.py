"""PPO's value model as the training loop sees it: a client of NeMo-Aligner's critic server."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from pytriton.client import ModelClient
from pytriton.client.exceptions import PyTritonClientError
from torch import Tensor
from tritonclient.utils import InferenceServerException

from crossthink.errors import UserError
from recipes.actors.aligner.critic_names import CRITIC, INFER, PER_TOKEN, SAVE, TRAIN
from recipes.actors.interface import LossFunction, Staged, StepResult, TokenizedSample

READY_S = 10.0
"""Seconds in which a server that is up says so, asked before each request."""
# Of PyTriton, of the Triton client below it, and of the HTTP client below that where a server ends while it is asked.
FAILURES = (PyTritonClientError, InferenceServerException, HTTPException, OSError)
Arrays = dict[str, np.ndarray]


class AlignerCritic:
    """Implements `recipes.actors.interface.Critic`. Rank 0 asks; the others get its answer, or its error."""

    def __init__(self, url: str, deadline_s: float, last_words: Callable[[], str]) -> None:
        """
        Args:
            url: the critic server's.
            deadline_s: seconds for one answer.
            last_words: gives a sentence with the end of the server's log, for messages.
        """
        self.url = url
        self.deadline_s = deadline_s
        self.last_words = last_words

    def values(self, samples: Sequence[TokenizedSample]) -> list[Tensor]:
        """See `Critic.values`.

        Raises:
            UserError: the server ended, failed, or gave no answer in time; names it and the end of its log.
        """
        values_bt = torch.from_numpy(self._ask(INFER, _tokens(samples))["values"])
        return [values_bt[row, _responses(sample)] for row, sample in enumerate(samples)]

    def train_step(self, samples: Sequence[TokenizedSample], loss: LossFunction, lr: float) -> StepResult:
        """See `Critic.train_step`.

        Args:
            samples: the global batch, with `weights`, `values` and `returns`.
            loss: not looked at: the server has the run's value loss.
            lr: learning rate of this step.

        Raises:
            UserError: as `values`.
        """
        answer = self._ask(TRAIN, _tokens(samples) | _per_token(samples) | {"lr": np.array([lr])})
        return StepResult(float(answer["grad_norm"][0]), json.loads(answer["sums"][0]))

    def offload(self) -> None:
        """Nothing to do: the server sends Adam's state away after each step, if `actor.offload` says so."""

    def onload(self) -> None:
        """Nothing to do: the server fetches it before a step."""

    def stage(self, folder: Path) -> Staged:
        """See `Critic.stage`. The server has written everything when this returns.

        Raises:
            OSError: no space left.
            UserError: as `values`.
        """
        self._save(folder, load=0)
        return _Written()

    def load(self, folder: Path) -> None:
        """See `Critic.load`.

        Raises:
            UserError: as `values`.
        """
        self._save(folder, load=1)

    def _save(self, folder: Path, load: int) -> None:
        words = np.array([os.fsencode(folder.resolve())])
        status = int(self._ask(SAVE, {"folder": words, "load": np.array([load])})["status"][0])
        if status:
            raise OSError(status, os.strerror(status), str(folder / CRITIC))

    def _ask(self, model: str, inputs: Arrays) -> Arrays:
        """Collective: the server's answer, or UserError, on every rank."""
        found: list[Arrays | str | None] = [None]
        if dist.get_rank() == 0:
            try:
                found = [self._request(model, inputs)]
            except FAILURES as error:
                found = [f"The critic server at {self.url} failed in {model}: {_reason(error)}. {self.last_words()}"]
        dist.broadcast_object_list(found)
        (answer,) = found
        if not isinstance(answer, dict):
            raise UserError(str(answer))
        return answer

    def _request(self, model: str, inputs: Arrays) -> Arrays:
        with ModelClient(self.url, model, init_timeout_s=READY_S, inference_timeout_s=self.deadline_s) as client:
            return client.infer_batch(**inputs) if model == INFER else client.infer_sample(**inputs)


class _Written:
    """A checkpoint's part that is on disk already."""

    def write(self) -> None:
        """See `Staged.write`."""

    def finish(self) -> None:
        """See `Staged.finish`."""


def _reason(error: Exception) -> str:
    """What went wrong, without Triton's own stack and, where code of the server failed, without its traceback."""
    return str(error).partition("\nAt:")[0].strip().splitlines()[-1].rstrip(".")


def _responses(sample: TokenizedSample) -> slice:
    """The positions that predict the sample's response tokens."""
    return slice(sample.prompt_length - 1, len(sample.token_ids) - 1)


def _tokens(samples: Sequence[TokenizedSample]) -> Arrays:
    """int64 [b, t] tokens, 0 on the right, and [b, 1] lengths."""
    lengths = [len(sample.token_ids) for sample in samples]
    tokens_bt = np.zeros((len(samples), max(lengths)), np.int64)
    for row, sample in enumerate(samples):
        tokens_bt[row, : lengths[row]] = sample.token_ids
    return {"tokens": tokens_bt, "sequence_lengths": np.array(lengths, np.int64)[:, None]}


def _per_token(samples: Sequence[TokenizedSample]) -> Arrays:
    """float32 [b, t - 1] each, 0 outside the responses."""
    width = max(len(sample.token_ids) for sample in samples) - 1
    found = {name: np.zeros((len(samples), width), np.float32) for name in PER_TOKEN.values()}
    for row, sample in enumerate(samples):
        for ours, name in PER_TOKEN.items():
            found[name][row, _responses(sample)] = sample.per_token[ours].numpy()
    return found
