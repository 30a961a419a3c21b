"""Packages of the extras in pyproject.toml; without them the bare install still prepares data and serves rewards."""

from __future__ import annotations

import importlib.util

EXTRAS = {
    "train": ("torch", "megatron", "transformers", "safetensors", "tensorboard", "jinja2", "matplotlib"),
    "eval": ("openai", "scipy"),
    "synth": (
        "aiohttp", "datatrove", "jsonschema", "lxml_html_clean", "openai", "py3langid", "s3fs", "sklearn", "spacy",
        "trafilatura", "warcio",
    ),
}  # fmt: skip


def need(extra: str) -> None:
    """Raise ModuleNotFoundError for the first package of an extra that is not here, before anything is written."""
    for package in EXTRAS[extra]:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(f"No module named '{package}'", name=package)
