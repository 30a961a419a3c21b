"""Which tensors a model folder has, to notice a refit that lacks some: TensorRT-LLM passes over what does not come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import safe_open

from recipes.models.model_folder import INDEX, SINGLE, read_model_config, weight_files
from recipes.rollout.interface import RefitError

HEAD = "lm_head.weight"


class CheckpointNames:
    """Names and shapes of a Hugging Face folder's weights; without weights in it, nothing is compared.

    Args:
        folder: with config.json.
    """

    def __init__(self, folder: Path) -> None:
        tied = read_model_config(folder).get("tie_word_embeddings", False)
        self._ignored = {HEAD} if tied else set()
        self._shapes = {name: shape for name, shape in _shapes(folder).items() if name not in self._ignored}

    def compare(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raises:
        RefitError: a tensor is missing, unknown or of another shape.
        """
        self.compare_names(shapes)
        for name, shape in self._shapes.items():
            if shapes[name] != shape:
                raise RefitError(f"{name} is offered as {list(shapes[name])}; the model's is {list(shape)}.")

    def compare_names(self, names: Iterable[str]) -> None:
        """Raises:
        RefitError: a tensor is missing or unknown.
        """
        if not self._shapes:
            return
        given = set(names) - self._ignored
        for what, wrong in (("lacks", self._shapes.keys() - given), ("has unknown", given - self._shapes.keys())):
            if wrong:
                some = ", ".join(sorted(wrong)[:3])
                raise RefitError(f"The set of weights {what} {some} ({len(wrong)} of {len(self._shapes)} tensors).")


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    if (folder / INDEX).is_file():
        files = set(weight_files(folder).values())
    elif (folder / SINGLE).is_file():
        files = {SINGLE}
    else:
        return {}
    found = {}
    for file in sorted(files):
        with safe_open(folder / file, "pt") as handle:
            found.update({name: tuple(handle.get_slice(name).get_shape()) for name in handle.keys()})  # noqa: SIM118
    return found
