"""What the study is made on: the demo's generated questions under three templates, and base policies that know them."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from conf.prep import FilterConfig, PrepConfig, PromptConfig, SourceConfig
from conf.sweep import StudyConfig
from conf.train import WarmStartConfig
from crossthink.errors import UserError
from crossthink.files import atomic_dir, atomic_file
from data_prep.demo.sources import BARE_PROMPTS, DEMO_LICENCE, write_demo_sources
from data_prep.demo.tasks import LABELS, TASKS
from data_prep.overlap import shared_questions
from data_prep.pool import Pool, SourceWriter, rows_file, write_manifest
from data_prep.rows import to_record_batch
from recipes.sweeping.arms import MIXED, OPEN, SHORT

SOURCES, HELD_OUT, SHOWN, WORKED = "sources", "held_out", "shown", "worked.jsonl"
# Pool: split, question template, answer template. What is asked of every arm has labels as ground truth, of which the
# reward server's rule takes label or description, as the paper's evaluation does.
POOLS = {
    MIXED: ("train", "mixed", "long"),
    OPEN: ("train", "open", "long"),
    SHORT: ("train", "mixed", "short"),
    HELD_OUT: ("held_out", "mixed", "short"),
}
# Of the rows of each source to train on. Sources of one size would make nd and open_up the same blend, and the paper's
# sizes (Table 1) nd and gpr_up.
TRAINED_SHARE = {
    "mmlu_train": 0.8, "syn_qa": 1.0, "natural_reasoning": 0.5, "numina_math": 0.9, "personaskill_math": 0.7,
    "math": 0.3,
}  # fmt: skip


def make_data(folder: Path, config: StudyConfig) -> None:
    """Write sources and pools, where they are missing.

    Raises:
        UserError: a held-out question also stands in a training pool.
    """
    from data_prep import prep

    if not (folder / SOURCES).is_dir():
        write_demo_sources(folder / SOURCES, config.data_seed, config.train_rows, config.held_out_rows)
    for name, (split, question_template, answer_template) in POOLS.items():
        rows = folder / SOURCES / split
        limits = {source: round(share * config.train_rows) for source, share in TRAINED_SHARE.items()}
        if not (folder / name).is_dir():
            prep.make_pool(
                PrepConfig(
                    out=str(folder / name),
                    sources={
                        source: SourceConfig(
                            path=str(rows / f"{source}.jsonl"),
                            licence=DEMO_LICENCE,
                            limit=None if name == HELD_OUT else limits[source],
                        )
                        for source in TASKS
                    },
                    question_template=question_template,
                    answer_template=answer_template,
                    filters=FilterConfig(math_levels=None),
                    prompts=PromptConfig(folder=str(BARE_PROMPTS)),
                    workers=1,
                    seed=config.data_seed,
                )
            )
    for name in (MIXED, OPEN, SHORT):
        shared = shared_questions(Pool.open(folder / name), Pool.open(folder / HELD_OUT))
        if shared:
            raise UserError(f"{len(shared)} held-out questions of {folder} also stand in its training pool {name}.")
    _write_shown(folder)


def make_base(folder: Path, data: Path, config: StudyConfig, seed: int, progress: Callable[[int, float], None]) -> None:
    """The base policy of a seed: a warm start on worked examples of all three forms, where it is missing."""
    if folder.is_dir():
        return
    from recipes import warm_start
    from recipes.quiet import quiet_libraries

    quiet_libraries()
    wanted = WarmStartConfig(steps=config.warm_start_steps)
    warm_start.make_base(folder, Pool.open(data / SHOWN), data / WORKED, wanted, seed, progress)


def _write_shown(folder: Path) -> None:
    """The questions of the warm start, multiple choice with options and without; and how they are answered."""
    if not (folder / SHOWN).is_dir():
        mixed, opened = Pool.open(folder / MIXED), Pool.open(folder / OPEN)
        with atomic_dir(folder / SHOWN) as aside:
            counts = {}
            for source in mixed.counts:
                is_choice = mixed.groups[source][1] == "mcq"
                rows = list(chain(mixed.rows(source), opened.rows(source) if is_choice else ()))
                with SourceWriter(aside / rows_file(source)) as writer:
                    writer.add(to_record_batch(rows))
                counts[source] = len(rows)
            write_manifest(aside, counts, {})
    if not (folder / WORKED).is_file():
        lines = (folder / SOURCES / WORKED).read_text("utf-8").splitlines()
        with atomic_file(folder / WORKED) as handle:
            handle.writelines(json.dumps(in_form(json.loads(line), at)) + "\n" for at, line in enumerate(lines))


def in_form(worked: dict[str, Any], at: int) -> dict[str, Any]:
    """A worked example in one of the forms that the study's templates ask for, in turn by its place `at`.

    A multiple-choice question is answered by label, by label and text, or without its options by text alone: so a base
    half-knows all three, and reinforcement learning has something to prefer under every template.
    """
    options = worked["options"]
    if options is None or at % 3 == 0:
        return worked
    texts = dict(zip(LABELS, options, strict=False))
    right, slip = (texts[worked[key]] for key in ("answer", "slip_answer"))
    if at % 3 == 1:
        long = {key: f"{worked[key]}. {texts[worked[key]]}" for key in ("answer", "slip_answer")}
        return {**worked, **long}
    head = worked["steps"].rsplit(" ", 1)[0]  # without the label, which the question does not show
    return {
        **worked,
        "options": None,
        "answer": right,
        "steps": head,
        "slip_answer": slip,
        "slip_steps": f"{head}, next {slip}",
    }
