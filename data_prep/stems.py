r"""Which multiple-choice questions make no sense once their options are gone (the paper's T_Open).

The paper discards such questions and shows one example ("which of the following ways ..."); its rule is unknown, so
this one is ours. A question needs its options when, without them, it cannot be answered or has no unique short answer.
How well the rules find these is measured on stems labelled by hand: `tests/data_prep/test_open_stems.py`.

The first rule that matches names the reason that is counted. Whoever changes a rule raises
`templates.TEMPLATE_VERSION`.
"""

from __future__ import annotations

import re
from collections.abc import Set
from typing import NamedTuple

from data_prep.rows import Question


class Rule(NamedTuple):
    """One named pattern.

    Attributes:
        name: what is counted.
        words: every match holds one of these; they are looked for first, which halves the cost of the rules.
        pattern: searched in text in lower case.
    """

    name: str
    words: tuple[str, ...]
    pattern: re.Pattern[str]

    def matches(self, lowered: str) -> bool:
        """Whether `lowered`, a text in lower case, is what the rule describes."""
        for word in self.words:  # not any(...): a generator would cost more than the search that it saves
            if word in lowered:
                return self.pattern.search(lowered) is not None
        return False


_OF_THESE = r"(?:one )?of (?:the |these )?(?:following|these|those)"
_BE = r"(?:is|are|was|were|does|do|did|has|have|had|can|could|will|would|should|may|might|must)"
_HEDGE = (
    r"(?:best|most|more|likely|likely to|correctly|accurately|clearly|closely|would|could|can|may|might|must|probably"
    r"|typically|directly)"
)
_TEXT = r"(?:text|passage|article|story|paragraph)"
_VERDICT = r"(?:not )?(?:true|false|right|wrong|correct|incorrect|yes|no)"
_TRAILER = r"[\s:_.]*$"

# Golds that only the other options explain; searched in the gold option's text.
GOLD_RULES = (
    # "all of the above", "none of these"
    Rule(
        "names_options",
        ("all", "none", "any", "both", "either", "neither"),
        re.compile(
            r"\b(?:all|none|any|both|neither|either) (?:of )?(?:the )?(?:above|these|those|following|options|choices)\b"
        ),
    ),
    # "True, False": a code whose form only the options show
    Rule("code", (", ",), re.compile(rf"^{_VERDICT}(?:, {_VERDICT})+\.?$")),
    # "granted, because ...": the verdict stands in several options, and the reason tells them apart
    Rule(
        "verdict_and_reason",
        ("because", "since", "as", "due to", "unless", "only if", "but"),
        re.compile(r"^[^,;.]{2,40}[,;.] ?(?:because|since|as|due to|unless|only if|but)\b"),
    ),
)

# Stems whose words point at options that are gone; searched in the whole stem.
STEM_RULES = (
    # "Statement 1 | ... Statement 2 | ...", answered "True, False"
    Rule("statement_pair", ("|",), re.compile(r"\b(?:statement|scenario) 1 ?\|")),
    # "Which statement is true?", but not "which statement explains why ..."
    Rule(
        "statement",
        ("which",),
        re.compile(
            rf"\bwhich (?:{_OF_THESE} )?(?:\w+ )?(?:statements?|sentences?|propositions?|claims?|assertions?"
            r"|conclusions?|inferences?|hypothes[ei]s|assumptions?|predictions?|answers?|options?|choices?)\b"
            rf"(?!(?: {_HEDGE})* (?:explains?|accounts?|defines?))"
            rf"|\bwhich {_OF_THESE} (?:{_HEDGE} |is |are |be |has |have |been )*(?:true|correct|accurate|right|valid)\b"
        ),
    ),
    # "Judge the options below."
    Rule(
        "names_options",
        ("option", "choice", "alternative", "scenario", "proposition"),
        re.compile(
            r"\b(?:options?|choices?|alternatives?|scenarios?|propositions?) (?:above|below|given|listed)\b"
            r"|\b(?:above|below|given|listed|following) (?:options?|choices?|alternatives?)\b"
        ),
    ),
    # "Select the best translation into predicate logic: ..."
    Rule(
        "choose",
        ("select", "choose", "pick", "mark", "tick"),
        re.compile(r"^\W*(?:select|choose|pick|mark|tick)\b"),
    ),
)

