"""The seven benchmarks of the paper, one reader a file, and where their rows lie.

Decontamination keeps their questions out of a pool; evaluation asks them. Both read them here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from crossthink.errors import ConfigError
from data_prep.benchmarks import agieval, amc23, gpqa_diamond, math500, mmlu_pro, mmlu_test, supergpqa
from data_prep.benchmarks.base import Benchmark
from data_prep.files import SUFFIXES
from data_prep.rows import Question

# In the order of the paper's tables.
BENCHMARKS: dict[str, Benchmark] = {
    module.BENCHMARK.name: module.BENCHMARK
    for module in (mmlu_test, mmlu_pro, gpqa_diamond, agieval, supergpqa, math500, amc23)
}


def find_benchmarks(folder: Path | str, key: str = "decontaminate.path") -> dict[str, list[Path]]:
    """The files and folders of every benchmark in `folder`, by name; an empty list for a benchmark that is absent.

    A benchmark is NAME.jsonl, NAME.jsonl.gz, NAME.parquet, a folder NAME/, or several of NAME_ANYTHING (the tasks of
    AGIEval as agieval_lsat_ar.jsonl and so on); GPQA may be CSV, as the hub has it. What bears no benchmark's name is
    left alone.

    Args:
        folder: where they lie.
        key: the setting that named the folder, for messages.

    Raises:
        ConfigError: `folder` is none, or has no benchmark at all.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"{key}={folder} is not a folder.")
    found: dict[str, list[Path]] = {name: [] for name in BENCHMARKS}
    for path in sorted(folder.iterdir()):
        name = _benchmark_of(path)
        if name is not None:
            found[name].append(path)
    if not any(found.values()):
        raise ConfigError(
            f"{key}={folder} has none of the benchmarks {', '.join(BENCHMARKS)}. Each is a file NAME"
            f"{SUFFIXES[0]} (or {', '.join(SUFFIXES[1:])}), files NAME_*{SUFFIXES[0]}, or a folder NAME."
        )
    return found


def read_items(found: Mapping[str, Sequence[Path]]) -> Iterator[tuple[str, str, Question]]:
    """Yield `(benchmark, item id, question)` for every row of what `find_benchmarks` found, in order.

    An item id is `FILE:ROW`, the row counting from 1.

    Raises:
        UserError: a file or row that cannot be read; the message names file, line and field.
    """
    for name, paths in found.items():
        for path in paths:
            for question in BENCHMARKS[name].read(path):
                if isinstance(question, Question):
                    yield name, f"{question.file}:{question.row}", question


def _benchmark_of(path: Path) -> str | None:
    named = (name for name in BENCHMARKS if path.name == name or path.name.startswith((f"{name}.", f"{name}_")))
    name = next(named, None)
    if name is not None and path.is_file() and not path.name.endswith(BENCHMARKS[name].suffixes):
        return None
    return name
