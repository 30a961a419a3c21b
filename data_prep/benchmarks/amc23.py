"""AMC23: the 40 problems of the AMC 12 of 2023 that have a whole number as answer.

40 rows, open; one problem is 2.5 points. The gold is `answer` written as a whole number. Unverified: the licence, and
revision and file, which several public projects pin so.
"""

from __future__ import annotations

import math
from typing import Any

from data_prep.benchmarks.base import Benchmark, extra
from data_prep.rows import Question
from data_prep.sources.base import BadRow, text


class Amc23(Benchmark):
    """Rows `{id, question, answer, url}`; the answer is a float (27.0), and every one of them a whole number."""

    def parse(self, raw: dict[str, Any]) -> Question:
        """See `Source.parse`."""
        answer = plain_number(raw["answer"])
        return self.build("math", text(raw, "question"), extra=extra(raw, id="id"), answers=(answer,))


def plain_number(value: Any) -> str:
    """27.0, 27, "27.0" and "27" all as "27", 2.5 as "2.5".

    Raises:
        BadRow: no finite number.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise BadRow(f"answer is {value!r}, expected a number")
    return str(int(number)) if number.is_integer() else str(number)


BENCHMARK = Amc23(
    name="amc23",
    hf_id="math-ai/amc23",
    split="test",
    revision="80815d37005feb82cd7f8fbc6901d5d3eff43057",
    licence="unknown (problems: Mathematical Association of America)",
    domain="math",
    schema=("question", "answer"),
    expected_rows=40,
    files=("test-*.parquet|data/test-*.parquet",),
    unverified=("revision", "files", "licence"),
)