# The same, searched only in the sentence that asks: in a passage or a case such words are prose.
ASK_RULES = (
    # "Which gas is not ...", "All of these melt except"
    Rule(
        "negated",
        ("not", "n't", "except", "least", "incorrect", "false", "untrue", "inconsistent"),
        re.compile(
            rf"\bwhich\b.*?\b{_BE}(?: \w+)? ?(?:\*\*)?(?:not|n't)\b"
            r"|\bwhich\b.*?\b(?:least likely|incorrect|false|untrue|inconsistent)\b"
            rf"|\bwhat \w+ {_BE} not an?\b"
            r"|\b(?:all|each|any|every\w*)\b.*\bexcept\b(?! for)"
        ),
    ),
    # "Which is the best example of ...", "An example of a learned trait is", but not "this is an example of"
    Rule(
        "example",
        ("example", "exemplif", "illustrate", "represent", "show", "indicate", "involve", "describe", "demonstrate"),
        re.compile(
            rf"\bwhich\b.*\bexamples?\b|\b(?:an|one|another|best) example of\b.*\b(?:is|are|would be)\b{_TRAILER}"
            r"|\bwhich\b.*\b(?:exemplif\w+|illustrates?)\b"
            rf"|\bwhich {_OF_THESE} (?:{_HEDGE} )*"
            r"(?:represents?|shows?|indicates?|involves?|describes?|demonstrates?) an?\b"
        ),
    ),
    # What may be concluded from a passage, its title, its main idea: many answers, each in many wordings
    Rule(
        "inference",
        ("can", "may", "could", "infer", "title", "main", *_TEXT[3:-1].split("|")),
        re.compile(
            r"\b(?:can|may|could) (?:we |you |be |one )?(?:infer|conclude|learn|know|expect)\w*\b|\binferred\b"
            r"|\bbest title\b|\bmain(?:ly)? (?:idea|theme|point|about|tell|talk|discuss)\w*"
            rf"|\bpurpose of th(?:is|e) {_TEXT}|\b{_TEXT} is (?:most )?(?:likely|probably|mainly)"
            rf"|\bis th(?:is|e) {_TEXT} (?:most )?(?:likely|probably)"
            rf"|^\W*(?:according to|from|as mentioned in) th(?:e|is) {_TEXT}\W+"
            r"(?:\w+|we (?:can )?(?:know|learn|see)(?: that)?)\W*$"
        ),
    ),
    # "Which action ...", "Which object ...": a noun whose members nobody can list
    Rule(
        "open_class",
        ("which",),
        re.compile(
            r"\bwhich (?:\w+ )?(?:action|activity|event|animal|object|item|situation|scenario|list|diagram|picture"
            r"|graph|sentence|expression|surface|tool|question|observation|argument|strategy|approach|behaviou?r|factor"
            r"|feature|characteristic|trait|change)\b(?! (?:best )?explains)"
            r"|\bwhich\b.*\bcorrectly (?:paired|matched)\b"
        ),
    ),
    # "Which surface would be the best for ..."
    Rule(
        "best_of",
        ("best", "most"),
        re.compile(
            r"\bwhich\b.*\b(?:is|are|be|was|provides?) (?:the )?"
            r"(?:best|most (?:effective|useful|appropriate|suitable|reasonable|accurate|important|likely))\b"
        ),
    ),
    # "What is one reason ...", "A major advantage of ... is that"
    Rule(
        "one_of_many",
        ("a", "one", "some"),
        re.compile(
            r"\b(?:what|which) (?:is|are|was|were) (?:one|some|an?)(?: of the)? (?:\w+ ){0,3}(?:reasons?|ways?|factors?"
            r"|advantages?|disadvantages?|benefits?|problems?|challenges?|impacts?|effects?|consequences?|results?"
            r"|approach(?:es)?|strateg\w+|examples?|roadblocks?|outcomes?|uses?|process(?:es)?|aims?)\b"
            r"|^\W*(?:an?|one|another) (?:\w+ ){0,2}(?:reason|way|factor|advantage|disadvantage|benefit|problem"
            rf"|challenge|effect|use|purpose)\b.*\b(?:is|are)(?: that| to|)(?: it| they)?{_TRAILER}"
        ),
    ),
    # "Describe ...": a task, not a question
    Rule(
        "open_task",
        ("suggest", "describe", "discuss", "comment", "give", "name"),
        re.compile(r"^\W*(?:suggest|describe|discuss|comment on|give (?:an|one|some)|name (?:an?|one|some))\b"),
    ),
    # "When a market is in equilibrium,"
    Rule("unfinished", (",", "because"), re.compile(r"(?:(?<! is)(?<! are),|\bbecause(?: of)?)[\s:_]*$")),
)

