"""Every dropped row has a step and a reason, and the sums add up: random mixes of good and flawed rows, all sources.

The expected outcome of a row stands beside its flaw, and what only the other rows decide (duplicates, sample) is
computed here a second time, as plainly as possible.
"""

import gzip
import itertools
import json
from collections import Counter

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from prep_helpers import check_sums, config, dropped, shown

from conf.prep import DecontaminateConfig
from crossthink.errors import UserError
from data_prep import prep
from data_prep.pool import Pool
from data_prep.staging import staging_folder
from data_prep.steps import SHOWN

BAD = ("parse", "bad_row")
UNCLEAN = ("filter", "bad_characters")
ASKED = "How many legs has the beast of the benchmark?"


def question(n):
    return f"How many legs has animal {n}?"


def mmlu(n, **change):
    return {"question": question(n), "subject": "", "choices": ["4", "6", "8", "10"], "answer": 2} | change


def nvidia(text, gold):
    return {"data_source": "s", "prompt": [], "reward_model": {"ground_truth": gold}, "meta_data": {"question": text}}


def syn(n, gold="C: 8", listed="\nA: 4\nB: 6\nC: 8\nD: 10", **change):
    return nvidia(question(n) + listed, gold) | change


def natural(n, **change):
    return {"question": question(n), "reference_answer": "8"} | change


def numina(n, **change):
    facts = {"problem_type": "Algebra", "problem_is_valid": "Yes", "solution_is_valid": "Yes", "source": "x"}
    return {"problem": question(n), "answer": "8", **facts, **change}


def math(n, **change):
    return {"problem": question(n), "level": "Level 4", "type": "Algebra", "solution": r"\boxed{8}"} | change


def long(n):
    return " ".join(["word"] * 11) + f" {n}"


# Source to name of a flaw to (row of number n, outcome as it stands, outcome as T_Open); None: it passes.
ROWS = {
    "mmlu_train": {
        "good": (mmlu, None, None),
        "wrong type": (lambda n: mmlu(n, answer="2"), BAD, BAD),
        "missing field": (lambda n: {"question": question(n)}, BAD, BAD),
        "no JSON": (lambda n: b'{"question": ' + str(n).encode(), BAD, BAD),
        "no object": (lambda n: [n], BAD, BAD),
        "empty": (lambda n: mmlu(n, question=" \n"), ("parse", "question_empty"), ("parse", "question_empty")),
        "NUL": (lambda n: mmlu(n, choices=["4", "6\0", "8", "10"]), UNCLEAN, UNCLEAN),
        "surrogate": (lambda n: mmlu(n, question=f"{n} \ud800?"), UNCLEAN, UNCLEAN),
        "surrogate in meta": (lambda n: mmlu(n, subject="\udfff"), UNCLEAN, UNCLEAN),
        "equal": (lambda n: mmlu(n, choices=["8", "6", "8", "10"]), *[("filter", "options_equal")] * 2),
        "asked": (lambda n: mmlu(n, question=ASKED.upper()), *[("decontaminate", "in_mmlu_test")] * 2),
        "blank": (
            lambda n: mmlu(n, choices=["4", "6", "", "10"]),
            ("gold", "bad_gold"),
            ("filter_open", "answer_missing"),
        ),
        "long option": (
            lambda n: mmlu(n, choices=["4", "6", long(n), "10"]),
            None,
            ("filter_open", "answer_too_long"),
        ),
        "stem": (
            lambda n: mmlu(n, question=f"Which of the following is number {n}?"),
            None,
            ("template", "stem_needs_options:of_the_following"),
        ),
    },
    "syn_qa": {
        "good": (syn, None, None),
        "other marks": (lambda n: syn(n, "C. 8", "\nA. 4\nB. 6\nC. 8"), None, None),
        "no options": (lambda n: syn(n, listed=""), *[("parse", "no_options_in_question")] * 2),
        "unlisted": (lambda n: syn(n, "F: 8"), *[("filter", "gold_not_among_options")] * 2),
        "disagree": (lambda n: syn(n, "C: 6"), *[("filter", "letter_and_text_disagree")] * 2),
        "null": (lambda n: syn(n, None), BAD, BAD),
        "flat": (lambda n: syn(n, meta_data="q"), BAD, BAD),
    },
    "natural_reasoning": {
        "good": (natural, None, None),
        "null": (lambda n: natural(n, reference_answer=None), *[("filter", "answer_missing")] * 2),
        "long": (lambda n: natural(n, reference_answer=long(n)), *[("filter", "answer_too_long")] * 2),
        "no words": (lambda n: natural(n, reference_answer="$$"), *[("gold", "bad_gold")] * 2),
        "list": (lambda n: natural(n, reference_answer=["8"]), BAD, BAD),
    },
    "numina_math": {
        "good": (numina, None, None),
        "proof": (lambda n: numina(n, answer="proof"), *[("parse", "answer_proof")] * 2),
        "not found": (lambda n: numina(n, answer="notfound"), *[("parse", "answer_notfound")] * 2),
        "bad problem": (lambda n: numina(n, problem_is_valid="No"), *[("parse", "problem_not_valid")] * 2),
        "bad solution": (lambda n: numina(n, solution_is_valid=None), *[("parse", "solution_not_valid")] * 2),
        "null": (lambda n: numina(n, answer=None), *[("filter", "answer_missing")] * 2),
        "unclosed": (lambda n: numina(n, answer="("), *[("gold", "bad_gold")] * 2),
    },
    "personaskill_math": {
        "good": (lambda n: nvidia(question(n), "8"), None, None),
        "null": (lambda n: nvidia(question(n), None), *[("filter", "answer_missing")] * 2),
        "number": (lambda n: nvidia(question(n), 8), BAD, BAD),
    },
    "math": {
        "good": (math, None, None),
        "easy": (lambda n: math(n, level="Level 1"), *[("filter", "level_not_wanted")] * 2),
        "no level": (lambda n: math(n, level="Level ?"), *[("filter", "level_not_wanted")] * 2),
        "bad level": (lambda n: math(n, level=9), BAD, BAD),
        "no box": (lambda n: math(n, solution="8"), *[("filter", "answer_missing")] * 2),
        "asked": (lambda n: math(n, problem=ASKED), None, None),  # a short item with options needs the options, too
    },
}


