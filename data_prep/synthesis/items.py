"""A question on its way: the draft that a model wrote, the candidate with its vote, and the row that `prep` reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from data_prep.synthesis.answers import LABELS, shuffled_options
from data_prep.synthesis.personas import Pair
from data_prep.synthesis.votes import Vote
from reward_server.scoring import mcq

DATA_SOURCE = "crossthink_synth"
"""What a row calls its origin, in the field in which the released rows name theirs."""


@dataclass(frozen=True)
class Draft:
    """A question as a model wrote it.

    Attributes:
        kind: `mcq`, `open` or `math`.
        question: the stem, without options.
        options: texts in order, the first is `A`; of other kinds none.
        claimed: what its writer says is right: an option's text, or the answer; empty where that was not asked.
        subject: name of the subject; of a mathematical problem the skill's area.
        subtopic: what it was asked to be about; of a mathematical problem the skill.
        difficulty: as asked for.
    """

    kind: str
    question: str
    options: tuple[str, ...]
    claimed: str
    subject: str
    subtopic: str
    difficulty: str

    @property
    def labelled(self) -> tuple[tuple[str, str], ...]:
        """(label, text) of each option."""
        return tuple(zip(LABELS, self.options, strict=False))

    @property
    def claimed_label(self) -> str | None:
        """The option that `claimed` names, by label or by text; None where it names none or several."""
        named = mcq.labels(self.claimed, self.labelled) if self.options and self.claimed else None
        return next(iter(named)) if named and len(named) == 1 else None

    @property
    def question_text(self) -> str:
        """The question with its options, as a row of Syn-QA holds it."""
        return "\n".join([self.question, *(f"{label}: {text}" for label, text in self.labelled)])


@dataclass(frozen=True)
class Page:
    """Where a page is from.

    Attributes:
        url: of the page.
        warc_record: id of its WARC record.
        crawl_file: the WARC or WET file that held it.
    """

    url: str
    warc_record: str
    crawl_file: str


@dataclass(frozen=True)
class Candidate:
    """A draft that was solved.

    Attributes:
        draft: the question.
        vote: what its solutions agree on, kept or not; of kind mcq the answers are labels of `draft.options`.
        origin: the page, or persona and skill, that it was written from.
        prompts: name to hash of the prompts that made it.
        models: what a model did (`question`, `solution`) to its name.
    """

    draft: Draft
    vote: Vote
    origin: Page | Pair
    prompts: Mapping[str, str]
    models: Mapping[str, str]

    @property
    def gold(self) -> str:
        """The text of the answer that won, which there must be."""
        assert self.vote.winner is not None, "a candidate without a winner has no gold"
        return gold_text(self.draft, self.vote.winner)


def gold_text(draft: Draft, winner: str) -> str:
    """The text of an answer: of kind mcq that of the option `winner`, else `winner` itself."""
    return dict(draft.labelled)[winner] if draft.kind == "mcq" else winner


def mcq_draft(reply: Mapping[str, Any], subject: str, subtopic: str, difficulty: str, seed: int | str) -> Draft:
    """The draft that a reply under `schemas.draft_mcq` holds.

    Its options are put into an order drawn with `seed`, as models like to write the right one in the same place.
    """
    texts = [text.strip() for text in reply["options"]]
    drawn = tuple(text for _, text in shuffled_options(texts, seed, 0).options)
    return Draft("mcq", reply["question"].strip(), drawn, reply["answer"].strip(), subject, subtopic, difficulty)


def math_draft(reply: Mapping[str, Any], pair: Pair, difficulty: str) -> Draft:
    """The draft that a reply under `schemas.draft_math` holds."""
    return Draft("math", reply["question"].strip(), (), "", pair.skill.area, pair.skill.name, difficulty)


def syn_qa_row(candidate: Candidate) -> dict[str, Any]:
    """A kept candidate of kind mcq in the schema of Syn-QA (`data_prep/sources/syn_qa.py`)."""
    draft = candidate.draft
    facts = {"subject": draft.subject, "subtopic": draft.subtopic, "claimed": draft.claimed_label}
    return _row(candidate, f"{candidate.vote.winner}: {candidate.gold}", facts)


def personaskill_row(candidate: Candidate) -> dict[str, Any]:
    """A kept candidate of kind math in the schema of PersonaSkill-MATH (`data_prep/sources/personaskill_math.py`)."""
    return _row(candidate, candidate.gold, {"area": candidate.draft.subject, "skill": candidate.draft.subtopic})


def _row(candidate: Candidate, ground_truth: str, facts: dict[str, Any]) -> dict[str, Any]:
    assert candidate.vote.kept, f"a row of a vote that is not kept: {candidate.vote.reason}"
    origin, vote, question = candidate.origin, candidate.vote, candidate.draft.question_text
    return {
        "data_source": DATA_SOURCE,
        "prompt": [{"role": "user", "content": question}],
        "reward_model": {"style": "rule", "ground_truth": ground_truth},
        "meta_data": {
            "question": question,
            **facts,
            "difficulty": candidate.draft.difficulty,
            **({"persona": origin.persona} if isinstance(origin, Pair) else asdict(origin)),
            "prompts": dict(candidate.prompts),
            "models": dict(candidate.models),
            "votes": {"asked": vote.asked, "valid": vote.valid, "winning": vote.winning},
        },
    }
