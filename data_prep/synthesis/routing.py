"""Which of the subjects a page is about: as in the paper a topic, then a sub-topic, guided by MMLU.

How the paper routed pages is unknown; both routers are ours. The lexical one needs no model: it compares a page's words
with those of each subject's title, sub-topics and key terms.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer
from sklearn.preprocessing import normalize

from crossthink.errors import UserError
from data_prep.synthesis.subjects import Subject

NO_SUBJECT = "no_subject"
READ_CHARACTERS = 20_000
"""A page is judged by its beginning: more changes the route of few, and takes time that grows with the page."""

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Route:
    """Where a text belongs.

    Attributes:
        subject: name of the nearest subject, or None.
        subtopic: the nearest of its sub-topics, or its title where none is near; None without a subject.
        score: similarity to the nearest subject, 0 to 1.
        margin: by how much it exceeds the similarity to the second.
        reason: `no_subject` where the score is too low for a subject.
    """

    subject: str | None
    subtopic: str | None
    score: float
    margin: float
    reason: str | None


class LexicalRouter:
    """Routes by words under TF-IDF; texts in English.

    A word that belongs to no subject counts in a text's length, so that one term in a long page is little and the same
    term in a short one is much.

    Args:
        subjects: at least one.
        least_score: texts of a lower score belong to no subject.
    """

    def __init__(self, subjects: Sequence[Subject], least_score: float) -> None:
        self._subjects = tuple(subjects)
        self._least_score = least_score
        described = [words_of("\n".join([one.title, *one.subtopics, *one.terms])) for one in self._subjects]
        # Tokens come ready made, hence the analyzer that changes nothing.
        self._vectors = TfidfVectorizer(analyzer=list, sublinear_tf=True, norm=None)
        self._known = normalize(self._vectors.fit_transform(described))
        self._subtopics = [
            normalize(self._vectors.transform([words_of(text) for text in one.subtopics])) for one in self._subjects
        ]

    def route(self, texts: Sequence[str]) -> list[Route]:
        """One route for each text, in their order."""
        if not texts:
            return []
        tokens = [words_of(text[:READ_CHARACTERS]) for text in texts]
        vectors = self._vectors.transform(tokens)
        known = np.diff(vectors.indptr)
        strange = np.array([len(set(one)) for one in tokens]) - known
        # A strange word weighs as much as one of a single subject: it is at least as rare.
        squares = np.asarray(vectors.multiply(vectors).sum(axis=1)).ravel() + strange * self._vectors.idf_.max() ** 2
        lengths = np.sqrt(np.maximum(squares, 1.0))[:, None]
        scores = np.asarray((vectors @ self._known.T).todense()) / lengths
        routes = []
        for row, (best, score, margin) in enumerate(_nearest(scores)):
            if score < self._least_score or score <= 0:
                routes.append(Route(None, None, score, margin, NO_SUBJECT))
                continue
            near = np.asarray((vectors[row] @ self._subtopics[best].T).todense()).ravel()
            subject = self._subjects[best]
            subtopic = subject.subtopics[int(near.argmax())] if near.max() > 0 else subject.title
            routes.append(Route(subject.name, subtopic, score, margin, None))
        return routes


class EmbeddingRouter:
    """Routes by an embedding model: a text belongs to the subject of the sub-topic that is nearest by cosine.

    Args:
        subjects: at least one.
        least_score: texts of a lower score belong to no subject. Scores of different models are not comparable.
        embed: texts to one vector each, as rows; asked once for all sub-topics, then for each batch of texts.
    """

    def __init__(
        self, subjects: Sequence[Subject], least_score: float, embed: Callable[[list[str]], np.ndarray]
    ) -> None:
        self._subjects = tuple(subjects)
        self._least_score = least_score
        self._embed = embed
        self._places = [(at, topic) for at, one in enumerate(self._subjects) for topic in one.subtopics]
        self._known = self._unit_vectors([f"{self._subjects[at].title}: {topic}" for at, topic in self._places], None)
        self._starts = np.cumsum([0, *(len(one.subtopics) for one in self._subjects[:-1])])

    def route(self, texts: Sequence[str]) -> list[Route]:
        """One route for each text, in their order.

        Raises:
            UserError: the model gave something other than one finite vector of the same length for each text.
        """
        if not texts:
            return []
        vectors = self._unit_vectors([text[:READ_CHARACTERS] for text in texts], self._known.shape[1])
        near = vectors @ self._known.T
        by_subject = np.maximum.reduceat(near, self._starts, axis=1)
        routes = []
        for row, (best, score, margin) in enumerate(_nearest(by_subject)):
            if score < self._least_score:
                routes.append(Route(None, None, score, margin, NO_SUBJECT))
                continue
            start = self._starts[best]
            nearest = start + near[row, start : start + len(self._subjects[best].subtopics)].argmax()
            routes.append(Route(self._subjects[best].name, self._places[nearest][1], score, margin, None))
        return routes

    def _unit_vectors(self, texts: list[str], width: int | None) -> np.ndarray:
        vectors = np.asarray(self._embed(texts), dtype=np.float64)
        if vectors.ndim != 2 or len(vectors) != len(texts) or width not in (None, vectors.shape[1]):
            wanted = f"one vector for each of {len(texts)} texts" + (f", of {width} numbers" if width else "")
            raise UserError(f"The embedding model gave an array of shape {vectors.shape}; needed is {wanted}.")
        if not np.isfinite(vectors).all():
            raise UserError(f"The embedding model gave a vector that is not finite for one of {len(texts)} texts.")
        return normalize(vectors)


def words_of(text: str) -> list[str]:
    """The words of `text` in lower case, without stop words and without the plural's endings."""
    return [_singular(word) for word in _WORD.findall(text.lower()) if word not in ENGLISH_STOP_WORDS]


def _singular(word: str) -> str:
    """The word without the plural's ending, roughly: what matters is that both forms become one."""
    if len(word) < 4 or word.endswith(("ss", "us", "is")) or not word.endswith("s"):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-2] if word.endswith(("ches", "shes", "xes")) else word[:-1]


def _nearest(scores: np.ndarray) -> list[tuple[int, float, float]]:
    """For each row: the column of the highest score, that score, and its lead over the second (over 0 alone)."""
    best = scores.argmax(axis=1)
    top = scores.max(axis=1)
    second = np.partition(scores, -2, axis=1)[:, -2] if scores.shape[1] > 1 else np.zeros(len(scores))
    return [(int(at), float(one), float(one - other)) for at, one, other in zip(best, top, second, strict=True)]
