"""What a training step makes small: the loss against targets, and that against a teacher."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, kl_div, logsigmoid

from audiolib.batches import Batch
from audiolib.models import Classifier

if TYPE_CHECKING:
    from audiolib.config.training import Recipe


@dataclass(frozen=True)
class Teacher:
    """A model that is asked about the clips that another one learns from (knowledge flexification).

    Attributes:
        model: any classifier of the same classes.
        patch: its own patch size.
        scale: with `shift`, what turns the student's log-mel, x, into the teacher's, which may be normalised by other
            constants: scale x + shift.
        fill: what it knows as padding.
    """

    model: Classifier
    patch: tuple[int, int]
    scale: float = 1.0
    shift: float = 0.0
    fill: float = 0.0

    def __call__(self, batch: Batch) -> Tensor:
        """(m, c) float32 logits, outside the graph."""
        # Padding, and masks, which are 0 for the student.
        mel = torch.where(batch.mel == 0, self.fill, batch.mel * self.scale + self.shift)
        with torch.no_grad():
            return self.model(replace(batch, mel=mel), self.patch).float()


class Objective:
    """The loss of a recipe.

    Args:
        recipe: label smoothing, and how much a teacher weighs.
        multi_label: whether a clip has several labels.
        teacher: null = none.
    """

    def __init__(self, recipe: "Recipe", multi_label: bool, teacher: Teacher | None = None) -> None:
        self.recipe, self.multi_label, self.teacher = recipe, multi_label, teacher

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        """The mean over a batch's clips times the batch's weight.

        Args:
            logits: (m, c) float32.
            batch: with targets.
        """
        loss = loss_of(logits, batch.target, self.multi_label, self.recipe.label_smoothing)
        if self.teacher is not None and self.recipe.distill is not None:
            weight = self.recipe.distill.weight
            apart = distillation_loss(logits, self.teacher(batch), self.recipe.distill.temperature, self.multi_label)
            loss = (1 - weight) * loss + weight * apart
        return batch.weight * loss


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