# Whatever else points at a list that is gone; asked last, for the names above say more.
OF_THE_FOLLOWING_RULES = (
    Rule(
        "of_the_following",
        ("following",),
        re.compile(
            r"\b(?:of|among|from) (?:the |these )?following\b"
            r"|\b(?:which|what|select|choose|pick|identify)\b[^.?!]{0,60}\bfollowing\b(?! (?:year|day|week|month"
            r"|information|data|table|equation|passage|reaction|program|code|figure|key|translation))"
        ),
    ),
    Rule("of_the_following", ("these", "those"), re.compile(r"\bwhich (?:one )?(?:of|among) (?:these|those)\b")),
    Rule("of_the_following", ("which one",), re.compile(r"\bwhich one (?:most|best)\b")),
)
# ... unless the verb leaves one answer: "Which of the following explains the reduced visibility?"
_ANSWERABLE = re.compile(
    rf"\bwhich {_OF_THESE} (?:{_HEDGE} )*(?:explains?|accounts? for|defines?|articulates?"
    r"|describes? (?:the )?(?:role|function|purpose|meaning|definition|doctrine)"
    r"|(?:is|must be) (?:the|an?) (?:most likely |most probable )?"
    r"(?:diagnosis|equation|factor|solution|root|zero|formula|value))\b"
    # and "Which of the following functions models $P(t)$": one answer, up to its form
    rf"|\bwhich {_OF_THESE} (?:(?:functions?|equations?|expressions?|formulas?) )?(?:{_HEDGE} )*"
    r"(?:gives|expresses|equals|represents|models) (?:the\b|\$)"
)
# Capitals are how a stem stresses what it asks for ("Which is NOT ..."); in lower case these words are prose.
_STRESSED = re.compile(r"\b(?:NOT|EXCEPT|LEAST)\b")
# "Which must be true? I. ... II. ..." with the gold "II only": the list stands in the stem, and nothing is missing.
_ROMAN_LIST = re.compile(r"\bI\b.*\bII\b", re.DOTALL)
_ROMAN_GOLD = re.compile(r"(?:I|II|III|IV|V)\b")
# "both A and B", "A, B and C"
_LABELS = re.compile(r"(?i:both |neither |either )?\(?[A-J]\)?(?:(?:,|,? (?:and|or|nor|&)) ?\(?[A-J]\)?)+\.?")
_LABEL = re.compile(r"\b[A-J]\b")
# "1,3" of a list that is missing, where the stem has neither digits nor LaTeX: then it may be a solution.
_ITEM_NUMBERS = re.compile(r"\d(?:, ?\d)+\.?")
_DIGIT_OR_LATEX = re.compile(r"[\d$\\]")


def needs_options(question: Question) -> str | None:
    """The reason why a multiple-choice question makes no sense without its options, or None where it does.

    Args:
        question: of kind mcq, with its gold among the options (`filters.mcq`).

    Returns:
        `gold_needs_options:NAME` or `stem_needs_options:NAME`.
    """
    options = dict(question.options or ())
    gold = options.get(question.gold_label or "")
    assert gold is not None, "a multiple-choice question reached T_Open without its gold option"
    stem = question.question
    if name := gold_rule(gold, options.keys(), stem):
        return f"gold_needs_options:{name}"
    if (name := stem_rule(stem)) and not (_ROMAN_GOLD.match(gold) and _ROMAN_LIST.search(stem)):
        return f"stem_needs_options:{name}"
    return None


def gold_rule(gold: str, labels: Set[str], stem: str) -> str | None:
    """Name of the first rule that says that `gold`, the gold option's text, depends on the others (`labels`)."""
    if _LABELS.fullmatch(gold) and labels >= set(_LABEL.findall(gold)):
        return "names_options"
    if _ITEM_NUMBERS.fullmatch(gold) and not _DIGIT_OR_LATEX.search(stem):
        return "item_numbers"
    lowered = gold.lower()
    return next((rule.name for rule in GOLD_RULES if rule.matches(lowered)), None)


def stem_rule(stem: str) -> str | None:
    """Name of the first rule that says that `stem` needs its options."""
    lowered = stem.lower()
    for rule in STEM_RULES:
        if rule.matches(lowered):
            return rule.name
    ask = asking_sentence(stem)
    if _STRESSED.search(ask):
        return "negated"
    ask = ask.lower()
    for rule in ASK_RULES:
        if rule.matches(ask):
            return None if rule.name == "best_of" and _ANSWERABLE.search(ask) else rule.name
    for rule in OF_THE_FOLLOWING_RULES:
        if rule.matches(lowered):
            return None if _ANSWERABLE.search(lowered) else rule.name
    return None


def asking_sentence(stem: str) -> str:
    """The last sentence of `stem`, which in nearly all of them is the one that asks.

    A full stop after a single capital letter ends no sentence (U.S. courts), so the answer may hold one too many.
    """
    end = len(stem.rstrip())
    while True:
        start = max(stem.rfind(mark, 0, end) for mark in (". ", "? ", "! ", "\n"))
        if start < 0:
            return stem
        initial = stem[start] == "." and stem[start - 1 : start].isupper() and not stem[start - 2 : start - 1].isalnum()
        if not initial:
            return stem[start + 1 :]
        end = start
