"""From a command's words to its checked configuration, through Hydra; the only module that knows how."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from conf.ablations import presets, register
from conf.cluster_file import cluster_words, is_cluster_file
from conf.train import DemoConfig, TrainConfig
from crossthink.errors import ConfigError, did_you_mean

CONF = Path(__file__).parent
# Keys whose value is a path or an address: taken literally, because Hydra's grammar refuses "=", "(" and blanks.
PATH_KEYS = re.compile(
    r"^(out|data|run|folder|checkpoint|path|model\.path|eval\.data|((reward|rollout)\.)?token|sources\.\w+\.path"
    r"|endpoint|request\.(model|token|tokenizer)|prompts|(benchmarks|few_shot)_path"
    r"|crawl\.path|crawl\.paths_file|subjects\.file|personas|skills"
    r"|(writer|solver|embeddings)\.(endpoint|model|token)"
    r"|served_name|(rollout\.)?weights_dir|decontaminate\.path|prompts\.folder|prompts\.tokenizer"
    r"|pytriton\.data|pytriton\.tokenizer|tracking\.mlflow_uri|picture|cluster\.((rollout_)?image|python))$"
)
# Lists of such values: what stands between the commas is taken literally.
PATH_LISTS = ("runs", "evaluations")
# Keys below a dictionary: a config dataclass does not list them.
_BY_NAME = r"(blend\.weights|blend\.scores|pool_templates|cluster\.env|(reward\.)?shaping\.source_weights)"
FREE_KEYS = re.compile(rf"^{_BY_NAME}\.\w+$")
# Dictionaries whose keys no schema knows, such as names of sources: Hydra has to be told that a new one is meant.
OPEN_KEYS = re.compile(rf"^{_BY_NAME}(\.|$)")
SCHEMA = "schema"


def options(group: str, schema: type = TrainConfig) -> list[str]:
    """The names that a config group offers the command with this schema."""
    files = {path.stem for path in (CONF / group).glob("*.yaml")}
    if group == "recipe" and not issubclass(schema, TrainConfig):
        files = set()  # every recipe in a file is one of training
    if group == "rollout" and not issubclass(schema, TrainConfig):
        files = {"local"}  # servers belong to training
    if group == "recipe" and schema is DemoConfig:
        files = {"tiny"}
    return sorted(files | presets(schema).get(group, {}).keys())


def groups() -> list[str]:
    """Config groups: the folders of conf/ with YAML in them."""
    return sorted({path.parent.name for path in CONF.glob("*/*.yaml")})


def resolve(command: str, schema: type, overrides: Sequence[str]) -> Any:
    """Compose `schema` with the command line's overrides.

    Returns:
        An instance of `schema`, every key present and of its type.

    Raises:
        ConfigError: an unknown key or option (naming the nearest), a value of the wrong type, or a missing one.
    """
    words: list[str] = []
    folder = None
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or key.startswith(("+", "~")):
            raise ConfigError(
                f"'{override}' is not of the form key=value. `crossthink {command} --help` lists keys and flags."
            )
        _check_known(command, schema, key, value)
        if key == "cluster" and is_cluster_file(value):
            words = [*cluster_words(Path(value), _quote), *words]
        elif key == "model" and "model.name" not in set(keys(schema)):
            folder = value  # conf/model/ makes `model` a group to Hydra's grammar, whatever the schema says
        else:
            words += _literal(key, value)
    if any(word.startswith("++blend.weights=") for word in words) and not any(w.startswith("blend=") for w in words):
        words.insert(0, "blend=custom")  # weights given whole stand alone, not on top of the default blend's
    register(schema)
    ConfigStore.instance().store(name=f"{command}_{SCHEMA}", node=schema)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3", job_name=command):
            composed = compose(f"{command}_{SCHEMA}", overrides=words)
        with open_dict(composed):
            composed.pop("defaults", None)
        if folder is not None:
            composed.model = _escaped(folder)
        missing = sorted(OmegaConf.missing_keys(composed))
        if missing:
            key = missing[0].removesuffix(".name")  # a group that was not chosen lacks its name
            raise ConfigError(f"{key}= is required for `crossthink {command}`. See `crossthink {command} --help`.")
        return OmegaConf.to_object(composed)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(command, error)) from error


def keys(schema: type, prefix: str = "") -> Iterable[str]:
    """Dotted names of every field of a config dataclass, nested ones included."""
    for name, hint in get_type_hints(schema).items():
        if name == "defaults":
            continue
        yield prefix + name
        if isinstance(hint, type) and is_dataclass(hint):
            yield from keys(hint, f"{prefix}{name}.")


def to_yaml(config: Any) -> str:
    """A config as YAML, as OmegaConf writes it: "${" in a text stands there as "\\${"."""
    node = OmegaConf.merge(OmegaConf.structured(type(config)), _escaped(asdict(config)))
    with open_dict(node):
        node.pop("defaults", None)
    return OmegaConf.to_yaml(node)


def from_yaml(schema: type, text: str) -> Any:
    """The inverse of `to_yaml`, checked against the schema."""
    node: DictConfig = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(text))
    with open_dict(node):
        node.pop("defaults", None)
    return OmegaConf.to_object(node)


def from_file(schema: type, path: Path) -> Any:
    """A config that a command left in its folder. Raises ConfigError where this version cannot read it."""
    try:
        return from_yaml(schema, path.read_text("utf-8"))
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"{path} is no {schema.__name__} of this version ({said}). It was written by another version, or edited; "
            "use the version that wrote it, or another folder."
        ) from error


def differences(one: Any, other: Any, ignore: Iterable[str] = ()) -> list[tuple[str, Any, Any]]:
    """Dotted keys whose values differ, with both values; keys at or below one of `ignore` are left out."""
    flat_one, flat_other = _flat(one), _flat(other)
    skipped = tuple(ignore)
    return [
        (key, flat_one.get(key), flat_other.get(key))
        for key in sorted(flat_one.keys() | flat_other.keys())
        if flat_one.get(key) != flat_other.get(key)
        and not any(key == name or key.startswith(name + ".") for name in skipped)
    ]


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if prefix == "":
        config = OmegaConf.to_container(OmegaConf.create(to_yaml(config)))
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            found.update(_flat(value, f"{prefix}{name}."))
        else:
            found[prefix + name] = value
    return found


def _check_known(command: str, schema: type, key: str, value: str) -> None:
    """Refuse an unknown key, and an unknown option of a config group."""
    known = set(keys(schema))
    if "sources" in known:
        known |= set(_source_keys(schema))
    if key not in known and not (FREE_KEYS.match(key) and key.partition(".")[0] in known):
        raise ConfigError(
            f"'{key}' is not a key of `crossthink {command}`.{did_you_mean(key, sorted(known))} "
            f"`crossthink {command} --help` lists all."
        )
    if key not in groups() and not value.lstrip().startswith(("{", "${")) and (names := _keys_of(schema, key)):
        raise ConfigError(
            f"{key}={value} is not allowed: {key} is a group of keys. Give them one by one, {key}.NAME=...: "
            f"{', '.join(names)}."
        )
    if key in groups() and key != "model" and not (key == "cluster" and is_cluster_file(value)):
        words = [word.strip() for word in value.strip("[]").split(",")] if key == "sources" else [value]
        allowed = options(key, schema)
        unknown = [word for word in words if word not in allowed and (word or key != "sources")]
        if unknown:
            near = did_you_mean(unknown[0], allowed)
            raise ConfigError(f"{key}={unknown[0]} does not exist. Allowed: {', '.join(allowed)}.{near}")


def _keys_of(schema: type, key: str) -> list[str]:
    """The names right below a key of a config dataclass; none where the key has a value of its own."""
    hint: Any = schema
    for name in key.split("."):
        hint = get_type_hints(hint).get(name) if is_dataclass(hint) else None
    return [name for name in get_type_hints(hint) if name != "defaults"] if is_dataclass(hint) else []


def _source_keys(schema: type) -> Iterable[str]:
    """`sources.NAME.KEY` of every source that can be chosen."""
    one = get_args(get_type_hints(schema)["sources"])[1]
    return (f"sources.{name}.{key}" for name in options("sources", schema) for key in keys(one))


def _literal(key: str, value: str) -> list[str]:
    """A known key and its value as Hydra's grammar takes them."""
    if key == "model":
        if value in set(options("model")) - {"folder"}:
            return [f"{key}={value}"]
        return ["model=folder", f"model.path={_quote(_folder(value))}"]
    if PATH_KEYS.match(key) and value not in ("null", ""):
        return [f"{key}={_quote(value)}"]
    if key in PATH_LISTS and value[:1] == "[" and value[-1:] == "]":
        items = [item.strip(" '\"") for item in value[1:-1].split(",") if item.strip()]
        return [f"{key}=[{','.join(_quote(item) for item in items)}]"]
    if OPEN_KEYS.match(key):
        return [f"++{key}={value}"]
    return [f"{key}={value}"]


