"""Every benchmark, one after the other, and what each printed beside its command, date, commit and machine.

    .venv/bin/python benchmarks/all.py OUT [--only NAME ...] [--samples FOLDER] [--list]

OUT/NAME.md is one benchmark's page. One whose page is of this code (since its commit only documents, tests and scripts
of other pages have changed) is not run again: the command goes on where it was stopped. Some hours on two cores, which
nothing else should use meanwhile: the load before each is on its page. Working files lie in a temporary folder.
`--samples` has small real files of the sources and benchmarks, which two of them read. The exit code is 1 where a
benchmark failed or missed its own target; the others are run all the same.

Not among them, as they need a GPU: gpu_check.py, gpu_rollout.py.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

REPO = Path(__file__).parents[1]
sys.path.insert(0, str(REPO))

WORK, SAMPLES = "{work}", "{samples}"
BENCHMARKS: dict[str, tuple[str, ...]] = {
    "reward_accuracy": ("reward_accuracy.py",),
    "head": ("head.py",),
    "import_memory": ("import_memory.py", WORK),
    "plan_published": ("plan_published.py", "--phases", "--fit"),
    "scale": ("scale.py", "--picture", "docs/scale.png"),
    "scale_what_if": ("scale.py", "--what-if"),
    "synth": ("synth.py", WORK),
    "synth_routing": ("synth_routing.py", SAMPLES),
    "prep": ("prep.py", WORK),
    "prep_real": ("prep_real.py", SAMPLES, WORK),
    "reward_server": ("reward_server.py",),
    "plan_memory": ("plan_memory.py",),
    "rollout": ("rollout.py",),
    "step": ("step.py",),
    "scale_checked": ("scale_checked.py",),
    "demo": ("demo.py", WORK, "0", "1", "2"),
    "demo_ppo": ("demo.py", WORK, "0", "algorithm=ppo"),
    "options": ("options.py", WORK),
    "slurm_faults": ("slurm_faults.py", WORK),
}
"""Pages, and the command of each; the quick ones first."""
CODE = (".", ":!*.md", ":!docs", ":!tests", ":!benchmarks/all.py")
"""What figures depend on, as git's pathspecs."""


def main() -> int:
    """Run what has no page yet. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the pages")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME")
    parser.add_argument("--samples", type=Path, help="folder of small real files; without it two are left out")
    parser.add_argument("--list", action="store_true", help="only print the commands")
    words = parser.parse_args()
    changed = git("status", "--porcelain", "-uno", "--", *CODE)
    commit = git("rev-parse", "--short", "HEAD") + ("-changed" if changed else "")
    words.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in words.only:
        script, *rest = BENCHMARKS[name]
        command = [f"benchmarks/{script}", *rest]
        if words.list:
            print(" ".join(command))
        elif SAMPLES in command and words.samples is None:
            print(f"{name}: left out, it reads --samples", flush=True)
        elif is_current(page := words.out / f"{name}.md", script):
            print(f"{name}: {page} is of this code", flush=True)
        else:
            print(f"{name}: begins at {datetime.now():%H:%M:%S}", flush=True)
            code = run(name, command, words.samples, page, commit)
            failed += [name] * (code != 0)
            print(f"{name}: exit code {code}", flush=True)
    if failed:
        print(f"failed or missed a target: {', '.join(failed)}")
    return 1 if failed else 0


def is_current(page: Path, script: str) -> bool:
    """Whether this page is of the code that stands here: only documents, tests, others' scripts changed since then."""
    found = re.search(r"commit (\w+),", page.read_text("utf-8")) if page.is_file() else None
    if found is None:
        return False
    others = [f":!benchmarks/{other}" for other, *_ in BENCHMARKS.values() if other != script]
    changed = subprocess.run(["git", "diff", "--quiet", found[1], "--", *CODE, *others], cwd=REPO, capture_output=True)
    return changed.returncode == 0


def run(name: str, command: list[str], samples: Path | None, page: Path, commit: str) -> int:
    """One benchmark to its page, which appears when it has ended. Returns its exit code."""
    from crossthink.files import atomic_file
    from recipes.machine import cpu_model

    load, began, day = os.getloadavg()[0], time.monotonic(), datetime.now(timezone.utc)
    with tempfile.TemporaryDirectory(prefix=f"benchmark-{name}-") as folder:
        places = {WORK: str(Path(folder) / "work"), SAMPLES: str(samples)}
        done = subprocess.run(
            [sys.executable, *(places.get(word, word) for word in command)],
            cwd=REPO, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
        )  # fmt: skip
    facts = (
        f"`.venv/bin/python {' '.join(command)}`; {day:%Y-%m-%d}, commit {commit}, {cpu_model()}, {os.cpu_count()} "
        f"cores, load {load:.2f} before; {time.monotonic() - began:,.0f} s, exit code {done.returncode}."
    )
    with atomic_file(page) as handle:
        handle.write(f"# {name}\n\n{facts}\n\n{done.stdout.strip()}\n")
    return done.returncode


def git(*words: str) -> str:
    """What git says, in one line."""
    return subprocess.run(["git", *words], cwd=REPO, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
