"""What a training phase makes of a recipe: which patch a step uses, what its loss is."""

from typing import TYPE_CHECKING

import numpy as np

from audiolib.rng import rng

if TYPE_CHECKING:
    from audiolib.config.training import Phase, Recipe


def draw_patch(recipe: "Recipe", phase: "Phase", seed: int, step: int) -> tuple[int, int]:
    """The patch size of a step: the same in every worker, because only (seed, step) decides."""
    sizes, shares = recipe.patch_sizes, recipe.patch_probabilities
    weights = None if shares is None else np.array(shares) / sum(shares)
    return phase_patch(sizes[int(rng(seed, "patch", step).choice(len(sizes), p=weights))], phase)


def phase_patch(size: tuple[int, int], phase: "Phase") -> tuple[int, int]:
    """Patchification makes patches wider in time instead of frames fewer (papers.md 3.1)."""
    return (size[0], size[1] * int(phase.compression)) if phase.method == "patchify" else size
