import json
from collections import Counter

import pytest
import yaml

from crossthink.errors import ConfigError
from data_prep.synthesis.subjects import GROUPS, SUBJECTS_FILE, load_subjects

pytestmark = pytest.mark.timeout(60)

ENTRY = {"name": "chess", "group": "other", "title": "chess", "subtopics": ["openings"], "terms": ["rook", "no"]}


def write(tmp_path, entries):
    path = tmp_path / "subjects.yaml"
    path.write_text(entries if isinstance(entries, str) else yaml.safe_dump(entries), encoding="utf-8")
    return path


def test_the_built_in_ones_are_mmlus_57_under_its_four_groups():
    subjects = load_subjects(None)
    assert len({subject.name for subject in subjects}) == 57
    assert Counter(subject.group for subject in subjects) == {
        "stem": 18,
        "humanities": 13,
        "social_sciences": 12,
        "other": 14,
    }
    assert {"abstract_algebra", "moral_scenarios", "us_foreign_policy", "virology"} <= {one.name for one in subjects}


def test_the_names_are_those_of_the_real_rows(shared_data):
    rows = (shared_data / "mmlu_test_sample.jsonl").read_text("utf-8").splitlines()
    assert {json.loads(row)["subject"] for row in rows} == {subject.name for subject in load_subjects(None)}


def test_every_built_in_subject_has_subtopics_and_terms_enough():
    for subject in load_subjects(None):
        assert 8 <= len(subject.subtopics) <= 14, subject.name
        assert len(subject.terms) >= 15, subject.name
        assert subject.title == subject.title.strip()


def test_a_file_of_ones_own(tmp_path):
    (subject,) = load_subjects(write(tmp_path, [ENTRY]))
    assert (subject.name, subject.group, subject.subtopics) == ("chess", "other", ("openings",))
    assert subject.terms == ("rook", "no")  # and not a truth value


def test_values_are_the_texts_that_stand_there(tmp_path):
    text = "- name: numbers\n  group: stem\n  title: numbers\n  subtopics: [1e3, no]\n  terms: [12:30]\n"
    (subject,) = load_subjects(write(tmp_path, text))
    assert subject.subtopics == ("1e3", "no") and subject.terms == ("12:30",)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([ENTRY, ENTRY], "'chess' stands there 2 times"),
        ([ENTRY | {"group": "games"}], f"group is 'games'. Allowed: {', '.join(GROUPS)}"),
        ([{key: value for key, value in ENTRY.items() if key != "terms"}], "entry 1: terms is None"),
        ([ENTRY | {"subtopics": []}], "entry 1: subtopics is []"),
        ([ENTRY | {"terms": "rook"}], "entry 1: terms is 'rook'"),
        ([ENTRY | {"terms": ["Rook", "rook"]}], "holds 'rook' 2 times"),
        ([ENTRY | {"title": " "}], "entry 1: title is ' '"),
        ([ENTRY, ENTRY | {"name": "go", "term": ["stone"]}], "entry 2: 'term' is no field of a subject. Did you mean"),
        (["chess"], "entry 1: 'chess' is no entry"),
        ([], "a list of at least one entry"),
        ({"chess": ENTRY}, "a list of at least one entry"),
        ("- [", "is no YAML"),
    ],
)
def test_a_wrong_file_is_named_with_the_place(tmp_path, entries, said):
    path = write(tmp_path, entries)
    with pytest.raises(ConfigError) as error:
        load_subjects(path, "subjects.file")
    assert f"subjects.file={path}" in str(error.value) and said in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_subjects(tmp_path / "none.yaml")
    assert SUBJECTS_FILE.is_file()
