"""`crossthink prep`: sources, steps, pool."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf

from conf.prep import PrepConfig
from conf.reward import ServeRewardConfig
from crossthink.errors import ConfigError, UserError
from data_prep import card, exports, manifest, tables, tokens
from data_prep.benchmarks import BENCHMARKS, find_benchmarks, read_items
from data_prep.decontaminate import Index
from data_prep.dedup import NearDedup
from data_prep.files import SUFFIXES, data_files, read_blocks
from data_prep.golds import GoldJudge
from data_prep.hub import fetch
from data_prep.pool import Pool, rows_file, write_manifest
from data_prep.progress import Progress
from data_prep.source_run import Rows, Seen, collect, draw_sample, drop_bad_golds, drop_duplicates, remember, write_rows
from data_prep.sources import SOURCES, get_source
from data_prep.sources.base import Source, allows_commercial, strictest_licence
from data_prep.staging import Staging, staging
from data_prep.steps import Tally
from data_prep.templates import load_prompts
from data_prep.tokens import PromptMeter
from data_prep.workers import Job, Workers

# An option that takes one of a few words: key, allowed values.
CHOICES = {
    "question_template": ("mixed", "open", "mcq"),
    "answer_template": ("long", "short"),
    "licence": ("any", "commercial"),
    "bad_rows": ("stop", "drop"),
}
INDEX = ".benchmarks.npz"
CONTAMINATED = "contaminated.jsonl"
DROPPED = "dropped.jsonl"
CARD = "card.html"
EXPORTS_FOLDER = "exports"


@dataclasses.dataclass(frozen=True)
class Input:
    """A chosen source and where its rows lie. `revision` is a commit on the hub, or None for local files."""

    source: Source
    files: list[Path]
    revision: str | None
    limit: int | None
    sample: int | None

    def identity(self) -> str:
        """What this source's rows depend on, as text: a changed file, however alike, is another input."""
        files = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in self.files]
        return json.dumps([self.source.name, self.source.licence, files, self.revision, self.limit, self.sample])


def run(config: PrepConfig, dry_run: bool = False) -> None:
    """Make the pool and print what became of the rows; or only say what would be read and written.

    Raises:
        ConfigError: an impossible configuration, before anything is read.
        UserError: see `make_pool`.
    """
    if dry_run:
        check(config)
        tables.print_plan(config, {name: _local_files(config, name) for name in chosen_sources(config)})
        return
    tallies = make_pool(config)
    pool = Pool.open(config.out, verify=False)
    tables.print_rows(pool.path, tallies)
    tables.print_notes(pool)


def make_pool(config: PrepConfig) -> dict[str, Tally]:
    """Take every source through the steps and write the pool's folder.

    Returns:
        What became of every source's rows.

    Raises:
        ConfigError: an impossible configuration, before anything is read.
        UserError: unreadable data, or a source none of whose rows is left. Finished sources are kept for the same
            command; nothing else stays behind.
    """
    check(config)
    out = Path(config.out)
    with Progress() as progress, staging(out) as state:
        inputs = [_input(config, name) for name in chosen_sources(config)]
        state.take_up(_run_identity(config), {one.source.name: one.identity() for one in inputs})
        benchmarks = _build_index(config, state.folder / INDEX, progress)
        _prepare_sources(config, inputs, state, progress)
        tallies = {name: Tally.from_json(facts["tally"]) for name, facts in state.finished.items()}
        _write_lists(state, tallies)
        facts = manifest.build(config, state.finished, tallies, benchmarks)
        counts = {name: found["rows"] for name, found in state.finished.items()}
        write_manifest(state.folder, counts, facts)
        pool = Pool.open(state.folder, verify=False)  # hashed just now
        if config.export:
            facts["exports"] = exports.write_exports(pool, config.export, state.folder / EXPORTS_FOLDER)
            write_manifest(state.folder, counts, facts)
        (state.folder / CARD).write_text(card.page(pool, tallies, out.name), "utf-8")
        state.commit(out)
    return tallies


def chosen_sources(config: PrepConfig) -> list[str]:
    """The names of the sources to read: those of `sources` that `licence` allows."""
    if config.licence == "any":
        return list(config.sources)
    return [name for name in config.sources if allows_commercial(_source(config, name).licence)]


