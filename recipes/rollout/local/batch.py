"""The samples that are generated side by side: what each has drawn, and which row of the cache is its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recipes.rollout.interface import FINISH_LENGTH, FINISH_STOP, Request, Response, SamplingParams
from recipes.rollout.local.row_cache import RowCache
from recipes.rollout.local.sampler import draw
from recipes.rollout.local.spans import padding, spans

UNIFORMS = 64  # numbers of a sample's stream that are held at a time
TOKEN_STEP = 256  # responses' room grows by so many tokens
# Cells of the cache that can be read for nothing in the time that one more call of attention takes.
CALL_COST = {"cpu": 512, "cuda": 16384}
# Rows are sorted anew where more than this share of what attention reads is padding, and not too often.
PADDING_LIMIT = 0.2
SORT_EVERY = 16


@dataclass(frozen=True)
class Sample:
    """A request under way.

    Attributes:
        ticket: the caller's number.
        request: what is asked for.
        budget: response tokens at most.
        kind: sampling parameters without what only the sample's own numbers depend on; equal ones are drawn together.
        stream: its uniform numbers.
        prompt_key: hash of the prompt, made once.
    """

    ticket: int
    request: Request
    budget: int
    kind: SamplingParams
    stream: np.random.Generator
    prompt_key: int


class Batch:
    """Rows 0 to n-1 of a `RowCache`, each a sample's, and the tensors that say how far each one is.

    A row enters with its prompt's keys and values but for the last token, which it reads at its first step: so a prompt
    is read once, and its samples copy it, whenever they come. All rows then go on by a token a step.
    """

    _lengths: np.ndarray
    _drawn: np.ndarray
    _budgets: np.ndarray
    _next_ids_r: Tensor
    _positions_r: Tensor
    _starts_r: Tensor
    _uniform_ru: Tensor
    _ids_rt: Tensor
    _log_probs_rt: Tensor
    _spans: list[tuple[int, int]]
    _kinds: list[tuple[SamplingParams, Tensor, Tensor]]
    _sorted_at: int

    def __init__(self, cache: RowCache, device: torch.device) -> None:
        """An empty batch."""
        self.cache = cache
        self.device = device
        self.samples: list[Sample] = []
        self._call_cost = CALL_COST.get(device.type, CALL_COST["cuda"])
        self._step = 0
        self._clear()

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def tokens(self) -> int:
        """Columns of the cache that are in use, over all rows."""
        return int(self._lengths.sum())

    def enter(self, samples: Sequence[Sample]) -> None:
        """Give samples the next rows of the cache; the caller then fills those with their prompts."""
        first, last = len(self), len(self) + len(samples)
        starts = np.array([len(sample.request.prompt_ids) - 1 for sample in samples])
        self.samples.extend(samples)
        self._lengths = np.concatenate([self._lengths, starts])
        self._budgets = np.concatenate([self._budgets, [sample.budget for sample in samples]])
        self._drawn = np.concatenate([self._drawn, np.zeros_like(starts)])
        self._reserve(last, 1)
        self._starts_r[first:last] = self._positions_r[first:last] = torch.from_numpy(starts).to(self.device)
        last_ids = [sample.request.prompt_ids[-1] for sample in samples]
        self._next_ids_r[first:last] = torch.tensor(last_ids, device=self.device)
        self._draw_uniforms(first, self._step % UNIFORMS)
        self._changed = True

    def inputs(self) -> tuple[Tensor, Tensor, list[tuple[int, int, int, bool]]]:
        """What `Decoder.next_logits` reads in this step; the cache has room for it.

        Returns:
            ids int64 [n], their positions int64 [n], and the runs of rows.
        """
        if self._changed:
            self._arrange()
        self.cache.reserve(len(self), int(self._lengths.max()) + 1)
        runs = []
        for first, stop in self._spans:
            lengths = self._lengths[first:stop]
            longest = int(lengths.max())
            runs.append((first, stop, longest + 1, longest == int(lengths.min())))
        return self._next_ids_r[: len(self)], self._positions_r[: len(self)], runs

    def draw(self, logits_bv: Tensor) -> np.ndarray:
        """Draw each row's next token and go on by one. Returns the rows that are over: their last token is drawn."""
        rows = len(self)
        uniform_b = self._uniform_ru[:rows, self._step % UNIFORMS]
        if len(self._kinds) == 1:
            ids_b, log_probs_b = draw(logits_bv, uniform_b, self._kinds[0][0])
        else:
            ids_b, log_probs_b = torch.empty_like(self._next_ids_r[:rows]), logits_bv.new_empty(rows).float()
            for kind, rows_k, _ in self._kinds:
                ids_b[rows_k], log_probs_b[rows_k] = draw(logits_bv[rows_k], uniform_b[rows_k], kind)
        stopped_b = torch.zeros(rows, dtype=torch.bool, device=self.device)
        for _, rows_k, stops in self._kinds:
            stopped_b[rows_k] = torch.isin(ids_b[rows_k], stops)
        every_b = torch.arange(rows, device=self.device)
        drawn_b = self._positions_r[:rows] - self._starts_r[:rows]
        self._reserve(rows, int(self._drawn.max()) + 1)
        self._ids_rt[every_b, drawn_b] = ids_b
        self._log_probs_rt[every_b, drawn_b] = log_probs_b
        self._next_ids_r[:rows] = ids_b
        self._positions_r[:rows] += 1
        self._lengths += 1
        self._drawn += 1
        self._stopped = stopped_b.cpu().numpy()  # the one thing that a step waits for
        self._step += 1
        if self._step % UNIFORMS == 0:
            self._draw_uniforms(0, 0)
        return np.flatnonzero(self._stopped | (self._drawn == self._budgets))

    def responses(self, rows: np.ndarray, version: int) -> list[tuple[int, Response]]:
        """What rows that are over have drawn, by ticket."""
        samples = [self.samples[row] for row in rows]
        drawn = self._drawn[rows].tolist()
        rows_m = torch.from_numpy(rows).to(self.device)
        ids = self._ids_rt[rows_m, : max(drawn)].cpu().numpy()
        log_probs = self._log_probs_rt[rows_m, : max(drawn)].cpu().numpy()
        return [
            (
                sample.ticket,
                Response(
                    ids[i, : drawn[i]].tolist(),
                    log_probs[i, : drawn[i]].tolist(),
                    FINISH_STOP if self._stopped[row] else FINISH_LENGTH,
                    version,
                ),
            )
            for i, (sample, row) in enumerate(zip(samples, rows, strict=True))
        ]

    def remove(self, rows: np.ndarray) -> None:
        """Take rows out; the last ones move into their places. An empty batch gives its memory back."""
        kept = len(self) - len(rows)
        if not kept:
            self.samples.clear()
            self.cache.clear()
            self._clear()
            return
        holes, movers = rows[rows < kept], np.setdiff1d(np.arange(kept, len(self)), rows)
        # A long row into the hole that a long one leaves: neighbours stay of similar length.
        holes, movers = holes[np.argsort(self._lengths[holes])], movers[np.argsort(self._lengths[movers])]
        self._move(holes, movers)
        del self.samples[kept:]
        self._lengths, self._drawn, self._budgets = (
            counts[:kept] for counts in (self._lengths, self._drawn, self._budgets)
        )
        self._changed = True

    def _arrange(self) -> None:
        """Cut the rows into runs, and sort them by length where that saves much; then part them by kind."""
        self._spans = spans(self._lengths, self._call_cost)
        limit = PADDING_LIMIT * (int(self._lengths.sum()) + self._call_cost)
        if padding(self._lengths, self._spans) > limit and self._step >= self._sorted_at + SORT_EVERY:
            order = np.argsort(-self._lengths, kind="stable")
            targets = np.flatnonzero(order != np.arange(len(order)))
            self._move(targets, order[targets])
            self._spans = spans(self._lengths, self._call_cost)
            self._sorted_at = self._step
        rows_of: dict[SamplingParams, list[int]] = {}
        for row, sample in enumerate(self.samples):
            rows_of.setdefault(sample.kind, []).append(row)
        self._kinds = [
            (
                kind,
                torch.tensor(rows, device=self.device),
                torch.tensor(kind.stop_ids, dtype=torch.int64, device=self.device),
            )
            for kind, rows in rows_of.items()
        ]
        self._changed = False

    def _move(self, targets: np.ndarray, sources: np.ndarray) -> None:
        """Overwrite rows by others, as they are now."""
        if not len(targets):
            return
        width = int(self._lengths[sources].max())
        moved = [self.samples[row] for row in sources]
        for target, sample in zip(targets, moved, strict=True):
            self.samples[target] = sample
        for counts in (self._lengths, self._drawn, self._budgets):
            counts[targets] = counts[sources]
        targets_m, sources_m = (torch.from_numpy(rows).to(self.device) for rows in (targets, sources))
        self.cache.copy(targets_m, sources_m, width)
        for tensor in (
            self._next_ids_r, self._positions_r, self._starts_r, self._ids_rt, self._log_probs_rt, self._uniform_ru
        ):  # fmt: skip
            tensor[targets_m] = tensor[sources_m]

    def _draw_uniforms(self, first: int, column: int) -> None:
        """Fill the columns from `column` on of the rows from `first` on with their streams' next numbers.

        All rows read the same column in a step, wherever in its response each one is.
        """
        if first < len(self):
            drawn = np.stack([sample.stream.random(UNIFORMS - column) for sample in self.samples[first:]])
            self._uniform_ru[first : len(self), column:] = torch.from_numpy(drawn).to(self.device)

    def _reserve(self, rows: int, tokens: int) -> None:
        """Have room for so many rows and response tokens; what is there stays."""
        have_rows, have_tokens = self._ids_rt.shape
        if rows > have_rows:
            rows = max(rows, 2 * have_rows)
            for name in ("_next_ids_r", "_positions_r", "_starts_r", "_uniform_ru"):
                setattr(self, name, _grown(getattr(self, name), (rows, *getattr(self, name).shape[1:])))
        if rows > have_rows or tokens > have_tokens:
            shape = (max(rows, have_rows), max(have_tokens, -(-tokens // TOKEN_STEP) * TOKEN_STEP))
            self._ids_rt, self._log_probs_rt = _grown(self._ids_rt, shape), _grown(self._log_probs_rt, shape)

    def _clear(self) -> None:
        def empty(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=self.device)

        self._lengths = np.zeros(0, dtype=np.int64)  # filled columns of the cache
        self._drawn = np.zeros(0, dtype=np.int64)  # response tokens
        self._budgets = np.zeros(0, dtype=np.int64)  # response tokens at most
        self._next_ids_r, self._positions_r, self._starts_r = (empty(torch.int64, 0) for _ in range(3))
        self._uniform_ru = empty(torch.float64, 0, UNIFORMS)
        self._ids_rt, self._log_probs_rt = empty(torch.int64, 0, 0), empty(torch.float32, 0, 0)
        self._spans = []
        self._kinds = []
        self._sorted_at = self._step - SORT_EVERY
        self._changed = True


def _grown(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor of a shape at least as large, that begins with this one."""
    grown = tensor.new_zeros(shape)
    grown[tuple(slice(0, size) for size in tensor.shape)] = tensor
    return grown
