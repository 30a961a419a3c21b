"""What a run's numbers were measured on: data, rules, software and machine, as rows of (what, value)."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict
from typing import Any

import yaml

from conf.reward import ShapingConfig
from recipes.reporting.run_data import RunData
from recipes.reporting.text import UNKNOWN, plain
from reward_server.verdicts import MATCHES, rules_hash

MATCH_MEANING = {
    "equivalent": "equivalent (mathematical and label-or-text equality)",
    "exact": "exact (character for character)",
}


def facts(data: RunData) -> list[tuple[str, str]]:
    """The rows, in the page's order."""
    config, manifest = data.config, data.manifest
    evaluated = data.after or data.before
    return [
        ("Run folder", str(data.folder)),
        ("Recipe", plain(config.get("recipe"))),
        ("Actor · rollout engine", f"{choice(config, 'actor')} · {choice(config, 'rollout')}"),
        ("Ranks: tensor × pipeline × data", _ranks(config.get("actor") or {})),
        ("Training pool (SHA-256)", plain(manifest.facts.get("pool_sha256"))),
        ("Model before training (SHA-256)", plain(manifest.facts.get("model_sha256"))),
        ("Held-out pool (SHA-256)", plain(evaluated and evaluated.pool_sha256)),
        ("Held-out questions also in training", plain(evaluated and evaluated.also_in_training)),
        ("Reward rules (hash)", plain(rules_of_run(data) or (evaluated and evaluated.rules_hash))),
        ("Reward match mode", _match(data)),
        *_shaping(data),
        ("CrossThink", plain(manifest.crossthink)),
        ("Python", plain(manifest.python)),
        *((name, str(version)) for name, version in manifest.packages.items()),
        _machine(manifest.machine),
    ]


def choice(config: dict[str, Any], group: str) -> str:
    """What a config group says was chosen: its path or name."""
    value = config.get(group)
    if not isinstance(value, dict):
        return str(value or UNKNOWN)
    return str(value.get("path") or value.get("name") or UNKNOWN)


def rules_of_run(data: RunData) -> str | None:
    """The hash of the rules that training was rewarded by."""
    return data.manifest.facts.get("rules_hash")


def config_yaml(config: dict[str, Any]) -> str:
    """The config as it may be shown around."""
    return yaml.safe_dump(without_secrets(config), sort_keys=False, allow_unicode=True)


def without_secrets(value: Any) -> Any:
    """A config, or a part of it, with its secrets replaced."""
    if isinstance(value, dict):
        return {key: "(hidden)" if key == "token" and inner else without_secrets(inner) for key, inner in value.items()}
    return [without_secrets(inner) for inner in value] if isinstance(value, list) else value


def _ranks(actor: dict[str, Any]) -> str:
    sizes = [actor.get(f"{name}_parallel") for name in ("tensor", "pipeline", "data")]
    return " × ".join("1" if size is None else str(size) for size in sizes)


def match_of_run(facts: dict[str, Any], config: dict[str, Any]) -> str | None:
    """The match mode that training was rewarded by.

    The manifest says it, as the servers told it. Where it does not, the rules' hash may; `reward.match` speaks for the
    run's own server only.
    """
    known = facts.get("match") or {rules_hash(match): match for match in MATCHES}.get(facts.get("rules_hash") or "")
    reward = config.get("reward") or {}
    return known or (None if reward.get("url") else reward.get("match"))


def _match(data: RunData) -> str:
    known = match_of_run(data.manifest.facts, data.config)
    return MATCH_MEANING.get(known or "", plain(known))


def _shaping(data: RunData) -> list[tuple[str, str]]:
    """What was added to the paper's reward, where anything was."""
    shaping: Any = data.manifest.facts.get("shaping")
    if not isinstance(shaping, dict):
        return []
    plain_reward = asdict(ShapingConfig())
    changed = {key: value for key, value in shaping.items() if value != plain_reward.get(key)}
    return [("Reward shaping", ", ".join(f"{key} {_compact(value)}" for key, value in changed.items()))]


def _compact(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {inner}" for name, inner in value.items()) + ")"
    return str(value)


def _machine(machine: dict[str, Any]) -> tuple[str, str]:
    if not machine:
        return "CPU cores of the machine that wrote this page", plain(os.cpu_count())
    gpus = Counter(machine.get("gpus") or [])
    parts = [
        f"{plain(machine.get('cpu_count'))} CPU cores" + (f" ({machine['cpu']})" if machine.get("cpu") else ""),
        f"{plain(machine.get('memory_gb'))} GB memory",
        ", ".join(f"{count} × {name}" for name, count in gpus.items()) or "no GPU",
        plain(machine.get("platform")),
    ]
    return "Machine that the run began on", " · ".join(parts)
