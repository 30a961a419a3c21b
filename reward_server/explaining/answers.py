"""Steps about ground truths and answers that need no mathematics: multiple choice, open answers, the exact rule."""

from __future__ import annotations

from collections.abc import Iterable

from reward_server.explaining.steps import EQUAL, NOTE, Step, counted, difference, quoted
from reward_server.scoring import mcq, text
from reward_server.verdicts import Item


def gold_why(item: Item, gold: str, match: str) -> str:
    """What a ground truth of a question without mathematics was read as."""
    if not gold.strip():
        return "It is empty."
    if item.kind == "mcq" and (item.options or match == "equivalent"):
        return f"{quoted(gold)} {_reading(gold, item.options)}."
    if match == "exact":
        return f"{quoted(gold.strip())}, taken character for character."
    normal = text.normalise(gold)
    if not normal:
        return f"Of {quoted(gold)} nothing is left to compare once punctuation is taken off."
    return f"{quoted(gold)} is compared as {quoted(normal)}."


def mcq_step(item: Item, gold: str, answer: str, result: str, part: str) -> Step:
    """What the answer names, beside what the ground truth names."""
    wanted = mcq.labels(gold, item.options)
    why = f"{quoted(answer)} {_reading(answer, item.options)}. Wanted: {_labels(wanted)}."
    return Step("answer", part, result, why, "mcq")


def open_steps(gold: str, answer: str, result: str, part: str) -> list[Step]:
    """Both texts as they are compared, and where they part."""
    wanted, given = text.normalise(gold), text.normalise(answer)
    forms = f"{quoted(answer)} is compared as {quoted(given)}, the ground truth as {quoted(wanted)}."
    if result == EQUAL:
        why = "Both are the same."
    elif not given:
        why = "Nothing is left of the answer once punctuation is taken off."
    else:
        why = f"They differ: {difference(wanted, given)}."
    return [Step("answer", "normalised", NOTE, forms, "open"), Step("answer", part, result, why, "open")]


def exact_step(item: Item, gold: str, answer: str, result: str, part: str) -> Step:
    """Where the content of the box leaves the ground truth."""
    wanted = gold.strip()
    why = "Both are the same, character for character." if result == EQUAL else f"{difference(wanted, answer)}."
    return Step("answer", part, result, why[0].upper() + why[1:], "exact")


def _reading(answer: str, options: mcq.Options | None) -> str:
    """How a text was read as a choice, as the rest of a sentence that starts with the text."""
    named, how, seen = mcq.read(answer, options)
    if how == mcq.LABELS:
        return f"is {'the label alone' if len(seen) == 1 else counted(len(seen), 'label')}: {_labels(named)}"
    if how == mcq.LABEL_AND_TEXT:
        return f"is the label {_labels(named)} with its own option's text"
    if how == mcq.TEXT:
        return f"is the full text of option {_labels(named)}"
    if how == mcq.OTHER_TEXT:
        return f"is the label {quoted(seen[0], 40)} with the text of option {_labels(seen[1:])}, so it names nothing"
    if how == mcq.SHARED_TEXT:
        return f"is the text of {counted(len(seen), 'option')} ({_labels(seen)}), so it names none of them"
    if how == mcq.TOO_LONG:
        return "is longer than any option can be written"
    if how == mcq.NO_LABEL:
        return "is no label, and without options nothing else counts"
    allowed = _labels([label for label, _ in options or ()])
    compared = f"compared as {quoted(mcq.option_text(answer))}"
    return f"is neither a label ({allowed}) nor an option's text ({compared}){_case(answer, options)}"


def _case(answer: str, options: mcq.Options | None) -> str:
    near = [label for label, _ in options or () if label != answer and label.casefold() == answer.strip().casefold()]
    return f"; case matters in labels, and {quoted(answer, 20)} is not {quoted(near[0], 20)}" if near else ""


def _labels(labels: Iterable[str] | None) -> str:
    shown = sorted(labels) if isinstance(labels, frozenset) else list(labels or ())
    return ", ".join(quoted(label, 40) for label in shown[:30]) + (", …" if len(shown) > 30 else "") or "none"
