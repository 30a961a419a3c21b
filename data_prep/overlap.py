"""Do two pools share a question? What is evaluated must not have been trained on."""

from __future__ import annotations

import hashlib

import orjson

from data_prep.pool import Pool
from data_prep.rows import PoolRow, normalise


def content_key(row: PoolRow) -> bytes:
    """Equal for rows that are one question, whatever their source: normalised lower-case text, options in any order."""
    options = sorted(normalise(text).lower() for text in (row.options or {}).values())
    return hashlib.blake2b(orjson.dumps([normalise(row.question).lower(), *options]), digest_size=16).digest()


def shared_questions(training: Pool, held_out: Pool) -> list[PoolRow]:
    """The rows of `held_out` whose question also stands in `training`."""
    trained = {content_key(row) for row in training.rows()}
    return [row for row in held_out.rows() if content_key(row) in trained]
