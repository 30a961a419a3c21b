"""What critic server and client call things: PyTriton's models, their inputs, the checkpoint's folder."""

from __future__ import annotations

INFER, TRAIN, SAVE = "critic_infer", "critic_train", "critic_save"
PER_TOKEN = {"returns": "returns", "values": "prev_values", "weights": "mask"}
"""Names of the loss's tensors, and of the inputs that bring them."""
CRITIC = "critic"
"""What the critic's part of a checkpoint is called; in the form of an unpacked `.nemo`, as the policy's."""
