"""`crossthink COMMAND --help`: every field with its type, default and meaning, read from the dataclasses."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from conf.compose import groups, options


def field_docs(schema: type) -> dict[str, str]:
    """The string under each field of a config dataclass, bases included."""
    found: dict[str, str] = {}
    for owner in reversed(schema.__mro__[:-1]):
        (written,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(written, ast.ClassDef)
        for field, text in zip(written.body, written.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                found[field.target.id] = inspect.cleandoc(ast.literal_eval(text.value)).replace("\n", " ")
    return found


def rows(schema: type, prefix: str = "", given: Any = None) -> list[tuple[str, str, str, str]]:
    """(key, type, default, meaning) of every field, nested ones under dotted names.

    `given` is an instance that holds the defaults, where the schema above has others than `schema` itself.
    """
    hints, docs = get_type_hints(schema), field_docs(schema)
    given = schema() if given is None else given
    found = []
    for field in fields(schema):
        if field.name == "defaults":
            continue
        hint, name = hints[field.name], prefix + field.name
        if name in groups() and (is_dataclass(hint) or name in ("recipe", "sources")):
            meaning = docs.get(field.name) or inspect.getdoc(hint)
            names = [option for option in options(name, schema) if (name, option) != ("model", "folder")]
            allowed = ", ".join(names + (["FOLDER"] if name == "model" else []))
            found.append((f"{name}=", "choice", _group_default(schema, name), f"{meaning} One of: {allowed}."))
        if isinstance(hint, type) and is_dataclass(hint):
            inner = getattr(given, field.name)
            found += rows(hint, name + ".", inner if isinstance(inner, hint) else None)
        elif name == "sources":  # by name: one line a key stands for them all
            found += rows(get_args(hint)[1], "sources.NAME.")
        elif name != "recipe":
            found.append((name, _type_name(hint), shown(getattr(given, field.name)), docs.get(field.name, "")))
    return found


def _group_default(schema: type, group: str) -> str:
    for field in fields(schema):
        if field.name == "defaults" and field.default_factory is not NO_DEFAULT:
            for entry in field.default_factory():
                if isinstance(entry, dict) and group in entry:
                    return shown(entry[group])
    return ""


def shown(value: Any) -> str:
    """A value as a command line has it."""
    if value is None:
        return "null"
    if value in ("", "???"):
        return "required" if value else "''"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not getattr(hint, "__args__", None) else str(hint)
