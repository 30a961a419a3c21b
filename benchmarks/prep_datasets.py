"""The templating and filters of `crossthink prep`, written with Hugging Face `datasets`: what `prep.py` compares with.

    python benchmarks/prep_datasets.py SOURCES_FOLDER OUT NUM_PROC

Reads the same files, calls the same readers, filters and templates (batched `map`, `filter`), writes Parquet.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import datasets

from conf.prep import FilterConfig
from data_prep import filters, templates
from data_prep.rows import Question
from data_prep.sources import SOURCES, get_source

PROMPTS = templates.load_prompts()
FILTERS = FilterConfig()


def form(batch: dict[str, list[Any]], indices: list[int], source: str, file: Path) -> dict[str, list[Any]]:
    """Raw columns to pool columns; `keep` says what passes the filters."""
    names = list(batch)
    found: dict[str, list[Any]] = {"keep": [], "id": [], "kind": [], "question": [], "options": [], "ground_truth": [],
                                   "prompt": [], "meta": []}  # fmt: skip
    for index, values in zip(indices, zip(*batch.values(), strict=True), strict=True):
        question = get_source(source).convert(dict(zip(names, values, strict=True)), file, index + 1)
        keep = isinstance(question, Question) and filters.reason_against(question, FILTERS) is None
        found["keep"].append(keep)
        row = templates.render(question, PROMPTS, "long") if keep else None
        for name in ("id", "kind", "question", "ground_truth", "prompt", "meta"):
            found[name].append(getattr(row, name) if row else None)
        options = None if row is None or row.options is None else row.options.items()
        found["options"].append(None if options is None else [{"label": k, "text": v} for k, v in options])
    return found


def main() -> None:
    """Prepare every source one after another."""
    folder, out, processes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    out.mkdir(parents=True)
    for name in SOURCES:
        file = folder / f"{name}.jsonl"
        raw = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(out / "cache"))
        formed = raw.map(
            form, batched=True, with_indices=True, num_proc=processes, remove_columns=raw.column_names,
            fn_kwargs={"source": name, "file": file},
        )  # fmt: skip
        kept = formed.filter(lambda keep: keep, input_columns="keep", num_proc=processes)
        kept.remove_columns("keep").to_parquet(str(out / f"{name}.parquet"))
        print(name, len(raw), len(kept))


if __name__ == "__main__":
    main()
