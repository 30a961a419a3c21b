"""What training asks of a pool before anything starts: the templates it was prepared with, the groups of its blend."""

from pathlib import Path

import pytest

from conf.compose import resolve
from conf.train import TrainConfig
from crossthink.errors import EXIT_FAILED, EXIT_USAGE, UserError
from data_prep.pool import SourceWriter, rows_file, write_manifest
from data_prep.rows import PoolRow, to_record_batch
from recipes import train


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Nine rows of one source of each kind, prepared with the long answer template."""
    facts = {"syn_qa": ("gpr", "mcq", 4), "natural_reasoning": ("gpr", "open", 2), "math": ("math", "math", 3)}
    for source, (domain, kind, rows) in facts.items():
        made = [PoolRow(str(n), source, domain, kind, "q", None, ["x"], []) for n in range(rows)]
        with SourceWriter(tmp_path / rows_file(source)) as writer:
            writer.add(to_record_batch(made))
    templates = {"question_template": "mixed", "answer_template": "long"}
    write_manifest(tmp_path, {source: rows for source, (_, _, rows) in facts.items()}, {"config": templates})
    return tmp_path


def config(pool: Path, *words: str) -> TrainConfig:
    return resolve("train", TrainConfig, [f"data={pool}", "model=tiny", "out=run", *words])


def test_a_pool_of_the_right_templates_is_taken(pool):
    for recipe in ("table5_mixed", "table6_long", "table3_math"):
        assert train.check_pool(config(pool, f"recipe={recipe}")).path == pool
    train.check(config(pool, "recipe=table6_long"))


@pytest.mark.parametrize(
    ("words", "says", "code"),
    [
        (
            ["recipe=table5_open"],
            ("recipe=table5_open trains on questions prepared with question_template=open", "question_template=mixed",
             "`crossthink prep recipe=table5_open out=FOLDER`"),
            EXIT_USAGE,
        ),
        (["recipe=table6_short"], ("answer_template=short", "answer_template=long"), EXIT_USAGE),
        (["pool_templates={question_template:mcq}"], ("This run", "prep question_template=mcq sources="), EXIT_USAGE),
        (["pool_templates={colour:red}"], ("pool_templates.colour", "question_template, answer_template"), EXIT_USAGE),
        (["blend.by=colour"], ("blend.by=colour", "source, domain, kind"), EXIT_USAGE),
        (["blend=score"], ("blend.scores.math= is missing", "unpublished"), EXIT_USAGE),
        (["recipe=table3_syn_qa", "blend=single_mmlu_train"], ("mmlu_train, which has no rows",), EXIT_FAILED),
    ],
)  # fmt: skip
def test_another_pool_is_refused_before_anything_starts(pool, words, says, code, monkeypatch):
    monkeypatch.chdir(pool)
    with pytest.raises(UserError) as caught:
        train.check(config(pool, *words))
    assert caught.value.exit_code == code
    assert all(text in str(caught.value) for text in says), str(caught.value)
    assert not (pool / "run").exists()


def test_the_shares_are_printed(pool):
    wanted = config(pool, "blend=mr_up", "steps=3", "prompts_per_step=3")
    lines = train.blend_plan(wanted, train.check_pool(wanted)).splitlines()
    assert lines[0] == "blend mr_up (gpr 1, math 2; by domain; derived), 9 draws:"
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["syn_qa", "22.22%"], ["natural_reasoning", "11.11%"], ["math", "66.67%"]
    ]  # fmt: skip
    assert lines[3].endswith("3 rows: 2 passes")
