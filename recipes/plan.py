"""`crossthink plan`: what a run takes before it is submitted, and which layout is the fastest. Starts nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from conf.plan import PlanConfig
from crossthink.errors import EXIT_DONE, EXIT_FAILED, ConfigError
from recipes.planning import table
from recipes.planning.communication import traffic
from recipes.planning.job import make_job
from recipes.planning.memory import fit, memory
from recipes.planning.search import search
from recipes.planning.timing import estimate


def run(config: PlanConfig) -> int:
    """Print the plan. Returns the exit code: 1 where memory does not suffice.

    Raises:
        ConfigError: a layout or a key that the run itself would refuse.
    """
    if config.search:
        return _search(config)
    if config.picture is not None:
        from recipes.planning.picture import check_picture, draw

        check_picture(config.picture)
    job = make_job(config)
    phases = memory(job)
    problems = fit(job, phases)
    found = None if job.gpu is None else estimate(job, config.efficiency)
    moved = traffic(job)
    if config.picture is not None:
        draw(Path(config.picture), job, phases, found)
    if config.json:
        print(json.dumps(table.as_json(job, phases, problems, found, moved, config.efficiency), indent=2))
    else:
        parts = [table.layout_line(job) + "\n", table.memory_table(job, phases)]
        parts += [table.time_table(found)] if found else [table.NO_TIME + "\n"]
        parts.append(table.traffic_table(job, moved, config.efficiency))
        parts += [table.totals_table(job, found)] if found else []
        print("\n".join([*parts, table.SOURCES]))
    for problem in problems:
        print(f"crossthink: does not fit. {problem}", file=sys.stderr)
    return EXIT_FAILED if problems else EXIT_DONE


def _search(config: PlanConfig) -> int:
    if config.picture is not None:
        raise ConfigError(f"picture={config.picture} draws one layout; search=true ranks many. Drop one of the two.")
    ranking = search(config)
    if config.json:
        print(json.dumps(table.ranking_json(ranking, config.show), indent=2))
    else:
        print(table.ranking_table(ranking, config.show))
        if ranking.layouts:
            print(f"The first: {table.layout_words(ranking.layouts[0])}")
    if ranking.nearest is not None:
        print(f"crossthink: none of {ranking.tried} layouts fits. The nearest is {ranking.nearest}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_DONE
