"""The rows of a pool in the shapes that other trainers load: verl, NeMo-RL, TRL, OpenRLHF.

An export has every row once, in the pool's order, and no blend: these trainers take weights per file, if at all. Each
shape hands the reward function what the CrossThink reward needs of a question. Where the trainer passes on a single
string, that is `reward_item`; TRL passes whole columns.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from crossthink.errors import ConfigError, UserError, did_you_mean
from crossthink.files import atomic_file, sha256_file
from data_prep.pool import Pool
from data_prep.rows import PoolRow

EXPORT_VERSION = 1  # rises with every change of a shape below; goes into the manifest
GROUP_ROWS = 4096  # rows of a Parquet row group

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
VERL_SCHEMA = pa.schema(
    [
        ("data_source", pa.string()),
        ("prompt", _MESSAGES),
        ("ability", pa.string()),
        ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
        (
            "extra_info",
            pa.struct(
                [
                    ("split", pa.string()),
                    ("index", pa.int64()),
                    ("id", pa.string()),
                    ("kind", pa.string()),
                    ("question", pa.string()),
                ]
            ),
        ),
    ]
)
TRL_SCHEMA = pa.schema(
    [
        ("prompt", _MESSAGES),
        ("kind", pa.string()),
        ("ground_truth", pa.list_(pa.string())),
        ("options", pa.list_(pa.struct([("label", pa.string()), ("text", pa.string())]))),
        ("id", pa.string()),
        ("source", pa.string()),
        ("domain", pa.string()),
    ]
)


def reward_item(row: PoolRow) -> str:
    """What the reward needs of a question, as a JSON object: `kind`, `ground_truth` (a list), `options` (or null).

    With `id` and `response` added it is an item of the reward server's `/v1/score`.
    """
    item = {"kind": row.kind, "ground_truth": row.ground_truth, "options": row.options}
    return json.dumps(item, ensure_ascii=False)


def to_verl(row: PoolRow, index: int, split: str = "train") -> dict[str, Any]:
    """verl's five columns, as `VERL_SCHEMA`.

    `reward_model.ground_truth` is `reward_item`: verl calls `compute_score(data_source, solution_str, ground_truth,
    extra_info)`. `data_source` has the prefix `crossthink/`, since verl judges some bare names, `math` among them, by
    rules of its own; a run must therefore set `reward.custom_reward_function`, and one without stops at the first row.
    """
    return {
        "data_source": f"crossthink/{row.source}",
        "prompt": row.prompt,
        "ability": row.domain,
        "reward_model": {"style": "rule", "ground_truth": reward_item(row)},
        "extra_info": {"split": split, "index": index, "id": row.id, "kind": row.kind, "question": row.question},
    }


def to_nemo_rl(row: PoolRow, index: int, split: str = "train") -> dict[str, Any]:
    """The fields of NeMo-RL's `ResponseDataset`: `input`, the user's message, and `output`, the ground truth.

    `output` is `reward_item`; the processor `math_hf_data_processor` passes it on, and an environment finds it as
    `metadata["ground_truth"]`. The system message is no part of a row: NeMo-RL reads it from `system_prompt_file`, and
    `write_exports` writes that file. Other fields are for people; `ResponseDataset` drops them.

    Raises:
        UserError: the prompt is not one user message, with or without a system message before it.
    """
    if [message["role"] for message in row.prompt] not in (["user"], ["system", "user"]):
        raise UserError(
            f"export=nemo_rl: row {row.id} of {row.source} has the roles "
            f"{', '.join(message['role'] for message in row.prompt) or 'of no message'}. NeMo-RL's ResponseDataset "
            "takes one user message, with or without a system message before it."
        )
    return {"input": row.prompt[-1]["content"], "output": reward_item(row), "id": row.id, "source": row.source}


def to_trl(row: PoolRow, index: int, split: str = "train") -> dict[str, Any]:
    """TRL's conversational prompt-only shape, as `TRL_SCHEMA`.

    `GRPOTrainer` hands a reward function every column but `prompt` by its name: `f(completions, kind, ground_truth,
    options, **rest)`, each a list with one entry a completion.
    """
    options = row.options
    return {
        "prompt": row.prompt,
        "kind": row.kind,
        "ground_truth": row.ground_truth,
        "options": None if options is None else [{"label": label, "text": text} for label, text in options.items()],
        "id": row.id,
        "source": row.source,
        "domain": row.domain,
    }


def to_openrlhf(row: PoolRow, index: int, split: str = "train") -> dict[str, Any]:
    """OpenRLHF's `input` (chat messages) and `label`, for `--data.input_key input --data.label_key label
    --data.apply_chat_template`.

    `label` is `reward_item`, and what `reward_func(queries, prompts, labels)` or `/get_reward` receives. `datasource`
    is the key by which OpenRLHF keeps evaluation scores apart.
    """
    return {"input": row.prompt, "label": reward_item(row), "datasource": row.source, "id": row.id}


Add = Callable[[PoolRow, int], None]


def check_names(names: Sequence[str]) -> None:
    """Refuse a name that is not in EXPORTS.

    Raises:
        ConfigError: see above; the message lists the names.
    """
    for name in names:
        if name not in EXPORTS:
            raise ConfigError(f"export: no shape '{name}'. Allowed: {', '.join(EXPORTS)}.{did_you_mean(name, EXPORTS)}")


def write_exports(pool: Pool, names: Sequence[str], folder: Path) -> dict[str, dict[str, Any]]:
    """Write `folder/NAME/train.parquet` or `train.jsonl` for every one of `names`, in a single pass over the pool.

    Each file appears whole or not at all, and the same pool gives the same bytes.

    Returns:
        For the manifest, by name: `version`, `rows`, and `files` with bytes and SHA-256 by file name.

    Raises:
        ConfigError: an unknown name, before anything is written.
        UserError: a row that a shape cannot hold, or no space left.
    """
    check_names(names)
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(EXPORTS[name](folder / name)) for name in dict.fromkeys(names)]
        for index, row in enumerate(pool.rows()):
            for add in writers:
                add(row, index)
    return {name: _facts(folder / name, len(pool)) for name in dict.fromkeys(names)}


@contextlib.contextmanager
def _parquet(path: Path, schema: pa.Schema, shape: Callable[[PoolRow, int], dict[str, Any]]) -> Iterator[Add]:
    with atomic_file(path, "wb") as handle, pq.ParquetWriter(handle, schema, compression="zstd") as writer:
        rows: list[dict[str, Any]] = []

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            rows.clear()

        def add(row: PoolRow, index: int) -> None:
            rows.append(shape(row, index))
            if len(rows) == GROUP_ROWS:
                flush()

        yield add
        if rows:
            flush()


@contextlib.contextmanager
def _jsonl(path: Path, shape: Callable[[PoolRow, int], dict[str, Any]]) -> Iterator[Add]:
    with atomic_file(path) as handle:

        def add(row: PoolRow, index: int) -> None:
            handle.write(json.dumps(shape(row, index), ensure_ascii=False) + "\n")

        yield add


@contextlib.contextmanager
def _nemo_rl(folder: Path) -> Iterator[Add]:
    """`train.jsonl`, and `system.txt` with the system message that all rows share."""
    system: set[str | None] = set()
    with _jsonl(folder / "train.jsonl", to_nemo_rl) as write:

        def add(row: PoolRow, index: int) -> None:
            write(row, index)
            system.add(row.prompt[0]["content"] if row.prompt[0]["role"] == "system" else None)
            if len(system) > 1:
                raise UserError(
                    f"export=nemo_rl: row {row.id} of {row.source} has another system message than the rows before it. "
                    "NeMo-RL takes one for a whole file."
                )

        yield add
    text = next(iter(system), None)
    if text is not None:
        with atomic_file(folder / "system.txt") as handle:
            handle.write(text)


# A writer of each shape: given the export's folder, a context in which rows are added in order, with their number.
EXPORTS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Add]]] = {
    "verl": lambda folder: _parquet(folder / "train.parquet", VERL_SCHEMA, to_verl),
    "nemo_rl": _nemo_rl,
    "trl": lambda folder: _parquet(folder / "train.parquet", TRL_SCHEMA, to_trl),
    "openrlhf": lambda folder: _jsonl(folder / "train.jsonl", to_openrlhf),
}


def _facts(folder: Path, rows: int) -> dict[str, Any]:
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
        for file in sorted(folder.iterdir())
        if not file.name.startswith(".")
    }
    return {"version": EXPORT_VERSION, "rows": rows, "files": files}
