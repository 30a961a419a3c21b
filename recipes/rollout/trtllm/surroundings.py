"""The process environment that TensorRT-LLM and Ray need, put right before either is imported."""

from __future__ import annotations

from collections.abc import MutableMapping

from crossthink.errors import UserError

LAUNCHERS = ("PMI_", "PMIX_", "MPI_", "OMPI_", "SLURM_")
"""Variables by which a launcher's PMIx takes Ray's workers for its own, and ends them."""
KEPT = ("SLURM_JOB_ID", "SLURM_JOB_START_TIME", "SLURM_JOB_END_TIME", "SLURM_NTASKS", "SLURM_PROCID")
OWN = "CROSSTHINK_"
SETTINGS = {
    # Weights are then loaded on the caller's stream, one by one: less memory, and no copy that is still to come.
    "TRT_LLM_DISABLE_LOAD_WEIGHTS_IN_PARALLEL": "True",
    # Trainer and server are on different GPUs; NCCL between them needs it.
    "NCCL_CUMEM_ENABLE": "1",
    # Workers find their GPU by its number in the list of all, so Ray must not cut that list down.
    "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",
}
_GPUS = "CUDA_VISIBLE_DEVICES"


def prepare(environment: MutableMapping[str, str]) -> list[str]:
    """Save what the launcher said under our own names, forget the rest of it, and set what is needed.

    Args:
        environment: of this process; changed.

    Returns:
        The variables that were removed.

    Raises:
        UserError: CUDA_VISIBLE_DEVICES names GPUs other than by number.
    """
    gpus = environment.get(_GPUS)
    if gpus is not None and not all(one.strip().isdecimal() for one in gpus.split(",")):
        raise UserError(
            f"{_GPUS}={gpus!r}: TensorRT-LLM's Ray workers know GPUs by number only. Give numbers, as in {_GPUS}=0,1."
        )
    for name in KEPT:
        if name in environment:
            environment[OWN + name] = environment[name]
    removed = [name for name in environment if name.startswith(LAUNCHERS)]
    for name in removed:
        del environment[name]
    for name, value in SETTINGS.items():
        environment.setdefault(name, value)
    return removed
