"""The cluster's settings in the run folder, as `submit` wrote them down."""

from __future__ import annotations

from pathlib import Path

from conf.cluster import ClusterConfig
from conf.compose import from_file, to_yaml
from crossthink.files import atomic_file
from slurm.attempt import CLUSTER, SETTINGS


def read_cluster(run: Path) -> ClusterConfig:
    """What `write_cluster` wrote."""
    return from_file(ClusterConfig, run / CLUSTER / SETTINGS)


def write_cluster(run: Path, cluster: ClusterConfig) -> None:
    """Keep the settings for the tasks of the run's jobs."""
    with atomic_file(run / CLUSTER / SETTINGS) as handle:
        handle.write(to_yaml(cluster))
