"""`blend=`: how much of each source a trainer draws. A blend is a rule over a pool, never a copy of rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING, OmegaConf

from crossthink.errors import ConfigError, did_you_mean

_FOLDER = Path(__file__).parent / "blend"


@dataclass
class BlendConfig:
    """Weights over the sources, domains or kinds of a pool."""

    name: str = MISSING
    """What reports call the blend."""
    by: str = "source"
    """What the weights name: source; domain (gpr, math); or kind (mcq; open: all that is not mcq, math included)."""
    weights: dict[str, float] = field(default_factory=dict)
    """Weight of each, of any sum; what is not named is not drawn. Within a domain or kind the sources keep their
    natural proportions. Empty: natural proportions throughout."""
    scores: dict[str, float | None] = field(default_factory=dict)
    """Stand-alone average of each source, to weigh sources by (blend=score); null: unknown, to be given."""
    provenance: str = MISSING
    """Where the rule comes from: reported (by the paper), derived (from its numbers) or ours."""


def shipped_blends() -> list[str]:
    """Names of the blends of conf/blend, in alphabetical order."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_blend(name: str) -> BlendConfig:
    """The blend of conf/blend/NAME.yaml as it stands, without a command line.

    Raises:
        ConfigError: there is none; the message lists those that there are.
    """
    known = shipped_blends()
    if name not in known:
        raise ConfigError(f"There is no blend '{name}'. Allowed: {', '.join(known)}.{did_you_mean(name, known)}")
    merged = OmegaConf.merge(OmegaConf.structured(BlendConfig), OmegaConf.load(_FOLDER / f"{name}.yaml"))
    blend = OmegaConf.to_object(merged)
    assert isinstance(blend, BlendConfig)
    return blend
