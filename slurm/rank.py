"""One rank of a job, a child of `slurm.watch`: trains as RANK and WORLD_SIZE say, with servers that others started."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from crossthink.errors import EXIT_DONE, UserError
from crossthink.procs import die_with_told_parent
from recipes import train
from recipes.run_folder import read_config
from recipes.signs_of_life import show_stack_when_asked
from slurm.attempt import Attempt
from slurm.servers import PublishedServers
from slurm.settings import read_cluster


def main() -> int:
    """Entry: `python -m slurm.rank RUN`. Returns the exit code of training."""
    die_with_told_parent()
    show_stack_when_asked()
    run = Path(sys.argv[1])
    config = read_config(run)
    assert config is not None
    servers = PublishedServers(Attempt.from_environment(), read_cluster(run).ready_s)
    try:
        return train.run(replace(config, resume=True), servers) or EXIT_DONE
    except UserError as error:
        print(f"crossthink: {error}", file=sys.stderr, flush=True)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
