"""The published results of Nemotron-CrossThink (arXiv 2504.13941, table numbers of v1), as far as they are known.

A figure that is not known is absent or None, and stays unknown. Accuracies are in per cent, lengths in tokens. Every
table bears its mark: reported (by the paper), or derived (our arithmetic on what it reports), as `means` is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from recipes.evaluation.summary import MATH, NON_MATH, PAPER

BENCHMARK_NAMES = {
    "mmlu_test": "MMLU",
    "mmlu_pro": "MMLU-PRO",
    "gpqa_diamond": "GPQA-D",
    "agieval": "AGIEVAL",
    "supergpqa": "SUPERGPQA",
    "math500": "MATH-500",
    "amc23": "AMC23",
    "agieval_math": "AGIEVAL math",
}
LENGTHS = ("gpr", "math", "mmlu_test")  # the columns of Table 9


@dataclass(frozen=True)
class PublishedRow:
    """A row of a published table.

    Attributes:
        key: what our rows are matched by: a blend, `base`, or a recipe of conf/ablations.py.
        label: as a reader finds it in the paper.
        cells: known figures by column.
        average: the plain mean of the seven benchmarks, as published.
    """

    key: str
    label: str
    cells: Mapping[str, float] = field(default_factory=dict)
    average: float | None = None


@dataclass(frozen=True)
class PublishedTable:
    """A table of the paper. `model` is the size that it was measured on, `unit` "%" or "tokens"."""

    number: int
    title: str
    model: str
    rows: tuple[PublishedRow, ...]
    columns: tuple[str, ...] = PAPER
    unit: str = "%"
    mark: str = "reported"
    note: str = ""

    @property
    def anchor(self) -> str:
        """The id of the table in a page."""
        return f"table-{self.number}"


def _seven(*values: float | None) -> dict[str, float]:
    return {name: value for name, value in zip(PAPER, values, strict=True) if value is not None}


BASE_7B = PublishedRow("base", "base model", _seven(74.20, 45.00, 31.82, 48.59, 25.36, 48.30, 40.00), 44.75)

TABLES = (
    PublishedTable(
        3,
        "Single sources, 250 steps",
        "Qwen2.5-7B",
        (
            PublishedRow("base", "base model", BASE_7B.cells, 44.75),
            PublishedRow("table3_mmlu_train", "MMLU [Train]", average=34.78),
            PublishedRow("table3_syn_qa", "Syn-QA", average=45.65),
            PublishedRow("table3_natural_reasoning", "Natural Reasoning", average=44.82),
            PublishedRow("table3_numina_math", "NuminaMath", average=53.06),
            PublishedRow("table3_personaskill_math", "PersonaSkill-MATH"),
            PublishedRow("table3_math", "MATH"),
        ),
        note="Of the single sources only averages are known. The base model's row is that of Table 4.",
    ),
    PublishedTable(
        4,
        "Blends",
        "Qwen2.5-7B",
        (
            BASE_7B,
            PublishedRow("orz", "Open-Reasoner-Zero", _seven(73.20, 48.90, 29.30, 63.49, 27.60, 81.40, 62.50), 55.20),
            PublishedRow("nd", "B_nd", average=55.66),
            PublishedRow("mr_up", "B_mr↑", average=57.72),
            PublishedRow("mcq_up", "B_mcq↑", average=56.89),
            PublishedRow("gpr_up", "B_gpr↑", _seven(74.94, 57.82, 38.58, 63.71, 29.16, 77.60, 65.00), 58.12),
            PublishedRow("open_up", "B_open↑", average=57.49),
            PublishedRow("score", "B_score", average=56.95),
            PublishedRow("only_mr", "B_only_mr", _seven(74.24, 54.26, 38.58, 61.39, 27.69, 78.60, 70.00), 57.82),
            PublishedRow("only_gpr", "B_only_gpr", _seven(72.77, 52.06, 37.06, 56.56, 27.44, 72.20, 55.00), 53.30),
        ),
        note="The non-math and math means are derived. Of five blends only averages are known.",
    ),
    PublishedTable(
        5,
        "Question template, natural proportions",
        "Qwen2.5-7B",
        (
            PublishedRow("table5_mixed", "multiple choice and open-ended", average=55.66),
            PublishedRow("table5_open", "open-ended only", average=56.87),
        ),
        note="Only averages are known. The mixed row equals B_nd of Table 4.",
    ),
    PublishedTable(
        6,
        "Answer template of multiple choice, general-purpose reasoning only",
        "Qwen2.5-7B",
        (
            PublishedRow("table6_long", "label and description", average=53.30),
            PublishedRow("table6_short", "label alone", average=54.50),
        ),
        note="Only averages are known. The long row equals B_only_gpr of Table 4.",
    ),
    PublishedTable(
        7,
        "32B and the difficulty filter",
        "Qwen2.5-32B",
        (
            PublishedRow("base", "base model", average=54.33),
            PublishedRow("gpr_up", "B_gpr↑", _seven(None, 68.83, 46.70, 73.90, None, None, 67.50), 65.84),
            PublishedRow("f_gpr_up", "B_f(gpr)↑", _seven(None, 69.43, 49.75, 75.82, None, None, 75.00), 67.99),
        ),
        note="MMLU, SUPERGPQA and MATH-500 are unknown, and so is every benchmark of the base model.",
    ),
    PublishedTable(
        9,
        "Mean tokens of right answers",
        "Qwen2.5-7B",
        (
            PublishedRow("gpr_up", "B_gpr↑", {"gpr": 385, "math": 622, "mmlu_test": 229}),
            PublishedRow("only_mr", "B_only_mr", {"gpr": 639, "math": 731, "mmlu_test": 351}),
            PublishedRow("orz", "Open-Reasoner-Zero", {"gpr": 1115, "math": 1257}),
        ),
        columns=LENGTHS,
        unit="tokens",
        note="How the paper weighs the benchmarks is unknown; ours are plain means over the benchmarks of each side.",
    ),
)


def means(row: PublishedRow) -> dict[str, float | None]:
    """Derived means of a row: over the seven benchmarks, the five that are no mathematics, and the two that are."""
    sides = {"all": PAPER, "non_math": NON_MATH, "math": MATH}
    return {
        name: sum(row.cells[key] for key in of) / len(of) if all(key in row.cells for key in of) else None
        for name, of in sides.items()
    }


# Where a row of ours is called by its arm of a sweep, and not by its own key.
_ROWS = {
    (5, "nd"): "table5_mixed",
    (5, "open"): "table5_open",
    (6, "only_gpr"): "table6_long",
    (6, "short"): "table6_short",
    (7, "filtered"): "f_gpr_up",
}
SINGLE = "single/"
"""An arm of one source alone is called so, with the source's name behind it."""


def published_row(table: int, arm: str) -> PublishedRow | None:
    """The paper's row that an arm of a sweep stands beside, or None where the table has none."""
    key = f"table3_{arm.removeprefix(SINGLE)}" if arm.startswith(SINGLE) else _ROWS.get((table, arm), arm)
    rows = next(one for one in TABLES if one.number == table).rows
    return next((row for row in rows if row.key == key), None)
