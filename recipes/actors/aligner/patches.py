"""Patches of libraries that are not imported yet: each is applied as soon as its module has been loaded.

So a name is replaced before any other module copies it with `from … import`, and nothing is imported that a run does
not use.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol


class Loaded(Protocol):
    """A module that has been loaded, as those see it who replace names in it."""

    def __getattr__(self, name: str, /) -> Any: ...

    def __setattr__(self, name: str, value: Any, /) -> None: ...


Change = Callable[[Loaded], None]


@dataclass(frozen=True)
class Patch:
    """One change of a library.

    Attributes:
        name: what is changed.
        file: the file that makes it needed, relative to site-packages.
        line: its line in the pinned version.
        text: what stands there.
        reason: why it is needed.
        module: after whose loading `apply` runs; None: at once.
        apply: makes the change; gets the module, or torch where `module` is None.
    """

    name: str
    file: str
    line: int
    text: str
    reason: str
    module: str | None
    apply: Change


class Proxy(ModuleType):
    """A module of which some names are replaced, for those who are given it; others see the real one."""

    def __init__(self, real: ModuleType, **names: Any) -> None:
        super().__init__(real.__name__)
        self._real = real
        vars(self).update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def apply_patches(kind: str, patches: Iterable[Patch], before: Sequence[str]) -> bool:
    """Apply patches, each when its module has been loaded.

    Args:
        kind: whose patches these are; each kind is applied once in a process.
        patches: what to apply.
        before: packages that must not have been imported yet.

    Returns:
        Whether they were applied: False where this kind has been already.

    Raises:
        RuntimeError: one of `before` has been imported.
    """
    if kind in _applied:
        return False
    if early := [package for package in before if package in sys.modules]:
        raise RuntimeError(f"{early[0]} has been imported before its patches were applied; these must come first.")
    _applied.add(kind)
    for patch in patches:
        if patch.module is None:
            patch.apply(sys.modules["torch"])
        else:
            after_loading(patch.module, patch.apply)
    return True


_applied: set[str] = set()


def after_loading(module: str, apply: Change) -> None:
    """Run `apply(module)` when `module` has been loaded; at once where it has been already."""
    if (loaded := sys.modules.get(module)) is not None:
        apply(loaded)
        return
    _finder().changes.setdefault(module, []).append(apply)


def after_loading_any(packages: Iterable[str], apply: Change) -> None:
    """Run `apply(module)` for each package and module inside `packages` when it has been loaded."""
    finder = _finder()
    finder.packages = (*finder.packages, *((package, apply) for package in packages))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds what Python's own finder finds, and has the changes made after it has been executed."""

    def __init__(self) -> None:
        self.changes: dict[str, list[Change]] = {}
        self.packages: tuple[tuple[str, Change], ...] = ()

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> Any:
        changes = [apply for package, apply in self.packages if f"{fullname}.".startswith(f"{package}.")]
        changes += self.changes.get(fullname, [])
        if not changes:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            execute = functools.partial(_execute, spec.loader.exec_module, changes)
            spec.loader.exec_module = execute  # type: ignore[method-assign]
        return spec


def _execute(execute: Callable[[ModuleType], None], changes: Sequence[Change], module: ModuleType) -> None:
    execute(module)
    for apply in changes:
        apply(module)


def _finder() -> _Finder:
    for finder in sys.meta_path:
        if isinstance(finder, _Finder):
            return finder
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    return finder
