"""The end of a run: duplicates and benchmark questions go, and the rows are written."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.typeshelper import StatHints

from conf.synth import SynthConfig
from crossthink.files import atomic_file, write_json
from data_prep.benchmarks import find_benchmarks, read_items
from data_prep.decontaminate import Index
from data_prep.dedup import NearDedup, exact_key, signatures
from data_prep.rows import Drop, Question
from data_prep.sources import SOURCES

SOURCE = {"qa": "syn_qa", "math": "personaskill_math"}
"""Whose schema the rows have; the file of rows is called so."""
CONTAMINATED = "contaminated.jsonl"
BATCH = 1024


class Rows(PipelineStep):
    """Keeps questions that are neither duplicates nor a benchmark's, and writes their rows.

    Args:
        config: of the run.
        questions: folder with what the stage before wrote.
    """

    type, name = "💾 - WRITER", "Rows"

    def __init__(self, config: SynthConfig, questions: str) -> None:
        super().__init__()
        self.config, self.questions = config, questions

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """See `PipelineStep.run`. One task does all."""
        yield from data or ()
        out, config = Path(self.config.out), self.config
        name = SOURCE[config.kind]
        index = None
        if config.decontaminate.path is not None:
            found = find_benchmarks(config.decontaminate.path)
            index = Index.build(read_items(found), config.decontaminate.coverage)
        removed: list[dict[str, Any]] = []
        with atomic_file(out / f"{name}.jsonl", "wb") as file:
            for row, reason, facts in keep(self._read(), name, index, config):
                self.stat_update(StatHints.total)
                if reason is None:
                    self.stat_update(StatHints.forwarded)
                    file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
                else:
                    self.stat_update(StatHints.dropped, f"{StatHints.dropped}_{reason}")
                    removed += [facts] if facts else []
        with atomic_file(out / CONTAMINATED) as lines:
            lines.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in removed)
        write_json(out / "benchmarks.json", index.counts() if index is not None else {})

    def _read(self) -> Iterator[dict[str, Any]]:
        for path in sorted(Path(self.questions).glob("*.jsonl")):
            with path.open("rb") as lines:
                for line in lines:
                    yield orjson.loads(line)["metadata"]["row"]


def keep(
    rows: Iterator[dict[str, Any]], name: str, index: Index | None, config: SynthConfig
) -> Iterator[tuple[dict[str, Any], str | None, dict[str, Any] | None]]:
    """Each row with why it is dropped, or None; of a benchmark's question what may be said of it, too."""
    seen: set[bytes] = set()
    near = NearDedup(config.dedup.threshold) if config.dedup.near else None
    while batch := list(itertools.islice(rows, BATCH)):
        questions = [_question(row, name) for row in batch]
        hits = index.find(questions) if index is not None else [None] * len(batch)
        reasons: list[str | None] = []
        for question, hit in zip(questions, hits, strict=True):
            key = exact_key(question)
            repeated = config.dedup.exact and key in seen
            reasons.append("exact_duplicate" if repeated else f"in_{hit.benchmark}" if hit else None)
            if reasons[-1] is None:
                seen.add(key)
        if near is not None:
            left = [at for at, reason in enumerate(reasons) if reason is None]
            for at, earlier in zip(left, near.keep(signatures([questions[at] for at in left])), strict=True):
                reasons[at] = None if earlier is None else "near_duplicate"
        for row, reason, hit in zip(batch, reasons, hits, strict=True):
            facts = None
            if hit is not None and reason is not None and reason.startswith("in_"):
                facts = {"benchmarks": list(hit.benchmarks), "item": hit.item, "how": hit.how, "span": hit.span}
                if not hit.private:  # no question of a private benchmark may be published
                    facts["question"] = row["meta_data"]["question"]
            yield row, reason, facts


def letters(path: Path) -> Counter[str]:
    """How often each label is right, of rows in Syn-QA's schema: a sound vote has no favourite."""
    with path.open("rb") as lines:
        return Counter(orjson.loads(line)["reward_model"]["ground_truth"].partition(":")[0] for line in lines)


def _question(row: dict[str, Any], name: str) -> Question:
    found = SOURCES[name].parse(row)
    assert not isinstance(found, Drop), f"a row that {name} does not read: {found.reason}"
    return found
