"""Signatures out of a source tree by its syntax: nothing of the tree is imported or run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossthink.errors import UserError
from recipes.rollout.trtllm.wanted import ATTRIBUTES, CLASS, ENUM, FUNCTION, Wanted

NO_DEFAULT = "(required)"


@dataclass(frozen=True)
class Found:
    """What a tree says of one name.

    Attributes:
        parts: parameter, field, member or attribute → its default's source, NO_DEFAULT without one; attributes: "".
        kinds: parameter → "positional", "either" or "keyword"; empty but for functions.
        lines: part → line.
        line: of the definition.
        is_async: a coroutine function.
        open: takes further keywords.
    """

    path: str
    line: int
    parts: dict[str, str]
    lines: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    is_async: bool = False
    open: bool = False

    def at(self, part: str | None = None) -> str:
        """`file:line` of a part, or of the definition."""
        return f"{self.path}:{self.lines.get(part, self.line) if part else self.line}"


class SourceTree:
    """A checkout of TensorRT-LLM, or a folder with some of its files at their places."""

    def __init__(self, root: Path) -> None:
        """Raises:
        UserError: there is no package `tensorrt_llm` below `root`.
        """
        if not (root / "tensorrt_llm").is_dir():
            raise UserError(f"{root} holds no folder tensorrt_llm: it is not a source tree of TensorRT-LLM.")
        self._root = root
        self._modules: dict[str, ast.Module | None] = {}
        self._texts: dict[str, str] = {}

    def covers(self, wanted: Wanted) -> bool:
        """Whether the tree has a name's file or, elsewhere, its class: else it says nothing of the name."""
        return (self._root / wanted.path).is_file() or self._class(
            wanted.name.partition(".")[0], wanted.path
        ) is not None

    def find(self, wanted: Wanted) -> Found | None:
        """What the tree says of a name, inherited parts included; None where it has no such name."""
        class_name, _, method = wanted.name.partition(".")
        place = self._class(class_name, wanted.path)
        if place is None:
            return None
        if wanted.kind == FUNCTION:
            return self._function(*place, method)
        lineage = list(self._lineage(*place))
        read = {CLASS: _fields, ENUM: _members, ATTRIBUTES: _attributes}[wanted.kind]
        parts: dict[str, str] = {}
        lines: dict[str, int] = {}
        for _, node in reversed(lineage):
            for name, default, line in read(node):
                parts[name], lines[name] = default, line
        return Found(place[0], place[1].lineno, parts, lines)

    def _function(self, path: str, node: ast.ClassDef, name: str) -> Found | None:
        for place, owner in self._lineage(path, node):
            for item in owner.body:
                if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)) and item.name == name:
                    return _signature(place, item)
        return None

    def _lineage(self, path: str, node: ast.ClassDef) -> Iterator[tuple[str, ast.ClassDef]]:
        """A class, then its bases wherever the tree defines them, nearest first."""
        seen, waiting = set(), [(path, node)]
        while waiting:
            path, node = waiting.pop(0)
            if node.name in seen:
                continue
            seen.add(node.name)
            yield path, node
            for base in node.bases:
                name = ast.unparse(base).split("[")[0].split(".")[-1]
                place = self._here(name, path)
                if place is None and self.imports(path, name, from_outside=False):
                    place = self._class(name, path)
                if place is not None:
                    waiting.append(place)

    def _class(self, name: str, path: str) -> tuple[str, ast.ClassDef] | None:
        """A class by name: in the file where it should be, else wherever the package defines it at top level."""
        here = self._here(name, path)
        if here is not None:
            return here
        return next((found for file in self._files_with(name) if (found := self._here(name, file))), None)

    def _here(self, name: str, path: str) -> tuple[str, ast.ClassDef] | None:
        """A class that a file defines at top level, also where the name is another for it (`Name = Class`)."""
        module = self._module(path)
        names = {name}
        for node in module.body if module else ():
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
                names |= {node.value.id for one in node.targets if isinstance(one, ast.Name) and one.id == name}
        for node in module.body if module else ():
            if isinstance(node, ast.ClassDef) and node.name in names:
                return path, node
        return None

    def imports(self, path: str, name: str, from_outside: bool = True) -> bool:
        """Whether a file has a name from another, so that it can be imported from there all the same.

        Args:
            from_outside: other packages' files count too.
        """
        module = self._module(path)
        for node in ast.walk(module) if module else ():
            if isinstance(node, ast.ImportFrom) and any((one.asname or one.name) == name for one in node.names):
                return from_outside or node.level > 0 or (node.module or "").startswith("tensorrt_llm")
        return False

    def _files_with(self, name: str) -> Iterator[str]:
        line = re.compile(rf"^class {re.escape(name)}\b", re.MULTILINE)
        if not self._texts:
            for path in sorted((self._root / "tensorrt_llm").rglob("*.py")):
                self._texts[path.relative_to(self._root).as_posix()] = path.read_text("utf-8", errors="replace")
        return (path for path, text in self._texts.items() if line.search(text))

    def _module(self, path: str) -> ast.Module | None:
        if path not in self._modules:
            file = self._root / path
            try:
                self._modules[path] = ast.parse(file.read_text("utf-8")) if file.is_file() else None
            except (SyntaxError, UnicodeDecodeError) as error:
                raise UserError(f"{file} is no Python source ({error}).") from error
        return self._modules[path]


