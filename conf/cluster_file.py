"""`cluster=FILE.yaml`: a cluster that is not one of conf/cluster/, from the user's own file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path

import yaml

from conf.cluster import ClusterConfig
from crossthink.errors import ConfigError, did_you_mean

SUFFIXES = (".yaml", ".yml")
_NOTHING = ("", "~", "null")


def is_cluster_file(value: str) -> bool:
    """Whether `cluster=value` names a file, and none of conf/cluster/."""
    return value.endswith(SUFFIXES)


def cluster_words(path: Path, quote: Callable[[str], str]) -> list[str]:
    """The file as overrides, which those of the command line then override.

    Args:
        path: YAML with keys of `ClusterConfig`; without `name`, the file's own stands for it.
        quote: a text in Hydra's grammar.

    Raises:
        ConfigError: the file cannot be read, is no YAML of keys and values, or has a key that a cluster does not.
    """
    try:
        # Every value as the text that it is: YAML 1.1 would read 24:00:00 as a number.
        values = yaml.load(path.read_text("utf-8"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise ConfigError(f"cluster={path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"cluster={path} is no YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"cluster={path} must hold keys and values, such as `partition: gpu`.")
    known = {field.name: field for field in fields(ClusterConfig)}
    words: list[str] = []
    for key, value in {"name": path.stem, **values}.items():
        if key not in known:
            raise ConfigError(f"cluster={path}: '{key}' is not a key of a cluster.{did_you_mean(key, sorted(known))}")
        if isinstance(value, dict):
            if key != "env":
                raise ConfigError(f"cluster={path}: {key} holds keys of its own; one value or a list is allowed.")
            _check_texts(path, key, value.values())
            words += [f"++cluster.env.{name}={quote(text)}" for name, text in value.items()]
        elif isinstance(value, list):
            _check_texts(path, key, value)
            words.append(f"cluster.{key}=[{','.join(quote(one) for one in value)}]")
        else:
            words.append(f"cluster.{key}={'null' if value in _NOTHING else quote(value)}")
    return words


def _check_texts(path: Path, key: str, values: Iterable[object]) -> None:
    for value in values:
        if not isinstance(value, str):
            raise ConfigError(
                f"cluster={path}: {key} holds {value}, which is no single value. A colon with a blank behind it makes "
                "a key: quote the text."
            )
