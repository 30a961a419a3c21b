"""Throughput of `crossthink synth` on this machine's cores: to the endpoint's door, and in front of it.

    .venv/bin/python benchmarks/synth.py FOLDER [--articles 2000] [--kilobytes 40] [--tasks 2] [--solutions 8]

Writes a crawl into FOLDER: articles, and for every five of them about three records of everything else (other
languages, boilerplate, duplicates, what is no page), each page padded with scripts and links to about a real page's
size. Then a whole run with an endpoint that answers at once. The first table has the records a second of each stage
before the endpoint and of all of them; the second the calls, and the share of the time in which a task does nothing but
wait for the endpoint (counted by the task itself, see `calls/counters.py`; the lower bound of both its callers').
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPO = Path(__file__).parents[1]
sys.path.insert(0, str(REPO))
sys.path.append(str(REPO / "tests"))
STAGES = ("pages", "signatures", "buckets", "clusters", "questions", "rows")
BEFORE = STAGES[:4]


def main() -> int:
    """Run it and print two tables. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--articles", type=int, default=2000)
    parser.add_argument("--kilobytes", type=int, default=40, help="of a page's markup")
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--solutions", type=int, default=8)
    words = parser.parse_args()
    from recipes.machine import cpu_model

    words.folder.mkdir(parents=True)
    records, size = write_crawl(words.folder / "crawl", words.articles, words.kilobytes, words.tasks)
    print(f"{cpu_model()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before; {words.tasks} tasks; ", end="")
    print(f"{records:,} records, {size / 1e6:.1f} MB of gzipped WARC\n", flush=True)
    port_file = words.folder / "port"
    server = subprocess.Popen([sys.executable, str(REPO / "benchmarks" / "synth_server.py"), str(port_file)])
    try:
        while not port_file.is_file():
            assert server.poll() is None, "the endpoint does not start"
            time.sleep(0.05)
        out = words.folder / "out"
        seconds = run(out, f"http://127.0.0.1:{port_file.read_text()}/v1", words)
    finally:
        server.kill()
        server.wait()
    print_tables(out, records, seconds, words.tasks)
    return 0


def write_crawl(folder: Path, articles: int, kilobytes: int, files: int) -> tuple[int, int]:
    """One WARC file for each task, with every sort of record in each. Returns records and bytes."""
    import synth_world as world

    folder.mkdir()
    few = articles // 20
    different = world.articles(articles)
    others = [*world.foreign(2 * few), *world.boilerplate(few), *world.duplicates(different[:few]), *world.odd(few)]
    records = world.shuffled([*different, *others])
    script = (
        "<script>" + "window.dataLayer.push({'event':'view','section':'notes'});\n" * (kilobytes * 12) + "</script>"
    )
    links = "".join(
        f'<li class="menu-item item-{at}"><a href="/{at}">Section {at}</a></li>' for at in range(kilobytes * 2)
    )
    menu = f"<nav class=menu><ul>{links}</ul></nav>"
    size = 0
    for number in range(files):
        padded = [pad(one, script, menu) for one in records[number::files]]
        data = world.warc(padded)
        (folder / f"crawl-{number:05d}.warc.gz").write_bytes(data)
        size += len(data)
    return len(records), size


def pad(record: Any, script: str, menu: str) -> Any:
    """The same page with what surrounds the text of real ones."""
    from dataclasses import replace

    body = record.body.replace(b"</head>", script.encode() + b"</head>").replace(b"<nav>", menu.encode() + b"<nav>")
    return replace(record, body=body)


def run(out: Path, url: str, words: argparse.Namespace) -> dict[str, float]:
    """`crossthink synth` to its end. Returns the seconds of each stage, its processes' start included."""
    calls = [f"{group}.{key}" for group in ("writer", "solver") for key in (f"endpoint={url}", "json=schema")]
    command = [
        *(sys.executable, "-m", "recipes.cli", "synth", f"out={out}", f"crawl.path={words.folder / 'crawl'}"),
        *(*calls, f"tasks={words.tasks}", f"workers={words.tasks}", f"vote.solutions={words.solutions}"),
    ]
    began: dict[str, float] = {}
    with subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        told = []
        for line in process.stderr:
            told.append(line)
            if line.startswith("synth: stage "):
                began[line.split()[2].rstrip(",")] = time.perf_counter()
        ended = time.perf_counter()
    if process.returncode:
        raise SystemExit("".join(told[-20:]))
    times = [*began.values(), ended]
    return {stage: times[at + 1] - times[at] for at, stage in enumerate(began)}


def print_tables(out: Path, records: int, seconds: dict[str, float], tasks: int) -> None:
    """What was measured."""
    routing = sum(step["time_stats"]["total"] for step in steps(out, "questions", "Subject")) / tasks
    print("| stage | s | records/s |\n|---|---|---|")
    for stage in BEFORE:
        print(f"| {stage} | {seconds[stage]:.1f} | {records / seconds[stage]:,.0f} |")
    door = sum(seconds[stage] for stage in BEFORE) + routing
    print(f"| subjects, in each task | {routing:.1f} | {records / routing:,.0f} |")
    print(f"| **to the endpoint's door** | {door:.1f} | **{records / door:,.0f}** |\n")
    writing = steps(out, "questions", "Questions and votes")
    counts = [step["stats"] for step in writing]
    calls = sum(total(one, f"{purpose}_calls") for one in counts for purpose in ("question", "solution"))
    documents = sum(total(one, "total") for one in counts)
    waiting = sum(max(total(one, f"{purpose}_waiting_s") for purpose in ("question", "solution")) for one in counts)
    stage = seconds["questions"]
    print(
        "| documents | calls | s | documents/s | calls/s | share of the time spent waiting |\n|---|---|---|---|---|---|"
    )
    rates = f"{documents / stage:,.1f} | {calls / stage:,.0f}"
    print(f"| {documents:,.0f} | {calls:,.0f} | {stage:.1f} | {rates} | {waiting / (stage * tasks):.0%} |")


def steps(out: Path, stage: str, name: str) -> list[dict[str, Any]]:
    """The statistics of a step, one of each task."""
    found = []
    for path in sorted((out / "logs" / stage / "stats").glob("*.json")):
        found += [step for step in json.loads(path.read_text("utf-8")) if step["name"].endswith(f": {name}")]
    return found


def total(stats: dict[str, Any], label: str) -> float:
    """A count as datatrove writes it."""
    value = stats.get(label, 0)
    return value["total"] if isinstance(value, dict) else value


if __name__ == "__main__":
    sys.exit(main())