def _signature(path: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Found:
    arguments = node.args
    parts: dict[str, str] = {}
    lines, kinds = {}, {}
    plain = [(one, "positional") for one in arguments.posonlyargs] + [(one, "either") for one in arguments.args]
    is_static = any(isinstance(one, ast.Name) and one.id == "staticmethod" for one in node.decorator_list)
    defaults: list[Any] = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
    named = list(zip(plain, defaults, strict=True))[0 if is_static else 1 :]
    named += [
        ((one, "keyword"), default) for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    for (argument, kind), default in named:
        parts[argument.arg] = NO_DEFAULT if default is None else ast.unparse(default)
        lines[argument.arg], kinds[argument.arg] = argument.lineno, kind
    is_async = isinstance(node, ast.AsyncFunctionDef)
    return Found(path, node.lineno, parts, lines, kinds, is_async, arguments.kwarg is not None)


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, str, int]]:
    """Fields of a pydantic model or dataclass."""
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            default = _field_default(item.value)
            if "ClassVar" not in ast.unparse(item.annotation) and default is not None:
                yield item.target.id, default, item.lineno


def _field_default(value: ast.expr | None) -> str | None:
    """The source of a default; None for a field that the constructor does not take."""
    if isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[-1] in ("Field", "field", "PydanticField"):
        for keyword in value.keywords:
            if keyword.arg == "init" and ast.unparse(keyword.value) == "False":
                return None
        for keyword in value.keywords:
            if keyword.arg in ("default", "default_factory"):
                text = ast.unparse(keyword.value)
                return f"{text}()" if keyword.arg == "default_factory" else text
        value = value.args[0] if value.args else None
    if value is None or (isinstance(value, ast.Constant) and value.value is Ellipsis):
        return NO_DEFAULT
    return ast.unparse(value)


def _members(node: ast.ClassDef) -> Iterator[tuple[str, str, int]]:
    for item in node.body:
        if isinstance(item, ast.Assign):
            for target in item.targets:
                if isinstance(target, ast.Name):
                    yield target.id, ast.unparse(item.value), item.lineno


def _attributes(node: ast.ClassDef) -> Iterator[tuple[str, str, int]]:
    """Methods, properties, annotated names, and what methods assign to `self`."""
    for item in ast.walk(node):
        if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield item.name, "", item.lineno
        elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            yield item.target.id, "", item.lineno
        elif isinstance(item, ast.Attribute) and isinstance(item.ctx, ast.Store):
            yield item.attr, "", item.lineno
