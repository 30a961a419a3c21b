"""The arms of a sweep: what each trains on, and which row of the paper's tables it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from conf.ablations import BLENDS, SOURCES, SWEEPS
from crossthink.errors import ConfigError, did_you_mean
from recipes.reporting.paper import SINGLE

MIXED, OPEN, SHORT, FILTERED = "mixed", "open", "short", "filtered"


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: its folder under the sweep's, and its name in tables.
        blend: option of `blend=`.
        pool: which of the study's pools it is trained on. A sweep of blends has one pool, whatever stands here.
        table: number of the paper's table that it is of.
        counterpart: the arm that the paper compares it with, where the table has two rows.
    """

    name: str
    blend: str
    pool: str = MIXED
    table: int = 4
    counterpart: str | None = None


BLEND_ARMS = tuple(Arm(blend, blend) for blend in BLENDS)
# Each table has its own question, and shares an arm with Table 4: the arms are eleven, and not their product.
STUDY_ARMS = (
    *BLEND_ARMS,
    Arm("open", "nd", OPEN, 5, "nd"),
    Arm("short", "only_gpr", SHORT, 6, "only_gpr"),
    Arm("filtered", "gpr_up", FILTERED, 7, "gpr_up"),
)
SINGLES = tuple(Arm(f"{SINGLE}{source}", f"single_{source}", table=3) for source in SOURCES)
"""Short runs on one source each, whose accuracies are the weights of `blend=score`."""
_ARMS = {"ablation_blends": BLEND_ARMS, "study": STUDY_ARMS}


def chosen_arms(recipe: str | None, names: Sequence[str]) -> list[Arm]:
    """The arms of a recipe, or those of them that are named, in the recipe's order.

    Raises:
        ConfigError: there is no such recipe or arm; names what there is.
    """
    if recipe not in SWEEPS:
        raise ConfigError(f"recipe={'null' if recipe is None else recipe} is no sweep. Allowed: {', '.join(SWEEPS)}.")
    arms = _ARMS[recipe]
    known = [arm.name for arm in arms]
    for name in names:
        if name not in known:
            raise ConfigError(
                f"arms: '{name}' is no arm of recipe={recipe}. Allowed: {', '.join(known)}.{did_you_mean(name, known)}"
            )
    return [arm for arm in arms if not names or arm.name in names]
