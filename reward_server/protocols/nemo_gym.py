"""NeMo-Gym's resources server: POST /verify and what its agents and commands ask besides.

A request is a rollout: `responses_create_params`, `response` (an OpenAI Responses object) and the dataset row's own
fields. Of these count `kind`, `ground_truth`, `options`, `think_prefilled` and `source`; or, as the servers `mcqa` and
`math_with_judge` have them, `expected_answer` and `options`. The reply is the whole request and `reward`,
`reward_components`, `extracted_answer` and more. (Shapes: nemo-gym 0.7.0, nemo_gym/base_resources_server.py,
resources_servers/mcqa/app.py, resources_servers/math_with_judge/app.py.)
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from reward_server.protocols.gym_metrics import aggregate
from reward_server.protocols.questions import FIELDS, answered, read_question
from reward_server.protocols.rewards import InvalidItems, complaint, refused, reward_or, share, to_numbers
from reward_server.service import Refused, Service
from reward_server.verdicts import Item, Verdict, show
from reward_server.wire import AsciiJson, read_json, until_gone

PREFIXES = ("", "/ng-rollout/{rollout_id}")
"""With `observability_enabled` NeMo-Gym puts the rollout's id before the path."""
SESSION = "resources_session_id"
BOXED = ("strict_single_letter_boxed", "lenient_boxed")
"""Grading modes of `mcqa` whose prompts ask for a box. The others' answers would all be `no_box` here."""


def router(service: Service) -> APIRouter:
    """The routes of this protocol."""
    routes = APIRouter(tags=["NeMo-Gym"])

    async def verify(request: Request) -> Response:
        """Judge one rollout; the reply repeats it."""
        body = await read_json(request, service.config.max_body_mb)
        item = read_item(body)
        (verdict,) = await until_gone(request, service.score([item], "nemo_gym"))
        invalid_as = service.config.invalid_as
        try:
            to_numbers([item], [verdict], invalid_as)
        except InvalidItems as error:
            raise refused(error) from error
        return AsciiJson({**body, **reply(item, verdict, invalid_as)})

    async def session(request: Request) -> Response:
        """Sessions hold nothing here; an id that the caller chose is given back."""
        body = await read_json(request, service.config.max_body_mb)
        known = isinstance(body, dict) and SESSION in body
        return AsciiJson({SESSION: body[SESSION]} if known else {})

    async def aggregate_metrics(request: Request) -> Response:
        """Mean, largest, smallest, median and standard deviation of every number in many replies."""
        body = await read_json(request, service.config.max_body_mb)
        try:
            return AsciiJson(aggregate(body.get("verify_responses") if isinstance(body, dict) else None))
        except ValueError as error:
            raise Refused(422, str(error)) from error

    async def reverify_mode() -> Response:
        """A rollout can be judged again at any time."""
        return AsciiJson("stateless")

    for prefix in PREFIXES:
        documented = not prefix
        routes.post(f"{prefix}/verify", include_in_schema=documented)(verify)
        routes.post(f"{prefix}/seed_session", include_in_schema=documented)(session)
        routes.post(f"{prefix}/close_session", include_in_schema=documented)(session)
        routes.post(f"{prefix}/aggregate_metrics", include_in_schema=documented)(aggregate_metrics)
        routes.get(f"{prefix}/reverify_mode", include_in_schema=documented)(reverify_mode)
    return routes


def reply(item: Item, verdict: Verdict, invalid_as: float | None) -> dict[str, Any]:
    """What a reply adds to its request. An invalid verdict, where `invalid_as` lets it pass, is marked as one that does
    not count (`mask_sample`, which nemo-gym 0.7 leaves out of its metrics)."""
    reward = reward_or(verdict, invalid_as)
    added: dict[str, Any] = {
        "reward": reward,
        "reward_components": {"accuracy": share(verdict.accuracy, invalid_as), "format": float(verdict.format)},
        # Again as numbers of their own: NeMo-Gym's metrics do not look into reward_components.
        "accuracy": verdict.accuracy,
        "format": verdict.format,
        "extracted_answer": verdict.extracted,
        "status": verdict.status,
    }
    if item.kind == "math":
        added |= {"library_reward": reward, "judge_evaluations": None}
    if not verdict.is_valid:
        reason = complaint(item, verdict)
        added |= {"mask_sample": True, "failure_kind": f"crossthink:{verdict.status}", "failure_reason": reason}
    return added


