"""Personas crossed with mathematical skills: what the paper's PersonaSkill-MATH was written from.

The paper took personas from PersonaHub (arXiv 2406.20094) and skills from mathematics sets; neither list is public with
it. The built-in ones are ours and small. PersonaHub's own file can be given instead.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from crossthink.errors import ConfigError
from data_prep.synthesis.subjects import check_text, check_texts, read_list

PERSONAS_FILE = Path(__file__).parent / "personas.txt"
SKILLS_FILE = Path(__file__).parent / "skills.yaml"

One = TypeVar("One")


@dataclass(frozen=True)
class Skill:
    """A mathematical skill and the area that it belongs to."""

    name: str
    area: str


@dataclass(frozen=True)
class Pair:
    """Who a problem is written for, and what it must ask for."""

    persona: str
    skill: Skill


def load_personas(path: Path | str | None, key: str = "personas") -> tuple[str, ...]:
    """The different personas of a file, in its order.

    Args:
        path: a file of plain lines (`#` begins a comment), or one named `.jsonl` whose rows have a text `persona`, as
            PersonaHub's; None: the built-in ones.
        key: the setting that named the file, for messages.

    Raises:
        ConfigError: the file cannot be read, a row of it has no persona, or it holds none at all.
    """
    file = PERSONAS_FILE if path is None else Path(path)
    try:
        lines = file.read_text("utf-8-sig").split("\n")
    except OSError as error:
        raise ConfigError(f"{key}={file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{key}={file} is not UTF-8: {error}.") from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if file.name.endswith(".jsonl"):
        found = [_persona(line, f"{key}={file}, line {number}") for number, line in numbered]
    else:
        found = [line for _, line in numbered if not line.startswith("#")]
    if not found:
        raise ConfigError(f"{key}={file} holds no persona. Needed: a line each, or JSONL rows with `persona`.")
    return tuple(dict.fromkeys(found))


def load_skills(path: Path | str | None, key: str = "skills") -> tuple[Skill, ...]:
    """The skills of a file, in its order.

    Args:
        path: YAML, a list of entries `area` and `skills` (a list of texts); None: the built-in ones.
        key: the setting that named the file, for messages.

    Raises:
        ConfigError: the file cannot be read, an entry has another form, or a skill stands there twice.
    """
    file = SKILLS_FILE if path is None else Path(path)
    found: dict[str, Skill] = {}
    for at, entry in enumerate(read_list(file, key), start=1):
        where = f"{key}={file}, entry {at}"
        if not isinstance(entry, dict) or set(entry) != {"area", "skills"}:
            raise ConfigError(f"{where}: {entry!r} must hold `area` and `skills` and nothing else.")
        area = check_text(entry["area"], f"{where}: area")
        for name in check_texts(entry["skills"], f"{where}: skills"):
            if name in found:
                raise ConfigError(f"{where}: the skill '{name}' stands under '{found[name].area}' already.")
            found[name] = Skill(name, area)
    return tuple(found.values())


def draw_pairs(personas: Sequence[str], skills: Sequence[Skill], count: int, seed: int) -> list[Pair]:
    """Different pairs in an order that the seed gives; a smaller count gives the beginning of a larger one.

    Skills take turns, and so do personas: in any number of pairs the most frequent of either leads the rarest by one at
    most.

    Args:
        personas: different texts.
        skills: different skills.
        count: how many.
        seed: of the order.

    Raises:
        ConfigError: there are fewer pairs than `count`.
    """
    most = len(personas) * len(skills)
    if not 0 <= count <= most:
        raise ConfigError(
            f"{count} problems are asked for, but {len(personas)} personas and {len(skills)} skills make {most} pairs. "
            "Ask for fewer, or give more personas or skills."
        )
    personas, skills = _shuffled(personas, f"personas:{seed}"), _shuffled(skills, f"skills:{seed}")
    # Both go round and round; one more step of the personas each time both are back at the start keeps pairs different.
    period = math.lcm(len(personas), len(skills)) if count else 1
    return [Pair(personas[(at + at // period) % len(personas)], skills[at % len(skills)]) for at in range(count)]


def _shuffled(things: Sequence[One], seed: str) -> list[One]:
    return random.Random(seed).sample(things, len(things))


def _persona(line: str, where: str) -> str:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where} is no JSON: {error}.") from error
    if not isinstance(row, dict):
        raise ConfigError(f"{where} is no JSON object; a row must hold a text `persona`.")
    return check_text(row.get("persona"), f"{where}: persona").strip()
