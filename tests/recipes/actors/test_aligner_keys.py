"""The list of known keys against the packages that are installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from recipes.actors.aligner.known_keys import known_keys

PACKAGES = {"nemo": "nemo", "aligner": "nemo_aligner", "megatron": "megatron.core"}


def installed(source: str, path: str) -> Path | None:
    """The file in this environment; None where the repository has it and the package does not."""
    package = PACKAGES.get(source)
    if package is None or not path.startswith(package.replace(".", "/")):
        return None
    root = Path(find_spec(package).origin).parents[package.count(".") + 1]
    return root / path


@pytest.mark.parametrize("source", PACKAGES)
def test_every_place_in_the_list_names_its_key(source: str) -> None:
    texts: dict[Path, list[str]] = {}
    checked = 0
    for key, places in known_keys().items():
        for place in places.split():
            name, path, line = place.split(":")
            file = installed(name, path) if name == source else None
            if file is None:
                continue
            if file not in texts:
                texts[file] = file.read_text("utf-8").splitlines()
            assert key.removesuffix(".*").rsplit(".", 1)[-1] in texts[file][int(line) - 1], place
            checked += 1
    assert checked >= 20
