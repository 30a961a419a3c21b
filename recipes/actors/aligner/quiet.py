"""NeMo's and Lightning's log lines, several hundred for a model, kept out of a run's output. Errors stay."""

from __future__ import annotations

import logging
import warnings

from recipes.actors.aligner.patches import Loaded, after_loading

LIBRARIES = ("megatron", "nemo", "nemo_aligner", "lightning", "pytriton")


def quiet_nemo() -> None:
    """Keep what these libraries say below an error to themselves. Before or after their import; again is harmless.

    Warnings of other libraries and of this project go where they went: NeMo takes all of a process's for its own log,
    and that is undone.
    """
    for library in LIBRARIES:
        logging.getLogger(library).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=rf"{library}\b")
    # Lightning sets the levels of these two when it is imported.
    for name in ("lightning.pytorch", "lightning.fabric"):
        after_loading(name, lambda module: logging.getLogger(module.__name__).setLevel(logging.ERROR))
    after_loading("nemo.utils", _quiet_log)


def _quiet_log(module: Loaded) -> None:
    module.logging.setLevel(logging.ERROR)
    module.logging.captureWarnings(False)
