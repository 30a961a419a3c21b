from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossthink.errors import ConfigError
from data_prep.synthesis.personas import Skill, draw_pairs, load_personas, load_skills

pytestmark = pytest.mark.timeout(60)

sizes = st.integers(1, 12)


def world(people, skills):
    return tuple(f"persona {n}" for n in range(people)), tuple(Skill(f"skill {n}", "area") for n in range(skills))


def test_the_built_in_lists():
    personas, skills = load_personas(None), load_skills(None)
    assert len(personas) == len(set(personas)) == 60 and not any(one.startswith("#") for one in personas)
    assert len({skill.name for skill in skills}) == 60 and len({skill.area for skill in skills}) >= 6


@given(sizes, sizes, st.integers(0, 2**32))
@settings(deadline=None)
def test_all_pairs_are_different_and_there_are_no_others(people, skills, seed):
    personas, known = world(people, skills)
    pairs = draw_pairs(personas, known, people * skills, seed)
    assert {(pair.persona, pair.skill) for pair in pairs} == {(one, other) for one in personas for other in known}


@given(sizes, sizes, st.integers(0, 2**32), st.data())
@settings(max_examples=50, deadline=None)
def test_a_smaller_count_is_the_beginning_and_even_over_skills_and_personas(people, skills, seed, data):
    personas, known = world(people, skills)
    count = data.draw(st.integers(0, people * skills))
    pairs = draw_pairs(personas, known, count, seed)
    assert pairs == draw_pairs(personas, known, people * skills, seed)[:count]
    for things, every in (
        (Counter(pair.skill for pair in pairs), known),
        (Counter(p.persona for p in pairs), personas),
    ):
        assert max(things[one] for one in every) - min(things[one] for one in every) <= 1


def test_the_seed_gives_the_order():
    personas, known = world(8, 8)
    assert draw_pairs(personas, known, 20, 1) == draw_pairs(personas, known, 20, 1)
    assert draw_pairs(personas, known, 20, 1) != draw_pairs(personas, known, 20, 2)


@pytest.mark.parametrize("count", [13, -1])
def test_more_than_there_are(count):
    with pytest.raises(ConfigError, match=f"{count} problems are asked for, but 3 personas and 4 skills make 12 pairs"):
        draw_pairs(*world(3, 4), count, 0)


def test_personahubs_own_file_and_plain_lines(tmp_path):
    hub = tmp_path / "persona.jsonl"
    hub.write_text('{"persona": "A baker ", "id": 1}\n\n{"persona": "Ein Bäcker"}\n{"persona": "A baker"}\n', "utf-8")
    assert load_personas(hub) == ("A baker", "Ein Bäcker")
    lines = tmp_path / "persona.txt"
    lines.write_text("# mine\r\nA baker\r\n\r\n  Ein Bäcker \r\nA baker\r\n", "utf-8")
    assert load_personas(lines) == ("A baker", "Ein Bäcker")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.jsonl", b'{"persona": "x"}\n{"persona": 3}\n', "line 2: persona is 3"),
        ("p.jsonl", b'{"name": "x"}\n', "line 1: persona is None"),
        ("p.jsonl", b"[1]\n", "line 1 is no JSON object"),
        ("p.jsonl", b"{\n", "line 1 is no JSON"),
        ("p.jsonl", b"", "holds no persona"),
        ("p.txt", b"# only this\n\n", "holds no persona"),
        ("p.txt", b"\xff\n", "is not UTF-8"),
    ],
)
def test_wrong_files_of_personas(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load_personas(tmp_path / name, "math.personas")
    assert f"math.personas={tmp_path / name}" in str(error.value) and said in str(error.value)


def test_files_that_are_not_there(tmp_path):
    for load in (load_personas, load_skills):
        with pytest.raises(ConfigError, match="cannot be read: No such file"):
            load(tmp_path / "none")


def test_skills_of_ones_own(tmp_path):
    path = tmp_path / "skills.yaml"
    path.write_text("- area: algebra\n  skills: [roots, signs]\n- area: geometry\n  skills: [angles]\n", "utf-8")
    skills = load_skills(path)
    assert skills == (Skill("roots", "algebra"), Skill("signs", "algebra"), Skill("angles", "geometry"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "- area: algebra\n  skills: [x]\n- area: geometry\n  skills: [x]\n",
            "entry 2: the skill 'x' stands under 'algebra'",
        ),
        ("- area: algebra\n", "must hold `area` and `skills`"),
        ("- area: algebra\n  skills: []\n", "entry 1: skills is []"),
        ("- area: algebra\n  skills: [x]\n  level: 3\n", "and nothing else"),
        ("- x\n", "entry 1: 'x' must hold"),
        ("area: x\n", "must hold a list"),
    ],
)
def test_wrong_files_of_skills(tmp_path, content, said):
    path = tmp_path / "skills.yaml"
    path.write_text(content, "utf-8")
    with pytest.raises(ConfigError) as error:
        load_skills(path, "math.skills")
    assert f"math.skills={path}" in str(error.value) and said in str(error.value)
