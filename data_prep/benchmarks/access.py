"""Where the rows of a benchmark are: in a local folder, or on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from crossthink.errors import ConfigError, UserError
from data_prep.benchmarks import BENCHMARKS, agieval, find_benchmarks
from data_prep.files import SUFFIXES
from data_prep.hub import NoAccess, fetch
from data_prep.rows import Question

KEY = "benchmarks_path"


class Absent(UserError):
    """A benchmark that this machine does not have. An evaluation of all that there are goes on without it."""


@dataclass(frozen=True)
class Copy:
    """A copy of a benchmark on this machine.

    Attributes:
        name: key of BENCHMARKS.
        files: its data files, in order.
        revision: the hub's commit that they are from; None for local files, of which nobody knows.
    """

    name: str
    files: tuple[Path, ...]
    revision: str | None

    def questions(self) -> Iterator[Question]:
        """Every question in order; rows without any text are passed over.

        Raises:
            UserError: a row that cannot be read; the message names file, line and field.
        """
        for found in BENCHMARKS[self.name].read(self.files):
            if isinstance(found, Question):
                yield found


def open_copies(
    names: Collection[str], folder: str | None, tasks: Collection[str]
) -> Iterator[Copy | tuple[str, Absent]]:
    """Find or download benchmarks, one after the other; for one that is absent, its name and why.

    Args:
        names: keys of BENCHMARKS.
        folder: local rows, see `find_benchmarks`. None downloads them from the hub.
        tasks: of AGIEval, keys of `agieval.TASKS`.

    Raises:
        ConfigError: the folder has no benchmark at all, or lacks a file of one of AGIEval's tasks.
        UserError: a download failed for another reason than missing access.
    """
    found = None if folder is None else find_benchmarks(folder, KEY)
    for name in names:
        try:
            yield _from_hub(name) if found is None else _local(name, found[name], str(folder), tasks)
        except Absent as why:
            yield name, why


def _from_hub(name: str) -> Copy:
    benchmark = BENCHMARKS[name]
    if not benchmark.files:
        raise Absent(
            f"Benchmark {name} cannot be downloaded: the hub has no copy in the schema of {benchmark.hf_id}. Copy the "
            f"files of {benchmark.split} from there to {name}_TASK.jsonl in a folder and give {KEY}=FOLDER."
        )
    try:
        fetched = fetch(benchmark)
    except NoAccess as error:
        raise Absent(str(error)) from error
    return Copy(name, tuple(fetched.files), fetched.revision)


def _local(name: str, paths: list[Path], folder: str, tasks: Collection[str]) -> Copy:
    if not paths:
        same = [file for file in BENCHMARKS[name].files if Path(file).stem == name]  # its file on the hub fits as it is
        places = ", ".join([*same, f"{name}{SUFFIXES[0]}"])
        raise Absent(f"Benchmark {name} is not in {KEY}={folder}. Put its rows there as {places} or {name}/.")
    files = [file for path in paths for file in BENCHMARKS[name].local_files(path)]
    return Copy(name, tuple(_of_tasks(files, tasks) if name == agieval.BENCHMARK.name else files), None)


def _of_tasks(files: list[Path], tasks: Collection[str]) -> list[Path]:
    """The files that hold the rows of `tasks`."""
    known = {file: agieval.task_of(file.name) for file in files}
    for file, task in known.items():
        if task is None:
            raise ConfigError(
                f"{file} names no task of AGIEval. Call it agieval_TASK{SUFFIXES[0]}. "
                f"Tasks: {', '.join(agieval.TASKS)}."
            )
    missing = [task for task in tasks if task not in known.values()]
    if missing:
        there = sorted(task for task in known.values() if task)
        raise ConfigError(
            f"{KEY} has no file of AGIEval's {', '.join(missing)}. It has {', '.join(there)}; agieval_tasks=[...] says "
            "which of them to ask."
        )
    return [file for file, task in known.items() if task in tasks]
