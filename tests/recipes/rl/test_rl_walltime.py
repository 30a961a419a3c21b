"""The job's end: read strictly, and kept away from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossthink.errors import ConfigError
from recipes.rl.walltime import JOB_END, Walltime, job_end, margin_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1790000000", 1790000000.0),
        ("1790000000.5", 1790000000.5),
        (" 1790000000\n", 1790000000.0),
        ("2026-09-21T14:13:20+00:00", 1790000000.0),
        ("2026-09-21T14:13:20Z", 1790000000.0),
        ("2026-09-21T16:13:20+02:00", 1790000000.0),
    ],
)
def test_what_is_a_moment(text, seconds):
    assert job_end({JOB_END: text}) == seconds


def test_no_end():
    assert job_end({}) is job_end({JOB_END: ""}) is None
    assert not Walltime(None, 60.0).is_near(1e12, 1e12)


@pytest.mark.parametrize("text", ["tomorrow", "nan", "inf", "2026-09-21T14:13:20", "14:13", "12h", "2026-09-21"])
def test_what_is_none(text):
    with pytest.raises(ConfigError) as caught:
        job_end({JOB_END: text})
    assert f"{JOB_END}={text}" in str(caught.value) and "ISO 8601" in str(caught.value)


def test_the_margin():
    assert margin_s([], 60.0) == 90.0
    assert margin_s([10.0, 30.0, 20.0], 10.0) == 60.0


def test_a_measured_save_replaces_the_guess():
    walltime = Walltime(1000.0, 60.0)
    assert not walltime.is_near(910.0, None)
    assert walltime.is_near(910.1, None)
    walltime.step_took(20.0)
    assert walltime.margin_s(None) == 120.0
    assert walltime.margin_s(4.0) == 36.0
    assert [walltime.is_near(now, 4.0) for now in (964.0, 964.1, 2000.0)] == [False, True, True]


def test_old_steps_are_forgotten():
    walltime = Walltime(1000.0, 0.0)
    for seconds in (100.0, *[2.0] * 20):
        walltime.step_took(seconds)
    assert walltime.margin_s(0.0) == 3.0


@given(st.lists(st.floats(0, 1e5), max_size=5), st.floats(0, 1e5), st.floats(0, 1e9), st.floats(0, 1e9))
def test_nearer_never_turns_into_far(steps, save, end, now):
    walltime = Walltime(end, save)
    for seconds in steps:
        walltime.step_took(seconds)
    if walltime.is_near(now, None):
        assert walltime.is_near(now + 1.0, None) and walltime.is_near(now, save + 1.0)
    else:
        assert end - now >= 1.5 * (max(steps, default=0.0) + save) - 1e-5  # rounding of moments around 1e9
