"""How a clip is shown to a model: how much of it, at which hop, how many frames pooled into one, padded or as it is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from audiolib.augment import Random, fit_length
from audiolib.rng import rng

if TYPE_CHECKING:
    from audiolib.config.training import Packing, Phase, Recipe


@dataclass(frozen=True)
class View:
    """The shape at which a clip is shown.

    Attributes:
        frames: how much of it, in stored frames.
        hop: hop of the log-mel that is fetched, in stored hops; the window stays.
        pool: fetched frames that become one.
        pooling: `avg_pool` or `max_pool`.
        padded: whether a shorter clip is completed; else it stays as long as it is.
        fill: with what, in normalised log-mel; 0 is the mean.
    """

    frames: int
    hop: float = 1.0
    pool: int = 1
    pooling: str = "max_pool"
    padded: bool = True
    fill: float = 0.0

    @property
    def fetched(self) -> int:
        """Frames as fetched."""
        return math.ceil(self.frames / self.hop - 1e-9)  # 21 / 1.4 is a little more than 15 in floating point.

    @property
    def seen(self) -> int:
        """Frames as the model sees them."""
        return math.ceil(self.fetched / self.pool)

    @property
    def stretch(self) -> float:
        """Stored hops that a seen frame lasts."""
        return self.hop * self.pool

    @property
    def needs_sound(self) -> bool:
        """Whether stored log-mel is not enough."""
        return self.hop != int(self.hop)

    def fit(self, mel: np.ndarray, random: Random | None = None, fill: float | None = None) -> np.ndarray:
        """Cut (t, f) fetched frames to the view, at a random place if there is a generator; pad if that is wanted.

        `fill` is for log-mel that is not normalised yet.
        """
        frames = self.fetched if self.padded else min(self.fetched, len(mel))
        return fit_length(mel, frames, random, self.fill if fill is None else fill)

    def coarser(self, compression: float, method: str) -> "View":
        """The same at a temporal compression (papers.md 3.1).

        `frame_shift` takes frames at a longer hop, `avg_pool` and `max_pool` make one frame of several, `patchify`
        leaves the frames and makes the patches wider (`phases.phase_patch`).
        """
        if method == "frame_shift":
            return replace(self, hop=self.hop * compression)
        if method in ("avg_pool", "max_pool"):
            return replace(self, pool=self.pool * int(compression), pooling=method)
        return self


def phase_view(frames: int, phase: "Phase", *, padded: bool = True) -> View:
    """Clips of `frames` stored frames at a phase's compression."""
    return View(frames, padded=padded).coarser(phase.compression, phase.method)


def needs_sound(recipe: "Recipe", hop_ms: float) -> bool:
    """Whether a recipe shows clips at a hop that stored log-mel does not hold."""
    phases = [phase_view(1, phase).hop for phase in recipe.phases]
    drawn = [] if recipe.packing is None else [hop / hop_ms for hop in recipe.packing.hops_ms]
    return any(hop * other != int(hop * other) for hop in phases for other in drawn or [1.0])


def draw_views(
    packing: "Packing", phase: "Phase", lengths: Sequence[int], hop_ms: float, seed: int, epoch: int
) -> list[View]:
    """A view for every clip of an epoch: native length or a random cut, a random hop, a random pooling (papers.md 5.3).

    Args:
        packing: what is drawn from.
        phase: its compression comes on top.
        lengths: stored frames of each clip.
        hop_ms: the stored hop.
        seed: with `epoch` it alone decides the draws.
    """
    random = rng(seed, "views", epoch)
    count = len(lengths)
    most = np.minimum(lengths, max(1, round(packing.longest_seconds * 1000 / hop_ms)))
    if packing.shortest_seconds is not None:
        least = np.minimum(max(1, round(packing.shortest_seconds * 1000 / hop_ms)), most)
        most = random.integers(least, most, endpoint=True)
    hops = random.choice(packing.hops_ms, count) / hop_ms
    pools = random.choice(packing.pools, count)
    drawn = zip(most.tolist(), hops.tolist(), pools.tolist(), strict=True)
    return [View(n, hop, pool, padded=False).coarser(phase.compression, phase.method) for n, hop, pool in drawn]
