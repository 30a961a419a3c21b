"""Reads what a run has dumped of its rollouts, line by line, and refuses what cannot be judged."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from conf.reward import RewardConfig, ShapingConfig
from crossthink.errors import ConfigError, UserError
from recipes.run_files import ROLLOUTS, rollout_file
from recipes.run_folder import CONFIG, MANIFEST
from reward_server import shaping
from reward_server.verdicts import Item, Verdict, show


@dataclass(frozen=True)
class Dumped:
    """One sample of a dump.

    Attributes:
        item: what is judged.
        old: the verdict that the run has got for it; None where the dump holds none.
    """

    step: int
    prompt_id: str
    sample: int
    item: Item
    old: Verdict | None


@dataclass(frozen=True)
class Dump:
    """What a run folder says of its rollouts and of how they were judged.

    Attributes:
        folder: the run folder.
        steps: the steps to read, in order.
        config: the run's config as it stands in the file; empty where there is none.
        facts: what the run's manifest says of data, model and rules; empty where there is none.
    """

    folder: Path
    steps: tuple[int, ...]
    config: dict[str, Any]
    facts: dict[str, Any]

    @classmethod
    def open(cls, folder: Path, steps: Sequence[int]) -> Dump:
        """The dump of these steps; of all that there are where none is given.

        Raises:
            ConfigError: there is no such folder, no rollout in it, or no such step.
            UserError: its config or manifest cannot be read.
        """
        if not folder.is_dir():
            raise ConfigError(f"run={folder} does not exist. Give the folder that was out= of `crossthink train`.")
        found = (re.fullmatch(r"step_(\d+)\.jsonl", path.name) for path in (folder / ROLLOUTS).glob("step_*.jsonl"))
        dumped = sorted(int(name[1]) for name in found if name)
        if not dumped:
            raise ConfigError(f"run={folder} holds no rollouts: {folder / ROLLOUTS}/step_NNNNNN.jsonl are missing.")
        if missing := sorted(set(steps) - set(dumped)):
            raise ConfigError(f"steps={list(steps)}: step {missing[0]} was not dumped. Dumped are {ranges(dumped)}.")
        config = _mapping(folder / CONFIG, yaml.safe_load)
        manifest = _mapping(folder / MANIFEST, json.loads)
        return cls(folder, tuple(sorted(set(steps)) or dumped), config, _inner(manifest, "facts"))

    def think_prefilled(self) -> bool:
        """Whether the run's prompts end in `<think>`.

        Raises:
            ConfigError: the run folder has no config.
        """
        if not self.config:
            raise ConfigError(
                f"{self.folder} holds no {CONFIG}, so it does not say whether prompts end in <think>. "
                "Give think_prefilled=true or think_prefilled=false."
            )
        return bool(_inner(self.config, "reward").get("think_prefilled", RewardConfig.think_prefilled))

    def file(self, step: int) -> Path:
        """Where a step's samples are."""
        return rollout_file(self.folder, step)

    def samples(self, step: int, think_prefilled: bool, shaped: ShapingConfig) -> Iterator[Dumped]:
        """A step's samples in the order of the file.

        Raises:
            UserError: a line is damaged, or lacks what the rules or the shaping need; names file, line and field.
        """
        path = self.file(step)
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    sample = _sample(json.loads(line), number, think_prefilled)
                    if sample.step != step:
                        raise ValueError(f"step: {sample.step} stands in the file of step {step}")
                    if missing := shaping.missing(sample.item, shaped):
                        raise ValueError(missing)
                except json.JSONDecodeError as error:
                    raise UserError(f"{path}:{number}: is not JSON ({error.msg}, column {error.colno}).") from error
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{path}:{number}: {error}.") from error
                yield sample


def ranges(numbers: Sequence[int]) -> str:
    """Sorted numbers in short: `1-5, 8`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)


def _sample(line: Any, number: int, think_prefilled: bool) -> Dumped:
    """A line's sample. Raises ValueError naming the field, its value and what is allowed."""
    if not isinstance(line, dict):
        raise ValueError(f"is {show(line)}, expected a JSON object")
    for name, kind, what in (
        ("step", int, "a whole number"),
        ("prompt_id", str, "a string"),
        ("sample", int, "a whole number"),
    ):
        if name not in line:
            raise ValueError(f"{name}: is missing")
        if not isinstance(line[name], kind) or isinstance(line[name], bool):
            raise ValueError(f"{name}: {show(line[name])} is not {what}")
    old = None
    if line.get("verdict") is not None:
        try:
            old = Verdict.from_json(line["verdict"])
        except ValueError as error:
            raise ValueError(f"verdict: {error}") from error
    fields = {"id": f"line {number}", "think_prefilled": think_prefilled}
    for name in ("kind", "response", "ground_truth", "options", "finish_reason", "source"):
        if name in line:
            fields[name] = line[name]
    if isinstance(line.get("token_ids"), list):
        fields["response_tokens"] = len(line["token_ids"])
    return Dumped(line["step"], line["prompt_id"], line["sample"], Item.from_json(fields), old)


def _mapping(path: Path, read: Any) -> dict[str, Any]:
    """The keys and values of a file, none where it does not exist."""
    if not path.is_file():
        return {}
    try:
        value = read(path.read_text("utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds {show(value)}, expected keys and values.")
    return value


def _inner(mapping: dict[str, Any], key: str) -> dict[str, Any]:
    value = mapping.get(key)
    return value if isinstance(value, dict) else {}
