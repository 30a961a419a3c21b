"""The subjects that pages are routed to: MMLU's 57, which guided the paper's list of topics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from crossthink.errors import ConfigError, did_you_mean

SUBJECTS_FILE = Path(__file__).parent / "subjects.yaml"
GROUPS = ("stem", "humanities", "social_sciences", "other")
_TEXTS = ("name", "group", "title")
_LISTS = ("subtopics", "terms")


@dataclass(frozen=True)
class Subject:
    """One subject.

    Attributes:
        name: MMLU's name, such as `abstract_algebra`; in a file of one's own any other.
        group: one of GROUPS, MMLU's own four.
        title: what a prompt calls it.
        subtopics: what a question may be about, in the words of a prompt.
        terms: words by which a page is recognised.
    """

    name: str
    group: str
    title: str
    subtopics: tuple[str, ...]
    terms: tuple[str, ...]


def load_subjects(path: Path | str | None, key: str = "subjects") -> tuple[Subject, ...]:
    """The subjects of a file, in its order.

    Args:
        path: YAML, a list of entries with the fields of `Subject`; None: the built-in 57.
        key: the setting that named the file, for messages.

    Raises:
        ConfigError: the file cannot be read, or an entry lacks a field, holds another one, an unknown group or a name
            that stood before.
    """
    file = SUBJECTS_FILE if path is None else Path(path)
    entries = read_list(file, key)
    subjects = tuple(_subject(entry, f"{key}={file}, entry {at}") for at, entry in enumerate(entries, start=1))
    for name, count in Counter(subject.name for subject in subjects).items():
        if count > 1:
            raise ConfigError(f"{key}={file}: the subject '{name}' stands there {count} times.")
    return subjects


def read_list(file: Path, key: str) -> list[Any]:
    """The entries of a YAML file that holds a list; every value is the text that stands there.

    Raises:
        ConfigError: there is no such file, it is no YAML, or it is no list of at least one entry.
    """
    try:
        # YAML 1.1 would read the terms `no` and `1e3` as a truth value and a number.
        entries = yaml.load(file.read_text("utf-8"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise ConfigError(f"{key}={file} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{key}={file} is no YAML: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{key}={file} must hold a list of at least one entry (`- name: ...`).")
    return entries


def _subject(entry: Any, where: str) -> Subject:
    needed = _TEXTS + _LISTS
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: {entry!r} is no entry. It must hold {', '.join(needed)}.")
    for name in entry:
        if name not in needed:
            raise ConfigError(f"{where}: '{name}' is no field of a subject.{did_you_mean(name, needed)}")
    texts = {name: check_text(entry.get(name), f"{where}: {name}") for name in _TEXTS}
    lists = {name: check_texts(entry.get(name), f"{where}: {name}") for name in _LISTS}
    if texts["group"] not in GROUPS:
        raise ConfigError(f"{where}: group is '{texts['group']}'. Allowed: {', '.join(GROUPS)}.")
    return Subject(texts["name"], texts["group"], texts["title"], lists["subtopics"], lists["terms"])


def check_text(value: Any, where: str) -> str:
    """The text itself, where `value` is one.

    Raises:
        ConfigError: it is something else, or blank.
    """
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where} is {value!r}; a text is needed.")
    return value


def check_texts(value: Any, where: str) -> tuple[str, ...]:
    """The texts of a list, where `value` is one of at least one different text.

    Raises:
        ConfigError: it is something else; or one stands there twice, whatever its case.
    """
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{where} is {value!r}; a list of texts is needed.")
    texts = tuple(check_text(one, where) for one in value)
    for text, count in Counter(text.lower() for text in texts).items():
        if count > 1:
            raise ConfigError(f"{where} holds '{text}' {count} times.")
    return texts
