"""Saving in the course of a run, while training goes on or not.

A save under way needs the ranks three times: when the state is copied, when every rank's part is on disk (megatron-core
gathers what was written where), and when rank 0 has made the checkpoint whole. What lies between runs in one thread a
rank, without a collective, so that it never meets those of training.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch.distributed as dist

from crossthink.errors import UserError
from crossthink.files import names_full_disk
from recipes.actors.interface import Staged
from recipes.rl import checkpoints
from recipes.spmd import HEARD_S, any_rank, is_first_rank
from recipes.work import Work


class Stages(Protocol):
    """The engines of a run: what a checkpoint is made from."""

    def stage(self, folder: Path) -> Sequence[Staged]:
        """Copy the state of every engine, to be written into `folder`. Collective."""


class Saver:
    """Makes the checkpoints of a run; at most one is under way. All methods are collective."""

    def __init__(self, out: Path, engines: Stages, keep: int, asynchronous: bool, saved: int = 0) -> None:
        """Clear what a killed run left aside.

        Args:
            out: the run folder.
            engines: what is saved.
            keep: newest checkpoints kept.
            asynchronous: `save` returns when the state is copied, unless told to wait.
            saved: step of the checkpoint that the run goes on from; 0: none.
        """
        self.out = out
        self.engines = engines
        self.keep = keep
        self.asynchronous = asynchronous
        self.saved = saved
        self.last_save_s: float | None = None
        """Seconds of the last whole save, from its beginning until `latest` moved; on rank 0."""
        self._waited_s = 0.0
        self._under_way: SaveUnderWay | None = None
        if is_first_rank():
            checkpoints.clear_unfinished(out)

    def save(self, step: int, trainer_state: dict[str, Any], *, wait: bool) -> None:
        """Save the state after `step`; with `wait`, or unless saving is asynchronous, it is whole on return.

        Raises:
            DiskFullError: no space left for this save or the one under way; earlier checkpoints stay.
            UserError: another rank could not write.
        """
        self.finish()
        began = time.perf_counter()
        target, aside = checkpoints.paths(self.out, step)
        self._under_way = SaveUnderWay(target, aside, self.engines, trainer_state, self.keep)
        self.saved = step
        self._waited_s += time.perf_counter() - began
        if wait or not self.asynchronous:
            self.finish()

    def settle(self, step: int, trainer_state: dict[str, Any]) -> None:
        """Before an end: save the state after `step`, unless that was done, and wait until it is whole.

        Raises:
            DiskFullError, UserError: see `save`.
        """
        if self.saved < step:
            self.save(step, trainer_state, wait=True)
        self.finish()

    def poll(self) -> None:
        """Carry a save under way on, as far as that needs no waiting.

        Raises:
            DiskFullError, UserError: see `save`.
        """
        self._advance(wait=False)

    def finish(self) -> None:
        """Wait for a save under way.

        Raises:
            DiskFullError, UserError: see `save`.
        """
        self._advance(wait=True)

    def seconds(self) -> dict[str, float]:
        """What training waited for saving since the last call, and how long the last save took in all."""
        if self._waited_s == 0.0:
            return {}
        waited, self._waited_s = self._waited_s, 0.0
        return {"checkpoint": waited} | ({} if self.last_save_s is None else {"checkpoint_write": self.last_save_s})

    def _advance(self, wait: bool) -> None:
        save = self._under_way
        if save is None:
            return
        began = time.perf_counter()
        self._under_way = None  # a save that fails is over
        if save.is_whole(wait):
            self.last_save_s = save.seconds
        else:
            self._under_way = save
        self._waited_s += time.perf_counter() - began


class SaveUnderWay:
    """A checkpoint that is written while training goes on."""

    def __init__(self, target: Path, aside: Path, engines: Stages, trainer_state: dict[str, Any], keep: int) -> None:
        """Copy the state and begin to write it. Collective.

        Raises:
            DiskFullError: no space left; earlier checkpoints stay.
        """
        self.target, self.aside = target, aside
        self.trainer_state, self.keep = copy.deepcopy(trainer_state), keep
        self.began = time.perf_counter()
        self.seconds = 0.0
        if is_first_rank():
            checkpoints.begin(aside)
        dist.barrier()
        try:
            with names_full_disk(target):
                self.parts = engines.stage(aside)
        except BaseException:
            self._drop()
            raise
        self.gathered = False
        self.work = Work(self._write, "checkpoint")

    def is_whole(self, wait: bool) -> bool:
        """Whether it is done; goes on with what needs all ranks when all are ready. Collective.

        Raises:
            DiskFullError: no space left; earlier checkpoints stay.
            UserError: another rank could not write.
        """
        if not self._all_ready(wait):
            return False
        if self.gathered:
            return True
        try:
            for part in self.parts:
                part.finish()
        except BaseException:
            self._drop()
            raise
        self.parts = []
        self.gathered = True
        self.work = Work(self._commit if is_first_rank() else lambda: None, "checkpoint")
        return self._all_ready(wait)

    def _write(self) -> None:
        with names_full_disk(self.target):
            for part in self.parts:
                part.write()

    def _commit(self) -> None:
        checkpoints.commit(self.aside, self.target, self.trainer_state, self.keep)
        self.seconds = time.perf_counter() - self.began

    def _all_ready(self, wait: bool) -> bool:
        """Whether every rank's thread is through; raises alike on all ranks where one failed."""
        # Hashing a large one takes longer than a collective may. No beat: storage may hang for ever, and the watchers
        # find a rank that is silent for too long.
        while any_rank(not self.work.wait(HEARD_S if wait else 0.0)):
            if not wait:
                return False
        error = self.work.error
        if any_rank(error is not None):
            self._drop()
            raise error or UserError(
                f"Another rank could not write its part of {self.target}. Its own message says why."
            )
        return True

    def _drop(self) -> None:
        if is_first_rank():
            shutil.rmtree(self.aside, ignore_errors=True)
