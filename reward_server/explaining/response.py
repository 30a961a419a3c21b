"""Steps about the response alone: was it cut off, does it keep the format, which box counts."""

from __future__ import annotations

from reward_server.explaining.steps import BROKEN, KEPT, NOTE, Step, counted, quoted
from reward_server.scoring import extract
from reward_server.scoring.extract import BOX_AFTER, CLOSE, CLOSING_TAGS, FAULTS, OPEN, OPENING_TAGS, TEXT_BEFORE
from reward_server.verdicts import Item


def finish(item: Item) -> Step:
    """Whether the length limit ended the response too early."""
    if extract.is_cut_off(item.response, item.finish_reason):
        return Step("finish", "end", BROKEN, "The length limit cut the response off before a box was complete.")
    if item.finish_reason == "length":
        return Step("finish", "end", KEPT, "The length limit cut the response off, but after a complete box.")
    if item.finish_reason is None:
        return Step("finish", "end", KEPT, "No finish_reason is given: the response counts as finished.")
    return Step("finish", "end", KEPT, f"The response ended with finish_reason {quoted(item.finish_reason, 40)}.")


def format_steps(item: Item) -> list[Step]:
    """Every part of the format rule, broken or not."""
    faults: list[str] = []
    while fault := extract.format_fault(item.response, item.think_prefilled, faults):
        faults.append(fault)
    seen = {
        OPENING_TAGS: _opening(item),
        CLOSING_TAGS: (KEPT, f"{item.response.count(CLOSE):,} × {CLOSE}, exactly 1 is expected."),
        TEXT_BEFORE: _before(item),
        BOX_AFTER: _after(item),
    }
    return [Step("format", part, BROKEN if part in faults else seen[part][0], seen[part][1]) for part in FAULTS]


def box_steps(item: Item) -> list[Step]:
    """Where the box that accuracy reads is looked for, and what is there."""
    response = item.response
    start = extract.answer_start(response)
    inside, after = extract.count_boxes(response, 0, start), extract.count_boxes(response, start, len(response))
    place = (
        f"Looked for after the last {CLOSE}, from character {start + 1:,} on."
        if start
        else f"There is no {CLOSE}, so a box anywhere counts."
    )
    if inside:
        place += (
            f" {counted(inside, 'box', 'boxes')} before it: {'that does' if inside == 1 else 'those do'} not count."
        )
    return [Step("box", "place", NOTE, place), _content(response, start, after)]


def _opening(item: Item) -> tuple[str, str]:
    found = f"{item.response.count(OPEN):,} × {OPEN}"
    if item.think_prefilled:
        return KEPT, f"{found}, 0 are expected: the prompt supplied the opening tag (think_prefilled)."
    return KEPT, f"{found}, exactly 1 is expected."


def _before(item: Item) -> tuple[str, str]:
    if item.think_prefilled:
        return KEPT, f"The prompt ended in {OPEN}, so the response starts inside it."
    before, tag, _ = item.response.partition(OPEN)
    if not tag:
        return NOTE, f"There is no {OPEN} that text could stand before."
    if before.strip():
        return KEPT, f"There is text before {OPEN}: {quoted(before.strip(), 80)}."
    return KEPT, f"Nothing but whitespace stands before {OPEN}." if before else f"The response starts with {OPEN}."


def _after(item: Item) -> tuple[str, str]:
    if CLOSE not in item.response:
        return NOTE, f"There is no {CLOSE} that a box could follow."
    if extract.extract_answer(item.response) is None:
        return KEPT, f"No complete box with content follows {CLOSE}."
    return KEPT, f"A complete box follows {CLOSE}."


def _content(response: str, start: int, count: int) -> Step:
    found = extract.find_box(response, start)
    if found is None:
        why = r"There is no \boxed{…} there."
        if "\\boxed" in response[start:] or "\\fbox" in response[start:]:
            why += r" A \boxed without braces and an \fbox are no boxes."
        return Step("box", "content", BROKEN, why)
    begin, end = found
    which = "The box" if count == 1 else f"The last of {count:,} boxes"
    if end < 0:
        why = f"{which} opens at character {begin:,} and is never closed, so there is no answer."
        if count > 1:
            why += " An earlier box never stands in for it."
        return Step("box", "content", BROKEN, why)
    answer = extract.extract_answer(response)
    if answer is None:
        return Step("box", "content", BROKEN, f"{which} is empty (character {begin:,}), so there is no answer.")
    where = f"characters {begin + 1:,} to {end:,}" if end - begin > 1 else f"character {end:,}"
    return Step("box", "content", KEPT, f"{which} holds {quoted(answer)} ({where} of the response).")
