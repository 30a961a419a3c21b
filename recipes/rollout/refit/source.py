"""The weights of an offer, where they are taken over: in the local engine's process, or in each TensorRT-LLM worker."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping

import torch
from torch import Tensor

from recipes.rollout.interface import RefitError
from recipes.rollout.refit.channel import Channel, ChannelError, first_line
from recipes.rollout.refit.collective import CalledOff, CollectiveReader
from recipes.rollout.refit.files import FilesReader
from recipes.rollout.refit.meeting import Groups
from recipes.rollout.refit.offer import COLLECTIVE, Group, Offer

__all__ = ["Groups", "Reading", "read"]

JOINED = ("", torch.empty(0))
"""What the steps of a reading begin with."""


class Reading(Iterator[tuple[str, Tensor]]):
    """(name, tensor), once each. Only when it has come to its end without an error is the set whole and right.

    Attributes:
        tensors: that came so far.
        bytes: of them.
        checksum: of the set, at the end; None before.
    """

    def __init__(self, steps: Generator[tuple[str, Tensor], None, str]):
        self._steps = steps
        self.tensors = self.bytes = 0
        self.checksum: str | None = None

    def __next__(self) -> tuple[str, Tensor]:
        try:
            name, tensor = next(self._steps)
        except StopIteration as end:
            self.checksum = self.checksum or end.value
            raise
        self.tensors += 1
        self.bytes += tensor.nbytes
        return name, tensor

    def close(self) -> None:
        """Give up; the sender is told."""
        self._steps.close()


def read(offer: Offer, seat: int, into: Mapping[str, Tensor] | None, joined: Groups) -> Reading:
    """Take part in a refit.

    A tensor that is yielded is either `into`'s own, where dtype, shape and device fit and it is contiguous: it holds
    the new values already; or a new one, which the caller may keep. It may not be changed before the reading ends.
    Close the reading, or let it go, when something else fails: the sender waits for this server until then.

    Args:
        offer: what the server was sent.
        seat: this process's number among those of the server that hold weights.
        into: the engine's own tensors by name.
        joined: kept by this process from refit to refit.

    Raises:
        RefitError: nothing has been touched, the old weights still stand. The same error out of the iteration: weights
            may be partly new.
    """
    if offer.transport != COLLECTIVE:
        return Reading(FilesReader(offer, into or {}).read())
    assert offer.group is not None
    channel = joined.join(offer.group, seat, offer.timeout_s)
    steps = _collective(offer, offer.group, seat, into or {}, joined, channel)
    next(steps)  # from here on, closing it tells the sender
    return Reading(steps)


def _collective(
    offer: Offer, group: Group, seat: int, into: Mapping[str, Tensor], joined: Groups, channel: Channel
) -> Generator[tuple[str, Tensor], None, str]:
    try:
        yield JOINED
        return (yield from CollectiveReader(channel, offer, into).read())
    except ChannelError as error:
        joined.leave(group)
        raise RefitError(f"The weights of version {offer.version} broke off: {error}") from error
    except CalledOff:
        raise
    except BaseException as error:  # also the caller's: whoever reads no more must not hold up the others
        joined.failed(group, seat, f"{type(error).__name__} {first_line(error)}")
        raise
