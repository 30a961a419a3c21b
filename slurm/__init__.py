"""A run as a SLURM job: submitted, watched over, decided on when it ends, and started again (docs/cluster.md)."""