def read_item(body: Any) -> Item:
    """The item of a request. Raises Refused (422) naming the field, its value and what is allowed there."""
    if not isinstance(body, dict):
        raise Refused(422, f"body: is {show(body)}, expected a JSON object with response and ground_truth")
    response = body.get("response")
    if not isinstance(response, dict) or not isinstance(response.get("output"), list):
        raise Refused(422, f"response: is {show(response)}, expected an OpenAI Responses object with a list `output`")
    try:
        question = read_question(_row(body))
    except ValueError as error:
        raise Refused(422, str(error)) from error
    text, reasoned = _written(response["output"])
    details, usage = response.get("incomplete_details"), response.get("usage")
    cut = isinstance(details, dict) and details.get("reason") == "max_output_tokens"
    tokens = usage.get("output_tokens") if isinstance(usage, dict) else None
    return answered(
        question,
        str(body.get("id") or body.get("uuid") or "rollout"),
        text,
        think_prefilled=question.think_prefilled and not reasoned,
        finish_reason="length" if cut else None,
        response_tokens=tokens if isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 0 else None,
    )


def _row(body: dict[str, Any]) -> dict[str, Any]:
    """The fields of the dataset row that say how it is judged, under our names."""
    row = {name: body[name] for name in FIELDS if name in body and name != "id"}
    if not isinstance(row.get("source"), str):  # a dataset's own word for something else
        row.pop("source", None)
    if "ground_truth" not in row:
        if "expected_answer" not in body:
            raise Refused(422, "ground_truth: is missing, and so is expected_answer")
        row["ground_truth"] = body["expected_answer"]
    if "kind" not in row:
        _need_boxes(body)
        row["kind"] = "mcq" if row.get("options") else "math"
        gold = row["ground_truth"]
        if row["kind"] == "mcq" and isinstance(gold, str) and len(gold.strip()) == 1:
            row["ground_truth"] = gold.strip().upper()  # as mcqa compares it
    return row


def _need_boxes(body: dict[str, Any]) -> None:
    """Refuse rows of `mcqa` whose prompts ask for an answer without a box."""
    mode = body.get("grading_mode")
    if mode is not None and mode not in BOXED:
        raise Refused(
            422, f"grading_mode: {show(mode)} asks for no box, only {', '.join(BOXED)} do; a field kind overrules"
        )
    template = body.get("template_metadata")
    pattern = template.get("output_regex") if isinstance(template, dict) else None
    if pattern is not None and "boxed" not in str(pattern):
        raise Refused(422, f"template_metadata.output_regex: {show(pattern)} asks for no box; a field kind overrules")


def _written(output: list[Any]) -> tuple[str, bool]:
    """What the model wrote, and whether its reasoning came apart from it (vLLM's reasoning parser), here put back
    between think tags as NeMo-Gym itself does before it sends a turn to the model again."""
    parts: list[str] = []
    reasoned = False
    for index, entry in enumerate(output):
        if not isinstance(entry, dict):
            raise Refused(422, f"response.output[{index}]: is {show(entry)}, expected a JSON object with a type")
        if entry.get("type") == "reasoning":
            thoughts = _texts(entry.get("summary")) or _texts(entry.get("content"))
            parts += [f"<think>{thought}</think>" for thought in thoughts]
            reasoned = reasoned or bool(thoughts)
        elif entry.get("type") == "message" and entry.get("role", "assistant") == "assistant":
            content = entry.get("content")
            parts += [content] if isinstance(content, str) else _texts(content)
    return "".join(parts), reasoned


def _texts(content: Any) -> list[str]:
    if not isinstance(content, list):
        return []
    return [part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]
