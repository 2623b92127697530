"""What each epoch of a training does, known before it begins: whose clips, in which views, in which steps."""

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from audiolib.dataset import Clips
from audiolib.loader import Epoch, EqualSteps, packed_steps
from audiolib.models import Classifier
from audiolib.order import epoch_order
from audiolib.packing import fill
from audiolib.phases import phase_patch
from audiolib.rng import rng
from audiolib.views import View, draw_views, phase_view

if TYPE_CHECKING:
    from audiolib.config.training import Phase, Recipe


class Planner:
    """Plans the epochs of one recipe on one split.

    Args:
        recipe: batches of equal clips, or packs.
        clips: the training split.
        seconds: length that clips are cut or padded to, and that the widths of augmentation are meant for.
        seed: of the training.

    Attributes:
        home: `seconds` in stored frames.
        frames: stored frames of the longest clip that is ever shown.
    """

    def __init__(self, recipe: "Recipe", clips: Clips, seconds: float, seed: int) -> None:
        self.recipe, self.clips, self.seed = recipe, clips, seed
        self.hop_ms = float(clips.frontend["hop_ms"])
        self.lengths = clips.frames
        self.home = self.frames = max(1, round(seconds * 1000 / self.hop_ms))
        if recipe.packing is not None:
            longest = max(1, round(recipe.packing.longest_seconds * 1000 / self.hop_ms))
            self.frames = min(longest, int(clips.frames.max()))

    def epoch(
        self, phase: "Phase", number: int, model: Classifier, rank: int = 0, world: int = 1, parts: int = 1
    ) -> Epoch:
        """One epoch's steps; every worker gets the same plan and makes its own share, in so many parts."""
        recipe, packing, shares = self.recipe, self.recipe.packing, world * parts
        order = epoch_order(self.clips, self.seed, number, recipe.sampling == "balanced")
        if packing is None:
            steps = EqualSteps(order.clips, phase_view(self.frames, phase), recipe.batch_size, shares)
        else:
            views = self._drawn(phase, number)
            tokens = self._tokens(views, model, phase)
            mixing = rng(self.seed, "packs", number)
            steps = packed_steps(order.clips, views, tokens, packing, mixing, shares)
        drawn = recipe.sampling == "balanced"
        return Epoch(self.clips, recipe.augment, self.home, self.seed, number, steps, order, rank, parts, drawn)

    def _tokens(self, views: list[View], model: Classifier, phase: "Phase") -> list[int]:
        """Of each clip at the patch size of the recipe that makes the most: a step may draw any of them."""
        sizes = [phase_patch(size, phase) for size in self.recipe.patch_sizes]
        seen = {view.seen for view in views}
        counts = {frames: max(model.trained_tokens(frames, size) for size in sizes) for frames in seen}
        return [counts[view.seen] for view in views]

    def _drawn(self, phase: "Phase", number: int) -> list[View]:
        return draw_views(self.recipe.packing, phase, self.lengths, self.hop_ms, self.seed, number)

    def valid_view(self, phase: "Phase") -> View:
        """How validation shows clips: as evaluation will, whole and at the stored hop or the phase's."""
        return phase_view(self.frames, phase, padded=self.recipe.packing is None)

    def efficiency(self, epoch: Epoch, model: Classifier, phase: "Phase") -> float:
        """Share of the processed tokens that hold sound: filled slots of packs, or unpadded tokens of equal clips."""
        if isinstance(epoch.steps, EqualSteps):
            view, shown = epoch.steps.view, self.lengths[epoch.order.clips]
            counts = Counter(np.minimum(shown, view.frames).tolist())
            real = sum(n * model.trained_tokens(View(t, view.hop, view.pool).seen) for t, n in counts.items())
            return real / (len(shown) * model.trained_tokens(view.seen))
        packs = [[view for share in step for _, view in share] for step in epoch.steps]
        tokens = self._tokens([view for pack in packs for view in pack], model, phase)
        bounds = np.cumsum([0, *map(len, packs)]).tolist()
        places = [list(range(first, last)) for first, last in pairwise(bounds)]
        return fill(tokens, places, self.recipe.packing.tokens)

    def gmac(self, phase: "Phase", number: int, model: Classifier) -> float:
        """Expected multiply-accumulates (10^9) of an epoch's forward passes, over the sizes that may be drawn."""
        if self.recipe.packing is None:
            count = self.recipe.batch_size * max(1, len(self.clips) // self.recipe.batch_size)
            shown = Counter({phase_view(self.frames, phase).seen: count})
        else:
            shown = Counter(view.seen for view in self._drawn(phase, number))
        sizes = [phase_patch(size, phase) for size in self.recipe.patch_sizes]
        shares, total = self.recipe.patch_probabilities, 0.0
        for frames, count in shown.items():
            total += count * float(np.average([model.macs(frames, size) for size in sizes], weights=shares))
        return total / 1e9

    def gmac_left(self, phase: int, epoch: int, model: Classifier) -> float:
        """Of the recipe from an epoch of a phase on: a coarse epoch costs less than a fine one."""
        left = 0.0
        for number, later in enumerate(self.recipe.phases[phase:]):
            left += (later.epochs - (epoch if number == 0 else 0)) * self.gmac(later, 0, model)
        return left
