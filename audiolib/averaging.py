"""Weights averaged over training: over all steps, recent ones most, or evenly over the last epochs (papers.md 1.3)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from audiolib.config.training import Averaging


class Average:
    """An average of a model's weights.

    Args:
        settings: how; null = none, and the model's own weights are shown.

    Attributes:
        weights: the average, or nothing yet.
        count: steps or epochs in it.
    """

    def __init__(self, settings: "Averaging | None") -> None:
        self.settings = settings
        self.weights: dict[str, Tensor] = {}
        self.count = 0

    def after_step(self, model: nn.Module) -> None:
        """`ema`: move towards the model's weights; early on faster, so that the first ones are forgotten."""
        if self.settings is not None and self.settings.ema is not None:
            self._move(model, 1 - min(self.settings.ema, (1 + self.count) / (10 + self.count)))

    def after_epoch(self, model: nn.Module, left: int) -> None:
        """`last_epochs`: take the weights into an even mean, with `left` epochs of the training still to come."""
        if self.ends(left):
            self._move(model, 1 / (self.count + 1))

    def ends(self, left: int) -> bool:
        """Whether an epoch with `left` ones after it is of those that `last_epochs` takes a mean of."""
        last = None if self.settings is None else self.settings.last_epochs
        return last is not None and left < last

    def _move(self, model: nn.Module, share: float) -> None:
        own = {name: tensor.detach() for name, tensor in model.state_dict().items()}
        if not self.weights:
            self.weights = {name: tensor.clone() for name, tensor in own.items()}
        else:
            torch._foreach_lerp_([self.weights[name] for name in own], list(own.values()), share)
        self.count += 1

    @contextmanager
    def shown(self, model: nn.Module) -> Iterator[None]:
        """Give the model the average while the block runs."""
        if not self.weights:
            yield
            return
        own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(self.weights)
        try:
            yield
        finally:
            model.load_state_dict(own)