def _folder(value: str) -> str:
    if not Path(value).is_dir():
        known = ", ".join(n for n in options("model") if n != "folder")
        raise ConfigError(f"model={value} is neither a known model ({known}) nor a folder that exists.")
    return value


def _quote(value: str) -> str:
    """`value` as a quoted string of Hydra's grammar, in which a backslash counts only before a quote."""
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + found[2].replace("'", "\\'"), _escaped(value))
    return f"'{escaped}'"


def _escaped(value: Any) -> Any:
    """`value` with every "${" in its texts as OmegaConf wants it, to be a text and no interpolation."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + "\\${", value)
    if isinstance(value, dict):
        return {key: _escaped(inner) for key, inner in value.items()}
    return [_escaped(inner) for inner in value] if isinstance(value, list) else value


def _explain(command: str, error: Exception) -> str:
    """Hydra's and OmegaConf's messages in one sentence that names key, value and what is allowed."""
    if isinstance(error, OverrideParseException):
        return f"{error.override} cannot be read. A text with special signs needs quotes of its own: \"key='a, b'\"."
    if isinstance(error, MissingMandatoryValue):
        return f"A required value is missing: {error}"
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) and error.__cause__ else error
    text = str(cause).strip().splitlines()
    place = next((line.split(":", 1)[1].strip() for line in text if "full_key" in line), "")
    if text[0].endswith("is not in struct") and place.startswith("sources."):
        return (
            f"{place}: {place.partition('.')[2]} is not among sources=[...]. Name it there, or leave its keys out "
            f"(`crossthink {command} --help` lists both)."
        )
    if "is not a ListConfig" in text[0]:
        return f"{place} is a list, which wants brackets: {place}=[...]."
    return f"{place + ': ' if place else ''}{text[0]} (`crossthink {command} --help` lists every key and type)"
