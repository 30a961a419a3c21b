"""Does a question make sense to a reader who has only the question?

A model that writes from a page tends to ask about the page: its author, its figures, "the passage above". The rules are
ours; the first that matches decides. They are searched in text in lower case.
"""

from __future__ import annotations

import re

ENOUGH_WORDS = 20
"""So many words after "the following passage" are the passage."""

_SOURCE = (
    r"(?:passage|text|excerpt|extract|article|essay|document|web ?page|web ?site|blog(?: post)?|paragraph|transcript"
    r"|snippet|story|narrative|provided context|context provided)"
)
_PICTURE = (
    r"(?:figure|diagram|graph|chart|image|picture|photo(?:graph)?|illustration|map|infographic|screenshot|table|fig\.)"
)
_SPOKEN = r"(?:video|podcast|interview|lecture|webinar|episode)"
_SAYS = (
    r"(?:states?|says?|mentions?|describes?|discuss(?:es)?|suggests?|impl(?:y|ies)|claims?|argues?|explains?|refers?"
    r"|provides?|lists?|emphasi[sz]es?|highlights?|notes?|indicates?|compares?|presents?|concludes?|recommends?"
    r"|believes?|uses?|give|gives|call|calls|mean|means)"
)
_AUTHOR = r"the (?:author|writer|narrator|blogger|interviewee)"
_SHOWN = r"(?:mentioned|described|discussed|stated|presented|listed|quoted|outlined|shown|depicted|pictured)"

# What is spoken of stands outside the question.
_OUTSIDE = re.compile(
    "|".join(
        [
            # "according to the passage", "in this article", but not "in the story of Cinderella" or "the text message"
            rf"\b(?:according to|based on|in|from|on|per|throughout|by) (?:the|this) {_SOURCE}\b"
            r"(?! (?:of|message|editor)\b)",
            r"\bthis (?:passage|excerpt|article|web ?page|web ?site|blog|post|paragraph|snippet)\b",
            rf"\bthe {_SOURCE} (?:above|below|{_SAYS})\b",
            # "according to the author", "the author's purpose", but not "the author of Hamlet"
            rf"\b(?:according to|do|does|did|by) {_AUTHOR}\b(?! (?:of|who)\b)",
            rf"\b{_AUTHOR} {_SAYS}\b",
            rf"\b{_AUTHOR}['’]s (?:main|primary|purpose|view|opinion|attitude|tone|argument|point|intent|position)",
            rf"\b{_SHOWN} (?:above|earlier|previously|in the {_SOURCE})\b",
            r"\bthe (?:above|preceding|aforementioned) (?:passage|text|information|example|discussion|list|case)\b",
            r"\b(?:information|data|details|facts|context|description|material) (?:provided|presented|above)\b",
            r"\bthe (?:provided|given) (?:information|data|details|context|material|description)\b",
            rf"\b(?:according to|in|during|from) (?:the|this) {_SPOKEN}\b(?! of\b)",
        ]
    )
)
# A picture that no text can hold.
_PICTURED = re.compile(
    "|".join(
        [
            rf"\b(?:shown|displayed|depicted|seen|illustrated|pictured|presented|listed) (?:in|on|by) the {_PICTURE}",
            rf"\bthe {_PICTURE}(?: \d+)? (?:above|below|shown|shows|illustrates|depicts|displays)\b",
            rf"\b(?:above|accompanying|attached|adjacent) {_PICTURE}",
            rf"\baccording to the {_PICTURE}",
            r"\b(?:figure|table|fig\.) \d",
        ]
    )
)
# Something that may stand in the question behind these words.
_FOLLOWING = re.compile(rf"\bfollowing (?:{_SOURCE}|{_PICTURE}|quotation|quote|dialogue|conversation|information)\b")
# What a first sentence cannot have introduced yet.
_UNKNOWN = re.compile(
    r"\bthis (?:study|paper|report|survey|research|book|course|chapter|section|lesson|project|event|company)\b"
    r"|\bthe (?:study|researchers|survey|report) (?:found|finds?|shows?|showed|conclude[sd]?|suggests?|reported)\b"
    r"|\b(?:did|do|does) the (?:study|researchers|survey|report) "
)
_SENTENCE_END = re.compile(r"(?<=[.?!])\s")
_TABLE_LINE = re.compile(r"^.*(?:\|.*\||\t.*\S).*$", re.MULTILINE)


def not_self_contained(question: str) -> str | None:
    """`not_self_contained` where the question speaks of something that its reader does not have, else None.

    A table counts as there where two lines of the question look like its rows, and a passage that "follows" where
    enough words do.
    """
    lowered = question.lower()
    has_table = len(_TABLE_LINE.findall(question)) >= 2
    if _OUTSIDE.search(lowered) or (not has_table and _PICTURED.search(lowered)):
        return "not_self_contained"
    following = _FOLLOWING.search(lowered)
    if following and not has_table and len(lowered[following.end() :].split()) < ENOUGH_WORDS:
        return "not_self_contained"
    return "not_self_contained" if _UNKNOWN.search(_SENTENCE_END.split(lowered, maxsplit=1)[0]) else None
