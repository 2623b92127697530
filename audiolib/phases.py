"""What a training phase makes of a recipe: which patch a step uses, what its loss is."""

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, kl_div, logsigmoid

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


def loss_of(logits: Tensor, target: Tensor | None, multi_label: bool, smoothing: float) -> Tensor:
    """Binary cross-entropy per label, or cross-entropy against class shares."""
    if target is None:
        raise ValueError("a batch without targets has no loss")
    if multi_label:
        return binary_cross_entropy_with_logits(logits, target)
    return cross_entropy(logits, target, label_smoothing=smoothing)


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float, multi_label: bool) -> Tensor:
    """KL divergence from the teacher's probabilities to the student's, mean over clips (and labels), times T^2.

    Both logits are (m, c) and divided by the temperature T first; the factor keeps the gradient's size independent of
    it. A multi-label clip has one yes-or-no distribution per label.
    """
    student, teacher = logits / temperature, teacher / temperature
    if multi_label:
        pairs = [(logsigmoid(sign * student), logsigmoid(sign * teacher)) for sign in (1, -1)]
        loss = sum(kl_div(own, wanted, reduction="none", log_target=True) for own, wanted in pairs).mean()
    else:
        loss = kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True)
    return loss * temperature**2
