"""Print the requirements of pyproject.toml, one a line: what an image installs before the sources are there.

    python3 project_requirements.py pyproject.toml [--extra NAME]... [--without NAME]...

Standard library and pip only, Python 3.10 or newer: it runs inside base images.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def requirements(project: dict[str, Any], extras: Iterable[str], without: Iterable[str]) -> list[str]:
    """The requirement lines of a project and its extras.

    Args:
        project: the table [project] of pyproject.toml.
        extras: names of optional-dependencies to add.
        without: names left out, which must be among them: a misspelt one would be installed after all.

    Raises:
        SystemExit: an extra or a name that is not there.
    """
    lines = list(project["dependencies"])
    for extra in extras:
        if extra not in project["optional-dependencies"]:
            raise SystemExit(f"--extra {extra}: pyproject.toml has {', '.join(project['optional-dependencies'])}.")
        lines += project["optional-dependencies"][extra]
    left_out = {canonical(name) for name in without}
    if strange := left_out - {canonical(line) for line in lines}:
        raise SystemExit(f"--without {', '.join(sorted(strange))}: not required by pyproject.toml.")
    return [line for line in lines if canonical(line) not in left_out]


def canonical(line: str) -> str:
    """The distribution's name of a requirement line or a pin, as PEP 503 writes it; empty for a line that has none."""
    name = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line.strip())
    return re.sub(r"[-_.]+", "-", name.group()).lower() if name else ""


def read_project(path: Path) -> dict[str, Any]:
    """The table [project] of a pyproject.toml."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        from pip._vendor import tomli as tomllib
    return tomllib.loads(path.read_text("utf-8"))["project"]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the requirements, a line each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pyproject", type=Path)
    parser.add_argument("--extra", action="append", default=[])
    parser.add_argument("--without", action="append", default=[])
    given = parser.parse_args(argv)
    print("\n".join(requirements(read_project(given.pyproject), given.extra, given.without)))


if __name__ == "__main__":
    main()