def key(source, raw, opened):
    """What makes two rows that pass one question: text, and the texts of the options."""
    text = (raw.get("question") or raw.get("problem") or raw["meta_data"]["question"]).strip()
    stem, *options = text.splitlines() if source == "syn_qa" else (text, *raw.get("choices", ()))
    texts = [option.split(" ", 1)[-1] if source == "syn_qa" else option for option in options]
    return stem, () if opened else tuple(sorted(texts))


def expected(rows, opened, sample):
    """For every source its counts of (step, reason) and the questions that are left; and the first without any."""
    seen, found = set(), {}
    for source, chosen in rows.items():
        counts, left = Counter(), []
        for flaw, n in chosen:
            make, *outcomes = ROWS[source][flaw]
            outcome = outcomes[opened]
            if outcome is None and (content := key(source, make(n), opened)) in seen:
                outcome = ("duplicates", "duplicate")
            if outcome is None:
                seen.add(content)
                left.append(content[0])
            else:
                counts[outcome] += 1
        if source == list(rows)[-1] and sample is not None and len(left) > sample:
            counts["sample", "not_sampled"] = len(left) - sample
        found[source] = counts, left
        if not left:
            return found, source
    return found, None


def write(path, rows):
    lines = b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return path


def some_rows(source):
    flaws = st.sampled_from(sorted(ROWS[source]))
    return st.lists(st.tuples(flaws | st.just("good"), st.integers(0, 15)), min_size=1, max_size=16)


# Not shrunk: an example takes a quarter of a second, and the lists are short.
@settings(deadline=None, max_examples=25, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    data=st.data(),
    order=st.permutations(sorted(ROWS)),
    opened=st.booleans(),
    sample=st.none() | st.integers(1, 5),
    zipped=st.booleans(),
    filled=st.sampled_from([True, True, True, False]),
)
def test_every_row_is_in_the_pool_or_counted_under_its_reason(
    tmp_path_factory, data, order, opened, sample, zipped, filled
):
    rows = {source: data.draw(some_rows(source), source) for source in order}
    if filled:  # one row that is left, in every source: else many examples end at a source without any
        rows = {source: [*found, ("good", 100 + at)] for at, (source, found) in enumerate(rows.items())}
    check_pool(tmp_path_factory.mktemp("sums"), rows, opened, sample, ".jsonl.gz" if zipped else ".jsonl")


@pytest.mark.parametrize("opened", [False, True])
def test_every_flaw_has_its_reason(tmp_path, opened):
    numbers = itertools.count()
    rows = {source: [(flaw, next(numbers)) for flaw in flaws] for source, flaws in ROWS.items()}
    rows["numina_math"] += [("proof", n) for n in range(9)]  # more of one kind than are shown
    assert expected(rows, opened, None)[1] is None
    check_pool(tmp_path, rows, opened, sample=None, suffix=".jsonl")


def check_pool(folder, rows, opened, sample, suffix):
    (folder / "benchmarks").mkdir()
    write(folder / "benchmarks" / "mmlu_test.jsonl", [mmlu(0, question=ASKED)])
    made = {source: [ROWS[source][flaw][0](n) for flaw, n in chosen] for source, chosen in rows.items()}
    chosen = config(
        folder / "pool",
        {source: write(folder / f"{source}{suffix}", found) for source, found in made.items()},
        question_template="open" if opened else "mixed",
        bad_rows="drop",
        decontaminate=DecontaminateConfig(path=str(folder / "benchmarks")),
    )
    last = list(rows)[-1]
    chosen.sources[last].sample = sample
    wanted, empty = expected(rows, opened, sample)
    if empty is not None:
        with pytest.raises(UserError, match=f"Source {empty}: none of the {len(rows[empty])} rows of .* is left"):
            prep.run(chosen)
        assert not (folder / "pool").exists()
        finished = list(rows).index(empty) > 0
        assert staging_folder(folder / "pool").exists() == finished
        return
    prep.run(chosen)
    pool = Pool.open(folder / "pool")
    check_sums(pool)
    pieces = Counter((row["source"], row["step"], row["reason"]) for row in shown(pool))
    for source, (counts, left) in wanted.items():
        assert dropped(pool, source) == counts
        questions = [row.question for row in pool.rows(source)]
        if source == last and sample is not None:
            assert len(questions) == min(sample, len(left)) and set(questions) <= set(left)
        else:
            assert questions == left
        for reason, count in counts.items():
            assert pieces.pop((source, *reason)) == min(count, SHOWN)
    assert not pieces
