"""`crossthink prep` on Table 1's sizes, as whole processes: seconds, rows a second, peak memory; against `datasets`.

    .venv/bin/python benchmarks/prep.py FOLDER [CASE ...]

Writes synthetic rows into FOLDER/data once (588,645 rows and 61,372 benchmark items, about 1 GB). Cases: `tenth` (the
main case at a tenth of the size), `main` (read, template, filter, exact dedup, decontaminate, pool), `gold` (with the
gold check), `near` (with near-duplicates), `datasets` (templates and filters alone, ours and those written with Hugging
Face `datasets`, one after the other). Default: all.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.prep_data import write_data
from data_prep.sources import SOURCES

WORKERS = 2
POLL_S = 1.0
NO_CHECKS = ["filters.gold=false", "dedup.exact=false"]


def main() -> int:
    """Write the data where it is missing, run the cases, print a table."""
    folder = Path(sys.argv[1])
    cases = sys.argv[2:] or ["tenth", "main", "gold", "near", "datasets"]
    for name, scale in (("data", 1.0), ("data_tenth", 0.1)):
        if not (folder / name).is_dir():
            aside = folder / f".{name}"
            shutil.rmtree(aside, ignore_errors=True)
            write_data(aside, scale)
            aside.rename(folder / name)
    print("| case | rows in | rows out | s | rows/s | peak memory, GB |\n|---|---|---|---|---|---|")
    for case in cases:
        if case == "datasets":
            ours = run("ours: templates and filters", prep_command(folder, "data", NO_CHECKS), folder)
            theirs = run("`datasets`: the same", datasets_command(folder), folder)
            print(f"\n`datasets` takes {theirs / ours:.2f} times as long as `crossthink prep` for the same steps.")
            continue
        data = "data_tenth" if case == "tenth" else "data"
        extra = [f"decontaminate.path={folder / data / 'benchmarks'}", f"filters.gold={str(case == 'gold').lower()}"]
        extra += ["dedup.near=true"] if case == "near" else []
        run(case, prep_command(folder, data, extra), folder)
    return 0


def prep_command(folder: Path, data: str, extra: list[str]) -> list[str]:
    """`crossthink prep` over the six sources, none sampled."""
    paths = [f"sources.{name}.path={folder / data / 'sources' / name}.jsonl" for name in SOURCES]
    whole = [f"sources.{name}.sample=null" for name in SOURCES]
    words = [f"sources=[{','.join(SOURCES)}]", *paths, *whole, f"workers={WORKERS}", f"out={folder / 'out'}", *extra]
    return [sys.executable, "-m", "recipes.cli", "prep", *words]


def datasets_command(folder: Path) -> list[str]:
    """The comparison."""
    script = Path(__file__).with_name("prep_datasets.py")
    return [sys.executable, str(script), str(folder / "data" / "sources"), str(folder / "out"), str(WORKERS)]


def run(case: str, command: list[str], folder: Path) -> float:
    """Run a command to its end, print its line, return its seconds."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    started = time.perf_counter()
    with open(folder / "log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=Path(__file__).parents[1])
        peak = 0
        while process.poll() is None:
            peak = max(peak, memory(process.pid))
            time.sleep(POLL_S)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit((folder / "log").read_text("utf-8"))
    rows_in, rows_out = counts(folder)
    print(f"| {case} | {rows_in:,} | {rows_out:,} | {seconds:.1f} | {rows_in / seconds:,.0f} | {peak / 1e9:.2f} |")
    shutil.rmtree(folder / "out")
    return seconds


def counts(folder: Path) -> tuple[int, int]:
    """Rows in and out, from the pool's manifest or, for `datasets`, from what it printed."""
    manifest = folder / "out" / "manifest.json"
    if manifest.is_file():
        sources = json.loads(manifest.read_text("utf-8"))["sources"].values()
        return sum(facts["rows_in"] for facts in sources), sum(facts["rows_out"] for facts in sources)
    lines = (line.split() for line in (folder / "log").read_text("utf-8").splitlines())
    found = [(int(words[1]), int(words[2])) for words in lines if len(words) == 3 and words[0] in SOURCES]
    return sum(rows for rows, _ in found), sum(rows for _, rows in found)


def memory(pid: int) -> int:
    """Proportional set size of a process and its descendants, bytes: shared pages count once."""
    total = 0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return total


if __name__ == "__main__":
    sys.exit(main())
