"""Optimiser and learning-rate schedule of one training phase (papers.md 1.3)."""

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from audiolib.config.training import Recipe


def make_optimizer(model: nn.Module, recipe: "Recipe", lr: float) -> torch.optim.Optimizer:
    """AdamW decays matrices only; Adam, as in the papers, adds its small L2 term to every parameter's gradient."""
    if recipe.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=lr, betas=recipe.betas, weight_decay=recipe.weight_decay)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=recipe.betas)


def lr_factor(recipe: "Recipe", step: int, steps: int, steps_per_epoch: int) -> float:
    """What the phase's learning rate is multiplied with at `step` (from 0) of `steps`."""
    warmup = round(recipe.warmup_fraction * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if recipe.schedule == "cosine":
        done = (step - warmup) / max(1, steps - warmup)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))
    if recipe.schedule == "steps" and recipe.steps is not None:
        epoch = step // steps_per_epoch
        passed = 0 if epoch < recipe.steps.start else 1 + (epoch - recipe.steps.start) // recipe.steps.every
        return recipe.steps.factor**passed
    return 1.0
