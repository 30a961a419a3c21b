"""Which option an answer names (docs/rewards.md, Multiple choice)."""

from __future__ import annotations

import functools
import itertools
import re

from reward_server.scoring.text import normalise, strip_wrappers

Options = tuple[tuple[str, str], ...]

LABELS = "label"
"""A label alone, or several."""
LABEL_AND_TEXT = "label and text"
"""A label with its own option's text."""
TEXT = "text"
"""An option's full text."""
OTHER_TEXT = "another option's text"
"""A label with the text of another option: the first of the labels that it rests on is the one written."""
SHARED_TEXT = "shared text"
"""A text that several options have."""
NO_LABEL = "no label"
"""No label, and no options whose text it could be."""
NOTHING = "nothing"
"""Neither a label nor an option's text."""
TOO_LONG = "too long"
"""Longer than any option can be written."""

REMEMBERED_CHARS = 2_000
"""An answer and its options are remembered up to this length, so that memory stays bounded."""

_SEPARATOR = re.compile(r"[.:)\]]")
_BARE_LABEL = re.compile(r"\w{1,4}")


def is_right(answer: str, gold: str, options: Options | None) -> bool:
    """True when the answer names the same option, or the same set of options, as the ground truth."""
    chosen = labels(answer, options)
    return chosen is not None and chosen == labels(gold, options)


def labels(answer: str, options: Options | None) -> frozenset[str] | None:
    """The labels that an answer (or a ground truth) names; None where it names none: see `read`."""
    size = len(answer) + sum(map(len, itertools.chain.from_iterable(options or ())))
    return _remembered(answer, options) if size <= REMEMBERED_CHARS else read(answer, options)[0]


@functools.lru_cache(256)  # the samples of a group share their question, and often their answer
def _remembered(answer: str, options: Options | None) -> frozenset[str] | None:
    return read(answer, options)[0]


def read(answer: str, options: Options | None) -> tuple[frozenset[str] | None, str, list[str]]:
    """The labels that an answer (or a ground truth) names, how it was read, and the labels that this rests on.

    In this order: a label alone (or several, comma-separated); a label, then `.`, `:` or a closing bracket, then that
    option's own text; an option's full text. Case matters in labels. A label with another option's text names
    nothing, and neither does a text that two options share. Without options only bare labels count.
    """
    answer = " ".join(answer.split())
    if len(answer) > _longest(options):
        return None, TOO_LONG, []
    bare = strip_wrappers(answer)
    known = {label for label, _ in options} if options else None
    parts = _parts(bare)
    if len(set(parts)) == len(parts) and all(_is_label(part, known) for part in parts):
        return frozenset(parts), LABELS, parts
    if not options:
        return None, NO_LABEL, []
    texts = {label: option_text(text) for label, text in options}
    named, how = _label_and_text(bare, texts), LABEL_AND_TEXT
    if named is None:
        whole, how = option_text(bare), TEXT
        named = [label for label, text in texts.items() if text == whole and whole]
    if len(named) == 1:
        return frozenset(named), how, named
    return None, OTHER_TEXT if how == LABEL_AND_TEXT else SHARED_TEXT if named else NOTHING, named


def is_readable(label: str) -> bool:
    """False for a label that no answer names, as reading takes an answer that is this label for something else."""
    return label.isalnum() or _parts(strip_wrappers(" ".join(label.split()))) == [label]


def _parts(bare: str) -> list[str]:
    return [strip_wrappers(part) for part in bare.split(",")]


def _label_and_text(answer: str, texts: dict[str, str]) -> list[str] | None:
    """`[label]` for a label with its own text, it and the text's labels for another option's text, None for neither."""
    for separator in _SEPARATOR.finditer(answer):
        head = answer[: separator.start()].strip()
        if separator[0] in ")]" and head[:1] == {")": "(", "]": "["}[separator[0]]:
            head = head[1:]
        head = strip_wrappers(head)
        if head in texts:
            rest = option_text(answer[separator.end() :])
            if rest and rest == texts[head]:
                return [head]
            others = [label for label, text in texts.items() if text == rest and rest]
            return [head, *others] if others else None
        if len(head) > max(map(len, texts)):
            break
    return None


def _is_label(part: str, known: set[str] | None) -> bool:
    return part in known if known is not None else bool(_BARE_LABEL.fullmatch(part))


def option_text(text: str) -> str:
    """What is compared of an option's text, or of an answer that may be one."""
    return normalise(text.replace("$", ""))


def _longest(options: Options | None) -> int:
    """Characters beyond which an answer cannot name an option: spares the work on megabytes of box."""
    return 1000 + 4 * max((len(label) + len(text) for label, text in options or ()), default=0)
