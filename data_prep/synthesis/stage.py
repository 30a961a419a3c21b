"""`python -m data_prep.synthesis.stage CONFIG STAGE`: one stage here, in this process and those that it starts."""

from __future__ import annotations

import sys
from pathlib import Path

from conf.compose import from_file
from conf.synth import SynthConfig
from crossthink.errors import EXIT_DONE, EXIT_FAILED, UserError
from crossthink.procs import die_with_told_parent, forks_die_with_parent
from data_prep.synthesis.calls.budget import BudgetReached
from data_prep.synthesis.local_executor import local_executor
from data_prep.synthesis.stages import stages


def main(config_file: str, name: str) -> int:
    """Run it. Returns the exit code; what went wrong stands on stdout."""
    die_with_told_parent()
    forks_die_with_parent()  # the process with datatrove's queues outlives a killed one
    config = from_file(SynthConfig, Path(config_file))
    stage = next(one for one in stages(config) if one.name == name)
    try:
        executor = local_executor(config, stage)
        executor.run()
    except UserError as error:
        print(f"synth: {error}", flush=True)
        return error.exit_code
    except Exception as error:  # datatrove has logged it with its traceback
        print(f"synth: {type(error).__name__}: {error}", flush=True)
        return EXIT_FAILED
    return BudgetReached.exit_code if executor.get_incomplete_ranks() else EXIT_DONE


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
