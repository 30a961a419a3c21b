"""datatrove's SLURM executor, for clusters that have no need of a partition."""

from __future__ import annotations

from datatrove.executor import SlurmPipelineExecutor


class SlurmExecutor(SlurmPipelineExecutor):
    """Options without a value are left to the cluster."""

    def get_sbatch_args(self, max_array: int = 1) -> dict:
        """See `SlurmPipelineExecutor.get_sbatch_args`."""
        found = super().get_sbatch_args(max_array)
        if found.get("mem"):
            del found["mem-per-cpu"]
        return {name: value for name, value in found.items() if value is not None}
