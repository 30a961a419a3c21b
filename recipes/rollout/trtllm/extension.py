"""What TensorRT-LLM's own workers gain: new weights, and forgetting cached prefixes. Imported in those workers only.

TensorRT-LLM mixes the class into its worker, which has `engine` (PyExecutor) and `device_id`. It refuses an extension
with a name that the worker has already, hence `crossthink_` before each of ours.
"""

from __future__ import annotations

import contextlib
import json
import traceback
from typing import Any

import torch
from tensorrt_llm.llmapi.rlhf_utils import WorkerExtension

from recipes.rollout.refit.offer import Offer
from recipes.rollout.refit.source import Groups, read
from recipes.rollout.trtllm.loading import Taken, load


class CrossThinkExtension(WorkerExtension):
    """Methods for `AsyncLLM.collective_rpc`."""

    def crossthink_refit(self, offer: str, fp8: bool) -> dict[str, Any]:
        """Take a whole set of weights over, with the executor's loop parked and nothing under way.

        A failure is returned, not raised: of several workers' exceptions only one would reach the caller.

        Args:
            offer: of the weights, as JSON.
            fp8: quantize the projections.

        Returns:
            `version`, `names`, `bytes` and `checksum`; or `error`, and `touched`: whether the old weights are gone.
        """
        taken = Taken()
        try:
            wanted = Offer.from_json(json.loads(offer))
            # Parked before the refit's group is joined: its own NCCL calls and the joining would wait for each other.
            with self.engine.control_action(drain=True):
                if torch.cuda.is_available():
                    torch.cuda.set_device(self.device_id)  # of this thread, which need not be the one that loaded
                reading = read(wanted, torch.distributed.get_rank(), None, self._crossthink_groups())
                finalize = getattr(self, "finalize_weight_update", None)
                with contextlib.closing(reading):
                    load(self.engine, reading, taken, bucket_bytes=wanted.bucket_bytes, fp8=fp8, finalize=finalize)
        except Exception as error:
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {error}", "touched": taken.touched}
        return {"version": wanted.version, "names": taken.names, "bytes": taken.bytes, "checksum": reading.checksum}

    def crossthink_reset_prefix_cache(self) -> bool:
        """Forget which prefixes the KV cache holds."""
        self.engine.reset_prefix_cache()
        return True

    def _crossthink_groups(self) -> Groups:
        """The groups that this worker has joined; kept from refit to refit."""
        if not hasattr(self, "_crossthink_joined"):
            self._crossthink_joined = Groups()
        return self._crossthink_joined
