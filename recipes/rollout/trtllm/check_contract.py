"""Holds a TensorRT-LLM source tree to the signatures that this binding calls.

    python -m recipes.rollout.trtllm.check_contract TREE                # each difference with file:line
    python -m recipes.rollout.trtllm.check_contract TREE --write        # write contract.json from the tree

TREE is a checkout of TensorRT-LLM, or a folder with its package `tensorrt_llm` (of an installed wheel: its
site-packages), or with some of its files. It is only read, never imported.

Exit codes: 0 all equal, 1 differences, 2 no tree, 3 no difference, but names whose files the tree does not have.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from crossthink.errors import UserError
from recipes.rollout.trtllm import contract as contracts
from recipes.rollout.trtllm.source_tree import SourceTree
from recipes.rollout.trtllm.wanted import PIN

DIFFERENT, NO_TREE, UNCOVERED = 1, 2, 3


def main(words: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path, help="TensorRT-LLM's sources")
    parser.add_argument("--write", action="store_true", help="make the contract from the tree instead")
    parser.add_argument("--contract", type=Path, default=contracts.FILE, help="another contract.json")
    given = parser.parse_args(words)
    try:
        tree = SourceTree(given.tree)
        if given.write:
            entries = contracts.from_tree(tree, contracts.Source("NVIDIA/TensorRT-LLM", "", commit_of(given.tree)))
            contracts.dump(entries, given.contract)
            print(f"{len(entries)} signatures written to {given.contract}.")
            return 0
        return report(tree, contracts.load(given.contract))
    except UserError as error:
        print(error, file=sys.stderr)
        return NO_TREE


def report(tree: SourceTree, contract: dict[str, contracts.Entry]) -> int:
    """Print a table of every name, and what differs. Returns the exit code."""
    found, absent = list(contracts.differences(tree, contract)), set(contracts.uncovered(tree))
    wrong = {one.name for one in found}
    states = dict.fromkeys(wrong, "differs") | dict.fromkeys(absent, "not in this tree")
    print("| name | what we use | file | |\n|---|---|---|---|")
    for entry in contract.values():
        row = contracts.to_row(entry)
        print(f"| {row['name']} | {row['parts']} | {row['file']} | {states.get(entry.name, 'equal')} |")
    for one in found:
        print(f"{one.at}: {one.name}: {one.what}")
    equal = len(contract.keys() - states.keys())
    print(
        f"{equal} of {len(contract)} names as in TensorRT-LLM {PIN}'s contract, {len(wrong)} differ, "
        f"{len(absent)} not in this tree."
    )
    return DIFFERENT if found else UNCOVERED if absent else 0


def commit_of(folder: Path) -> str:
    """The commit of a git checkout; "unknown" for any other folder."""
    words = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


if __name__ == "__main__":
    sys.exit(main())
