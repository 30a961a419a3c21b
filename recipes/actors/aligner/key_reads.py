"""Which config keys a Python or YAML source knows, read from its text: nothing is imported or run.

Every function returns dotted keys with the line that each is first met on.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping

import yaml

_READERS = ("get", "pop", "setdefault")  # methods of a config whose first argument is a key
_OF_CONFIGS = (*_READERS, "copy", "items", "keys", "setter", "update", "values")
_OF_VALUES = ("append", "encode", "endswith", "lower", "split", "startswith")
_ATTRIBUTE_READERS = ("getattr", "hasattr")
_COPIES = ("OmegaConf.to_container", "OmegaConf.to_object", "copy.copy", "copy.deepcopy", "dict")


def config_reads(
    source: str, roots: Mapping[str, str], readers: Mapping[str, str], skip: Collection[str] = ()
) -> dict[str, int]:
    """Keys that Python code reads from a config: `cfg.x`, `cfg["x"]`, `cfg.get("x")`, `"x" in cfg`.

    A local name that was assigned a part of a config stands for that part.

    Args:
        source: the code.
        roots: expressions that are a config, such as `self.cfg`, with the prefix of its keys; "" is the whole config.
        readers: functions whose first argument is a key, with the prefix of that key.
        skip: functions to pass over, because what they call `cfg` is something else.
    """
    reader = _ConfigReads(roots, readers, skip)
    reader.visit(ast.parse(source))
    return reader.found


class _ConfigReads(ast.NodeVisitor):
    def __init__(self, roots: Mapping[str, str], readers: Mapping[str, str], skip: Collection[str]) -> None:
        self.roots, self.readers, self.skip = roots, readers, skip
        self.aliases: dict[str, str] = {}
        self.found: dict[str, int] = {}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name in self.skip:
            return
        outside = self.aliases
        arguments = {argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)}
        self.aliases = {name: key for name, key in outside.items() if name not in arguments}
        self.generic_visit(node)
        self.aliases = outside

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            if isinstance(target, ast.Name):
                self.aliases.pop(target.id, None)
                if (key := self._key(node.value)) is not None:
                    self.aliases[target.id] = key

    def visit_Attribute(self, node: ast.Attribute | ast.Subscript) -> None:
        if isinstance(node.ctx, ast.Load):
            self._note(self._key(node), node)
        self.generic_visit(node)

    visit_Subscript = visit_Attribute

    def visit_Call(self, node: ast.Call) -> None:
        self._note(self._key(node), node)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        if isinstance(node.ops[0], ast.In | ast.NotIn) and (word := _word(node.left)) is not None:
            self._note(_join(self._key(node.comparators[0]), word), node)
        self.generic_visit(node)

    def _note(self, key: str | None, node: ast.expr) -> None:
        if key and key not in self.roots.values():
            self.found.setdefault(key, _line(node))

    def _key(self, node: ast.expr) -> str | None:
        """The key that an expression stands for; "" is the whole config, None anything else."""
        if isinstance(node, ast.Name | ast.Attribute) and (text := ast.unparse(node)) in self.roots:
            return self.roots[text]
        if isinstance(node, ast.Name):
            return self.aliases.get(node.id)
        if isinstance(node, ast.Attribute):
            return None if node.attr in (*_OF_CONFIGS, *_OF_VALUES) else _join(self._key(node.value), node.attr)
        if isinstance(node, ast.Subscript):
            return _join(self._key(node.value), _word(node.slice))
        if isinstance(node, ast.BoolOp):  # (cfg.get("x", {}) or {})
            return self._key(node.values[0])
        if isinstance(node, ast.Call):
            return self._called(node)
        return None

    def _called(self, node: ast.Call) -> str | None:
        name = ast.unparse(node.func)
        if name in _COPIES and node.args:
            return self._key(node.args[0])
        if name in _ATTRIBUTE_READERS:
            return _join(self._key(node.args[0]), _word(node.args[1]))
        if name in self.readers:
            return _join(self.readers[name], _word(node.args[0]))
        if isinstance(node.func, ast.Attribute) and node.func.attr in _READERS and node.args:
            return _join(self._key(node.func.value), _word(node.args[0]))
        return None


def dataclass_keys(source: str, name: str, prefix: str, skip: Collection[str] = ()) -> dict[str, int]:
    """Fields of a dataclass, of its bases and of nested dataclasses, as far as they stand in the same source.

    Args:
        source: the code.
        name: the class.
        prefix: of its keys.
        skip: fields to leave out.
    """
    classes = {node.name: node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)}

    def fields(owner: ast.ClassDef) -> Iterator[ast.AnnAssign]:
        for base in owner.bases:
            if isinstance(base, ast.Name) and base.id in classes:
                yield from fields(classes[base.id])
        yield from (node for node in owner.body if isinstance(node, ast.AnnAssign))

    found: dict[str, int] = {}
    for field in fields(classes[name]):
        if (key := ast.unparse(field.target)) in skip or key.startswith("_"):
            continue
        found[f"{prefix}.{key}"] = field.lineno
        for part in ast.walk(field.annotation):
            if isinstance(part, ast.Name) and part.id in classes:
                found |= dataclass_keys(source, part.id, f"{prefix}.{key}")
    return found


def argument_keys(source: str, name: str, prefix: str, skip: Collection[str] = ()) -> dict[str, int]:
    """Named arguments of a class's constructor, for configs that are passed on to it.

    Args:
        source: the code.
        name: the class.
        prefix: of its keys.
        skip: arguments that do not come from a config.
    """
    owner = next(n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ClassDef) and n.name == name)
    made = next(n for n in owner.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    arguments = [*made.args.args[1:], *made.args.kwonlyargs]
    return {f"{prefix}.{argument.arg}": argument.lineno for argument in arguments if argument.arg not in skip}


def literal_keys(source: str, function: str, variable: str) -> set[str]:
    """Keys of a dictionary that a function writes down: what it computes, whatever a config says."""
    owner = next(n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef) and n.name == function)
    for node in ast.walk(owner):
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Dict):
            continue
        if [ast.unparse(target) for target in node.targets] == [variable]:
            return {word for key in node.value.keys if (word := _word(key)) is not None}
    raise ValueError(f"{function} has no dictionary named {variable}")


def yaml_keys(text: str, prefix: str = "") -> dict[str, int]:
    """Keys of a YAML file; those inside lists are left out."""
    found: dict[str, int] = {}

    def visit(node: yaml.Node, above: str) -> None:
        for key, value in node.value:
            name = f"{above}{key.value}"
            found[name] = key.start_mark.line + 1
            if isinstance(value, yaml.MappingNode):
                visit(value, f"{name}.")

    visit(yaml.compose(text), f"{prefix}." if prefix else "")
    return found


def _word(node: ast.expr | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _join(above: str | None, word: str | None) -> str | None:
    if above is None or word is None:
        return None
    return f"{above}.{word}" if above else word


def _line(node: ast.expr) -> int:
    """The line that the key itself stands on, in an expression over several lines."""
    if isinstance(node, ast.Attribute):
        return node.end_lineno or node.lineno
    if isinstance(node, ast.Subscript):
        return node.slice.lineno
    if isinstance(node, ast.Compare):
        return node.left.lineno
    arguments = node.args if isinstance(node, ast.Call) else []
    words = [argument for argument in arguments if _word(argument) is not None]
    return words[0].lineno if words else node.lineno