def check(config: PrepConfig) -> None:
    """Refuse an impossible configuration, naming the key, the value and what is allowed.

    Raises:
        ConfigError: see above.
    """
    if not config.sources:
        raise ConfigError(f"sources= is empty. Give one or more of {', '.join(SOURCES)}, such as sources=[math].")
    if manifest.plain(config)["out"] in ("", MISSING):
        raise ConfigError("out= is missing: the folder that the pool is to be written to.")
    if Path(config.out).exists():
        raise ConfigError(f"out={config.out} already exists, and a pool is written once. Choose another out=.")
    tree = OmegaConf.create(manifest.plain(config))
    for key, allowed in CHOICES.items():
        value = OmegaConf.select(tree, key)
        if value not in allowed:
            raise ConfigError(f"{key}={value} is not allowed. Allowed: {', '.join(allowed)}.")
    for key, value, low, high in (
        ("filters.max_answer_words", config.filters.max_answer_words, 1, 10_000),
        ("prompts.max_tokens", config.prompts.max_tokens, 1, 10_000_000),
        ("workers", 1 if config.workers is None else config.workers, 1, 1024),
        ("dedup.threshold", config.dedup.threshold, 0.01, 1.0),
        ("decontaminate.coverage", config.decontaminate.coverage, 0.01, 1.0),
        ("seed", config.seed, 0, 2**63 - 1),
    ):
        if not low <= value <= high:
            raise ConfigError(f"{key}={value} is not allowed. Allowed: {low} to {high}.")
    levels = config.filters.math_levels
    if levels is not None and (not levels or not set(levels) <= set(range(1, 6))):
        raise ConfigError(f"filters.math_levels={list(levels)} is not allowed. Allowed: null or some of 1 to 5.")
    exports.check_names(config.export)
    _check_prompts(config)
    if config.decontaminate.path is not None:
        find_benchmarks(config.decontaminate.path)
    for name in config.sources:
        _check_source(config, name)
    if not chosen_sources(config):
        raise ConfigError("licence=commercial leaves no source: none of those in sources= allows commercial use.")


def _check_prompts(config: PrepConfig) -> None:
    system = load_prompts(config.prompts.folder).system
    if config.prompts.tokenizer is not None:
        messages = [{"role": "system", "content": system}] if system else []
        meter = PromptMeter(config.prompts.tokenizer, config.prompts.max_tokens)
        meter.count([[*messages, {"role": "user", "content": "?"}]])  # a template may refuse a system message


def _check_source(config: PrepConfig, name: str) -> None:
    source, chosen = _source(config, name), config.sources[name]
    try:
        strictest_licence([source.licence])
    except UserError as error:
        raise ConfigError(f"sources.{name}.licence: {error}") from error
    if chosen.path is not None and not Path(chosen.path).exists():
        raise ConfigError(
            f"sources.{name}.path={chosen.path} does not exist. Give a file or folder ({', '.join(SUFFIXES)}), or none "
            f"to download {source.hf_id}."
        )
    for key in ("limit", "sample"):
        value = getattr(chosen, key)
        if value is not None and value < 1:
            raise ConfigError(f"sources.{name}.{key}={value} is not allowed. Allowed: 1 or more, or null (all).")


def _source(config: PrepConfig, name: str) -> Source:
    source, licence = get_source(name), config.sources[name].licence
    return source if licence is None else dataclasses.replace(source, licence=licence)


def _local_files(config: PrepConfig, name: str) -> list[Path]:
    path = config.sources[name].path
    return [] if path is None else data_files(path)


def _input(config: PrepConfig, name: str) -> Input:
    source, chosen = _source(config, name), config.sources[name]
    if chosen.path is not None:
        return Input(source, data_files(chosen.path), None, chosen.limit, chosen.sample)
    fetched = fetch(source, chosen.revision)
    return Input(source, fetched.files, fetched.revision, chosen.limit, chosen.sample)


def _run_identity(config: PrepConfig) -> str:
    """What every source's rows depend on besides itself and the sources before it, as text."""
    plain = manifest.plain(config)
    for key in ("out", "workers", "export", "sources", "licence", "recipe"):
        del plain[key]
    benchmarks = []
    if config.decontaminate.path is not None:
        found = find_benchmarks(config.decontaminate.path)
        files = (file for name, paths in found.items() for path in paths for file in BENCHMARKS[name].local_files(path))
        benchmarks = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    prompts = load_prompts(config.prompts.folder).describe()
    tokenizer = tokens.describe(config.prompts.tokenizer)
    return json.dumps([plain, manifest.versions(), prompts, tokenizer, benchmarks], sort_keys=True)


def _build_index(config: PrepConfig, path: Path, progress: Progress) -> dict[str, Any]:
    """Index the benchmarks into `path`. Returns what the manifest says of them."""
    if config.decontaminate.path is None:
        return manifest.no_benchmarks()
    found = find_benchmarks(config.decontaminate.path)
    with progress.task("benchmarks") as advance:
        index = Index.build(_counted(read_items(found), advance), config.decontaminate.coverage)
    index.save(path)
    return manifest.benchmarks(found, index.counts())


