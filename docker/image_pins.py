"""Print pins that keep what a base image was built with: its own torch and what is compiled against it.

    python3 image_pins.py PINS [--need NAME]... [--all]

PINS is a file of pins (constraints.txt, requirements/nemo.lock). Lines for packages that the image keeps are replaced
by the image's versions; the others stay. Without --all the image keeps COMPILED alone, with it everything it has.

For the base image's own Python, outside any virtual environment. Standard library only, Python 3.10 or newer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from project_requirements import canonical

COMPILED = frozenset(
    [
        "apex",
        "flash-attn",
        "pytorch-triton",
        "torch",
        "torchaudio",
        "torchvision",
        "transformer-engine",
        "transformer-engine-cu12",
        "transformer-engine-cu13",
        "transformer-engine-torch",
        "triton",
    ]
)
"""Built by NVIDIA for each other and for the image's CUDA; PyPI's are other builds. numpy is not among them: what is
compiled for one numpy 2 runs with every later one."""


def pins(given: Iterable[str], image: Mapping[str, str], keep: Iterable[str]) -> list[str]:
    """The pins for installing on top of an image.

    Args:
        given: lines `name==version`; comments and empty lines are dropped.
        image: version by canonical name, of everything that the image has.
        keep: canonical names that must stay as the image has them, where it has them.
    """
    kept = {name: version for name, version in image.items() if name in set(keep)}
    lines = [line.strip() for line in given if canonical(line)]
    lines = [line for line in lines if canonical(line) not in kept]
    return lines + [f"{name}=={version}" for name, version in sorted(kept.items())]


def installed() -> dict[str, str]:
    """Version by canonical name of all that this Python can import; the first on sys.path counts, as for imports."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        if name := canonical(distribution.metadata["Name"] or ""):
            found.setdefault(name, distribution.version)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Print the pins, a line each. Raises SystemExit where a package that is needed is missing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pins", type=Path)
    parser.add_argument("--need", action="append", default=[], help="a package without which this is the wrong image")
    parser.add_argument("--all", action="store_true", help="keep everything that the image has")
    options = parser.parse_args(argv)
    image = installed()
    if missing := [name for name in options.need if canonical(name) not in image]:
        sys.exit(f"image_pins.py: the base image has no {', '.join(missing)}. Give another base (--build-arg …_BASE=).")
    given = options.pins.read_text("utf-8").splitlines()
    print("\n".join(pins(given, image, image if options.all else COMPILED)))


if __name__ == "__main__":
    main()
