"""A question of each kind, as the readers give them."""

from data_prep.rows import Question

MCQ = Question(
    "mmlu_train",
    "gpr",
    "mcq",
    "How many legs has a spider?",
    options=(("A", "six"), ("B", "ten"), ("C", "eight legs")),
    gold_label="C",
    gold_text="eight legs",
    meta={"licence": "MIT", "subject": ""},
    file="x.jsonl",
    row=3,
)
OPEN = Question("natural_reasoning", "gpr", "open", "Why?", answers=("because",))
MATH = Question("math", "math", "math", "1+1?", answers=("2",), meta={"level": 2})
