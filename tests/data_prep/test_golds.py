"""No row that the reward server would judge `bad_gold` reaches a pool, and no other row is dropped for it."""

import asyncio
import contextlib
import json
import threading
import time

import psutil
import pytest
from prep_helpers import dropped, prepare
from process_helpers import runs
from raw_rows import write_jsonl

from conf.prep import DedupConfig, FilterConfig
from crossthink.errors import UserError
from data_prep.golds import MATCH, GoldJudge, unsettled
from data_prep.rows import Question
from reward_server.batch import judge_batch
from reward_server.pool import WorkerPool
from reward_server.scoring.judge import Reply
from reward_server.verdicts import BAD_GOLD, ERROR, Item

GOOD = [r"\frac{x+1}{2}", r"x^{n}+1", r"\sqrt{2}+e"]
BAD = ["x+", r"\frac", "?"]


@pytest.mark.parametrize(
    ("kind", "golds", "found"),
    [
        ("math", ["4"], True),
        ("math", [r"\frac{3}{2}", "1.5"], True),
        ("math", ["("], False),
        ("math", ["4", "("], False),
        ("math", ["4", r"\frac{1}{x}"], ("4", r"\frac{1}{x}")),
        ("math", ["4", "x+1"], True),
        ("math", [" "], False),
        ("math", [], False),
        ("open", ["Rayleigh scattering"], True),
        ("open", ["$$"], False),
        ("mcq", ["B. CO2"], True),
        ("mcq", ["B"], True),
        ("mcq", ["E"], False),
        ("mcq", ["B. O2"], False),
    ],
)
def test_most_golds_are_settled_without_a_worker(kind, golds, found):
    options = (("A", "O2"), ("B", "CO2")) if kind == "mcq" else None
    assert unsettled(Question("s", "gpr", kind, "q", options=options, answers=tuple(golds)), golds) == found


@contextlib.contextmanager
def counting_children(before):
    """How many more processes there are below this one, again and again while the block runs."""
    counts, done = [], threading.Event()

    def count():
        while not done.wait(0.01):
            counts.append(len(set(psutil.Process().children(recursive=True)) - before))

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield counts
    finally:
        done.set()
        thread.join()


def test_workers_start_with_the_first_gold_and_end_with_the_block():
    asked, before = [], set(psutil.Process().children(recursive=True))
    with GoldJudge(2, deadline_s=10.0) as judge:
        assert judge.bad([], asked.append) == set() and asked == []
        assert set(psutil.Process().children(recursive=True)) == before, "no worker before the first gold"
        with counting_children(before) as counts:
            assert judge.bad([*GOOD, *BAD, *GOOD], asked.append) == set(BAD)
        assert sum(asked) == len(GOOD) + len(BAD), "each once"
        workers = set(psutil.Process().children(recursive=True)) - before
        # Counted while golds are asked about: a worker that took long is replaced when the next question comes.
        assert 3 <= max(counts) <= 5, "two workers, at most two aside, and the process that they are forked from"
        assert judge.bad([BAD[0], GOOD[0]], asked.append) == {BAD[0]}
        assert sum(asked) == len(GOOD) + len(BAD), "what is known is not asked again"
    assert not any(map(runs, workers))


class FakePool:
    """Answers with replies by gold, and counts how many questions wait at the same time."""

    def __init__(self, replies):
        self.replies, self.now, self.most = replies, 0, 0

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def gold_is_good(self, gold):
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        return self.replies(gold)


def judge_with(replies):
    judge = GoldJudge(1, deadline_s=1.0)
    judge._pool = FakePool(replies)
    return judge


def test_a_failure_of_the_grader_says_nothing_about_the_gold():
    with judge_with(lambda gold: Reply(failure=ERROR)) as judge, pytest.raises(UserError, match="failed twice.*'x'"):
        judge.bad(["x"], lambda n: None)


def test_many_golds_are_asked_in_portions():
    asked = []
    with judge_with(lambda gold: Reply(int(gold) % 3 > 0)) as judge:
        golds = [str(n) for n in range(1000)]
        assert judge.bad(golds, asked.append) == {str(n) for n in range(0, 1000, 3)}
        assert sum(asked) == 1000 and len(asked) > 1 and judge._pool.most < 1000


def test_a_gold_that_takes_too_long_is_bad_as_it_is_for_the_server():
    started = time.monotonic()
    with GoldJudge(1, deadline_s=0.001) as judge:
        assert judge.bad([r"\frac{x^{7}+\sqrt{y+1}}{\sin(2x)}"], lambda n: None)
    assert time.monotonic() - started < 60


def verdicts(rows):
    """The reward server's own, on a response without an answer: only `bad_gold` comes before `no_box`."""
    items = [
        Item(row.id, row.kind, "nothing", tuple(row.ground_truth), tuple(row.options.items()) if row.options else None)
        for row in rows
    ]

    async def judge():
        async with WorkerPool(2, deadline_s=10.0) as pool:
            return await judge_batch(items, MATCH, pool)

    return {verdict.id: verdict.status for verdict in asyncio.run(judge())}


@pytest.fixture(scope="module")
def real_paths(shared_data, tmp_path_factory):
    """Real questions and golds in the schemas of four sources; three of them out of a stand-in's rows."""
    folder = tmp_path_factory.mktemp("golds")

    def rows(name):
        return [json.loads(line) for line in (shared_data / f"{name}.jsonl").open(encoding="utf-8")]

    def asked(row):
        return json.loads(row["messages"])[-1]["content"]

    def nvidia(row):
        inner = {"reward_model": {"ground_truth": row["ground_truth"]}, "meta_data": {"question": asked(row)}}
        return {"data_source": "s", "prompt": [], **inner}

    return {
        "math": shared_data / "math_train_sample.jsonl",
        "personaskill_math": write_jsonl(folder / "p.jsonl", [*map(nvidia, rows("deepmath_roll_transformed"))]),
        "syn_qa": write_jsonl(folder / "s.jsonl", [*map(nvidia, rows("nemotron_crossthink_qa_roll_transformed"))]),
        "natural_reasoning": write_jsonl(
            folder / "n.jsonl",
            [
                {"question": asked(row), "reference_answer": row["ground_truth"]}
                for row in rows("multi_subject_rlvr_open_qa_roll_transformed")
            ],
        ),
    }


@pytest.mark.parametrize("answer_template", ["long", "short"])
def test_the_reward_server_judges_every_row_of_a_real_pool(real_paths, tmp_path, answer_template):
    short = {name: path for name, path in real_paths.items() if name == "syn_qa"}
    paths = real_paths if answer_template == "long" else short
    some = {"dedup": DedupConfig(exact=False), "answer_template": answer_template}
    checked = prepare(tmp_path / "checked", paths, filters=FilterConfig(math_levels=None), **some)
    everything = prepare(tmp_path / "all", paths, filters=FilterConfig(math_levels=None, gold=False), **some)
    found = verdicts(everything.rows())
    kept = {row.id for row in checked.rows()}
    assert BAD_GOLD not in {found[row] for row in kept}
    assert {row for row, status in found.items() if status == BAD_GOLD} == found.keys() - kept
    bad = {name: dropped(checked, name)["gold", "bad_gold"] for name in paths}
    assert bad == {name: everything.counts[name] - checked.counts[name] for name in paths}
    assert answer_template == "short" or bad["personaskill_math"], "a stand-in without a single bad gold shows nothing"
