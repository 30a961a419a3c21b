"""The bodies of the server's own requests, read strictly: what is not known is refused by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastapi

from recipes.rollout.interface import Limits, Request, RequestError, SamplingParams
from reward_server.service import Refused
from reward_server.verdicts import show
from reward_server.wire import parse_json, read_body

BIGGEST = 2**63 - 1
"""Of numbers that only key the draws."""
COLDEST, HOTTEST = 0.001, 1000.0
"""Temperatures other than 0: beyond them logits overflow, or nothing is left of them."""
SAMPLING = ("temperature", "top_p", "max_tokens", "stop_ids", "vocabulary", "seed", "step")
GROUP = ("prompt", "prompt_ids", "samples", "max_tokens")


@dataclass(frozen=True)
class Asked:
    """What a `/v1/generate` body asks for."""

    requests: tuple[Request, ...]
    params: SamplingParams
    version: int | None


async def read_object(request: fastapi.Request, max_mb: int) -> dict[str, Any]:
    """A request's body, a JSON object; an empty body is one without keys.

    Raises:
        Refused: 413 where it is longer than `max_mb` MiB, 400 where it is not JSON, 422 where it is no object.
    """
    body = await read_body(request, max_mb)
    try:
        value = parse_json(body) if body else {}
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"body: is not JSON ({show(str(error))})") from error
    if not isinstance(value, dict):
        raise Refused(422, f"body: expected a JSON object, not {show(value)}")
    return value


def read_generate(body: Mapping[str, Any], limits: Limits) -> Asked:
    """What a `/v1/generate` body asks for.

    Raises:
        Refused: 422 naming the field, its value and what is allowed.
    """
    _only(body, ("sampling", "groups", "version"), "")
    params = read_sampling(body.get("sampling"), limits)
    version = body.get("version")
    if version is not None:
        version = whole(version, "version", 0, BIGGEST)
    groups = body.get("groups")
    if not isinstance(groups, list) or not groups:
        raise Refused(422, f"groups: {show(groups)} is no list of at least one group")
    requests: list[Request] = []
    for index, group in enumerate(groups):
        requests += _group(group, f"groups[{index}]", params, limits)
    seen: set[tuple[int, int]] = set()
    for one in requests:
        if (one.prompt, one.sample) in seen:
            raise Refused(422, f"groups: sample {one.sample} of prompt {one.prompt} is asked for twice")
        seen.add((one.prompt, one.sample))
    return Asked(tuple(requests), params, version)


def read_sampling(value: Any, limits: Limits) -> SamplingParams:
    """The field `sampling`. Raises Refused: 422 naming the key and what is allowed."""
    if not isinstance(value, dict):
        raise Refused(422, f"sampling: {show(value)} is no object with {', '.join(SAMPLING)}")
    _only(value, SAMPLING, "sampling.")
    if missing := [name for name in SAMPLING if name not in value]:
        raise Refused(422, f"sampling.{missing[0]}: is missing")
    stop_ids = value["stop_ids"]
    if not isinstance(stop_ids, list):
        raise Refused(422, f"sampling.stop_ids: {show(stop_ids)} is no list of token ids")
    return SamplingParams(
        temperature=temperature(value["temperature"], "sampling.temperature"),
        top_p=top_p(value["top_p"], "sampling.top_p"),
        max_tokens=whole(value["max_tokens"], "sampling.max_tokens", 1, limits.max_total_tokens),
        stop_ids=tuple(whole(one, "sampling.stop_ids", 0, limits.vocabulary - 1) for one in stop_ids),
        vocabulary=whole(value["vocabulary"], "sampling.vocabulary", 1, limits.vocabulary),
        seed=whole(value["seed"], "sampling.seed", 0, BIGGEST),
        step=whole(value["step"], "sampling.step", 0, BIGGEST),
    )


def whole(value: Any, where: str, least: int, most: int) -> int:
    """A whole number within bounds. Raises Refused: 422."""
    if type(value) is not int or not least <= value <= most:  # True is no number here
        raise Refused(422, f"{where}: {show(value)} is no whole number from {least} to {most}")
    return value


def temperature(value: Any, where: str) -> float:
    """A temperature. Raises Refused: 422."""
    if type(value) in (int, float) and (value == 0 or COLDEST <= value <= HOTTEST):
        return float(value)
    raise Refused(422, f"{where}: {show(value)} is neither 0 (greedy) nor a number from {COLDEST:g} to {HOTTEST:g}")


def top_p(value: Any, where: str) -> float:
    """A nucleus. Raises Refused: 422."""
    if type(value) in (int, float) and 0 < value <= 1 and not math.isnan(value):
        return float(value)
    raise Refused(422, f"{where}: {show(value)} is no number above 0 and at most 1")


def check_folder(folder: str | None, allowed: Path) -> None:
    """Refuse a refit's folder that does not lie below the one where weights are read from, symbolic links followed.

    Raises:
        Refused: 422.
    """
    if folder is None:
        return
    try:
        real = Path(folder).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL in it, a loop of links
        raise Refused(422, f"folder: {show(folder)} is no path ({error})") from error
    root = allowed.resolve()
    if real == root or root not in real.parents:
        raise Refused(422, f"folder: {show(folder)} does not lie below weights_dir={allowed}")


def _group(group: Any, where: str, params: SamplingParams, limits: Limits) -> list[Request]:
    if not isinstance(group, dict):
        raise Refused(422, f"{where}: {show(group)} is no object with {', '.join(GROUP)}")
    _only(group, GROUP, f"{where}.")
    for name in GROUP[:3]:
        if name not in group:
            raise Refused(422, f"{where}.{name}: is missing")
    ids, samples, budgets = group["prompt_ids"], group["samples"], group.get("max_tokens")
    if not isinstance(ids, list) or not set(map(type, ids)) <= {int}:
        raise Refused(422, f"{where}.prompt_ids: {show(ids)} is no list of token ids")
    if not isinstance(samples, list) or not samples:
        raise Refused(422, f"{where}.samples: {show(samples)} is no list of at least one number")
    if budgets is None:
        budgets = [None] * len(samples)
    elif not isinstance(budgets, list) or len(budgets) != len(samples):
        raise Refused(422, f"{where}.max_tokens: {show(budgets)} is no list of one number a sample, {len(samples)}")
    else:
        budgets = [whole(one, f"{where}.max_tokens", 1, BIGGEST) for one in budgets]
    prompt, prompt_ids = whole(group["prompt"], f"{where}.prompt", 0, BIGGEST), tuple(ids)
    requests = [
        Request(prompt_ids, prompt, whole(sample, f"{where}.samples", 0, BIGGEST), budget)
        for sample, budget in zip(samples, budgets, strict=True)
    ]
    try:
        limits.check(max(requests, key=lambda one: one.budget(params)), params)
    except RequestError as error:
        raise Refused(422, f"{where}.{error}") from error
    return requests


def _only(obj: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    if unknown := sorted(obj.keys() - set(known)):
        raise Refused(422, f"{where}{show(unknown[0])}: unknown field, allowed are {', '.join(known)}")