def _counted(items: Any, advance: Any) -> Any:
    for item in items:
        advance(1)
        yield item


def _prepare_sources(config: PrepConfig, inputs: list[Input], state: Staging, progress: Progress) -> None:
    count = config.workers or os.cpu_count() or 1
    job = Job(
        filters=config.filters,
        question_template=config.question_template,
        answer_template=config.answer_template,
        prompts=config.prompts.folder,
        skip_bad_rows=config.bad_rows == "drop",
        index=None if config.decontaminate.path is None else state.folder / INDEX,
        tokenizer=config.prompts.tokenizer,
        max_prompt_tokens=config.prompts.max_tokens,
        with_keys=config.dedup.exact or any(one.sample is not None for one in inputs),
        with_signatures=config.dedup.near,
    )
    seen = Seen(
        exact=set() if config.dedup.exact else None,
        near=NearDedup(config.dedup.threshold) if config.dedup.near else None,
    )
    with (
        Workers(count, job) as workers,
        GoldJudge(count, ServeRewardConfig().deadline_s) as judge,
        # One thread: a source is written while the next one is read, and they are finished in their order.
        ThreadPoolExecutor(1) as writer,
    ):
        writing: Future[None] | None = None
        for one in inputs:
            name = one.source.name
            if name in state.finished:
                seen.load(state.folder, name)
                progress.note(f"{name}: taken up from the unfinished run, {state.finished[name]['rows']:,} rows")
                continue
            with contextlib.ExitStack() as stack:
                scratch = stack.enter_context(state.scratch(name))
                rows, tally = _select_rows(config, one, scratch, workers, judge, seen, progress)
                if writing is not None:
                    writing.result()
                writing = writer.submit(_write_source, one, state, rows, tally, seen, stack.pop_all())
        if writing is not None:
            writing.result()


def _select_rows(
    config: PrepConfig,
    one: Input,
    scratch: Path,
    workers: Workers,
    judge: GoldJudge,
    seen: Seen,
    progress: Progress,
) -> tuple[Rows, Tally]:
    """Every step for one source; its text waits in `scratch`."""
    name, tally = one.source.name, Tally()
    blocks = read_blocks(one.files, one.limit, one.source.unread)
    with progress.task(name) as advance:
        rows = collect(workers.prepare(one.source, blocks, scratch), tally, advance)
    if rows.golds:
        with progress.task(f"{name}: ground truths") as advance:
            drop_bad_golds(rows, judge, advance)
    drop_duplicates(rows, seen)
    draw_sample(rows, one.sample, config.seed)
    remember(rows, seen)
    return rows, tally


def _write_source(
    one: Input, state: Staging, rows: Rows, tally: Tally, seen: Seen, scratch: contextlib.ExitStack
) -> None:
    """Write the rows that are left, and mark the source finished with what a resumed run and the manifest need."""
    name = one.source.name
    with scratch:
        written = write_rows(rows, state.folder / rows_file(name), name, tally)
    if not written:
        raise UserError(_nothing_left(one, tally))
    state.finish(
        name,
        {
            "files": [rows_file(name), *seen.dump(state.folder, name, rows)],
            "rows": written,
            "revision": one.revision,
            "licence": one.source.licence,
            "inputs": manifest.files(one.files),
            "contaminated": rows.contaminated,
            "tally": tally.to_json(),
        },
    )


def _nothing_left(one: Input, tally: Tally) -> str:
    name, where = one.source.name, ", ".join(map(str, one.files))
    if not tally.rows_in:
        return f"Source {name}: {where} has no rows."
    last = next(step for step in tally.counts() if not step["out"])
    reasons = ", ".join(f"{reason} ({n})" for step in tally.dropped.values() for reason, n in step.most_common())
    return (
        f"Source {name}: none of the {tally.rows_in} rows of {where} is left; the last went in step {last['step']}. "
        f"Dropped: {reasons}. No pool was written."
    )


def _write_lists(state: Staging, tallies: dict[str, Tally]) -> None:
    """What was taken out because a benchmark asks it, row by row; and some of what was dropped, for reading."""
    removed = (row for facts in state.finished.values() for row in facts["contaminated"])
    shown = (row for tally in tallies.values() for row in tally.shown)
    for name, rows in ((CONTAMINATED, removed), (DROPPED, shown)):
        with open(state.folder / name, "w", encoding="utf-8") as handle:
            handle.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
