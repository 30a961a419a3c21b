"""The published tables as data: what is derived follows from what is reported."""

import pytest

from conf.ablations import ABLATIONS
from conf.blend import shipped_blends
from recipes.evaluation.summary import PAPER
from recipes.reporting.paper import TABLES, means

ROWS = [(table, row) for table in TABLES for row in table.rows]


def test_averages_follow_from_the_seven_benchmarks():
    checked = 0
    for _, row in ROWS:
        if set(row.cells) == set(PAPER):
            assert means(row)["all"] == pytest.approx(row.average, abs=0.0051)
            checked += 1
    assert checked == 6  # five of Table 4, and the base model again in Table 3


def test_split_means_are_those_of_the_fact_sheet():
    splits = {row.key: means(row) for table, row in ROWS if table.number == 4}
    for key, non_math, math in (
        ("base", 44.99, 44.15),
        ("orz", 48.50, 71.95),
        ("gpr_up", 52.84, 71.30),
        ("only_mr", 51.23, 74.30),
        ("only_gpr", 49.18, 63.60),
    ):
        assert splits[key]["non_math"] == pytest.approx(non_math, abs=0.0051)
        assert splits[key]["math"] == pytest.approx(math, abs=0.0051)


def test_what_is_not_known_is_nowhere():
    for table, row in ROWS:
        assert set(row.cells) <= set(table.columns)
        if set(row.cells) != set(PAPER):
            assert means(row)["all"] is None
    table_7 = next(table for table in TABLES if table.number == 7)
    assert all(not {"mmlu_test", "supergpqa", "math500"} & set(row.cells) for row in table_7.rows)


def test_rows_are_found_by_recipe_and_blend():
    keys = {row.key for _, row in ROWS}
    assert set(ABLATIONS) <= keys
    assert set(shipped_blends()) - {"custom", "pool"} <= keys
    for table in TABLES:
        assert len({row.key for row in table.rows}) == len(table.rows)


def test_rows_equal_across_tables_are_equal():
    averages = {(table.number, row.key): row.average for table, row in ROWS}
    assert averages[5, "table5_mixed"] == averages[4, "nd"]
    assert averages[6, "table6_long"] == averages[4, "only_gpr"]
    assert averages[3, "base"] == averages[4, "base"]
