"""The order of an epoch: a function of (seed, epoch) and of what is stored, never of who reads it.

A split that is held in memory is permuted as a whole. A larger one is shuffled as it is stored: its row groups are
permuted and cut into windows of as much sound as may be held, and the clips of each window are permuted. The feature
stage has mixed classes and recordings over all groups already.
"""

from dataclasses import dataclass

import numpy as np

from audiolib.dataset import Clips
from audiolib.rng import rng


@dataclass(frozen=True)
class Order:
    """An epoch's clips, one after another.

    Attributes:
        clips: places of clips; with balanced sampling some come several times and some not at all.
        window_of: (g,) the window that each row group lies in; null when there is one window.
        members: places of the clips of each window.
    """

    clips: np.ndarray
    window_of: np.ndarray | None = None
    members: tuple[np.ndarray, ...] = ()

    def partners(self, group: int) -> np.ndarray | None:
        """The clips that may be mixed with one of a row group without reading further; null means any."""
        return None if self.window_of is None else self.members[self.window_of[group]]


def epoch_order(clips: Clips, seed: int, epoch: int, balanced: bool = False) -> Order:
    """The order of one epoch.

    Args:
        clips: the training split.
        seed: with `epoch` it alone decides.
        epoch: counted through the stage.
        balanced: draw as many clips as there are, with replacement, rare classes more often.
    """
    count = len(clips)
    if balanced:
        weights = clip_weights(clips)
        drawn = rng(seed, "draws", epoch).choice(count, count, p=weights / weights.sum())
        times = np.bincount(drawn, minlength=count)
    else:
        times = np.ones(count, np.int64)
    random = rng(seed, "order", epoch)
    if clips.window is None:
        return Order(np.repeat(np.arange(count), times)[random.permutation(int(times.sum()))])
    groups = random.permutation(len(clips.groups) - 1)
    frames = np.add.reduceat(clips.frames, clips.groups[:-1])[groups]
    number = (np.cumsum(frames) - frames) // max(1, clips.window)
    window_of = np.empty(len(groups), np.int64)
    window_of[groups] = np.unique(number, return_inverse=True)[1]
    of_clip = np.repeat(window_of, np.diff(clips.groups))
    members = np.split(np.argsort(of_clip, kind="stable"), np.cumsum(np.bincount(of_clip))[:-1])
    shown = (np.repeat(window, times[window]) for window in members)
    return Order(np.concatenate([some[random.permutation(len(some))] for some in shown]), window_of, tuple(members))


def clip_weights(clips: Clips) -> np.ndarray:
    """(clips,) how much each is wanted: over its classes, the sum of 1000 / (clips of it + 0.01) (papers.md 1.1)."""
    counts = np.bincount(clips.labels, minlength=clips.classes)
    wanted = 1000.0 / (counts + 0.01)
    sums = np.concatenate([[0.0], np.cumsum(wanted[clips.labels])])
    return sums[clips.label_ends[1:]] - sums[clips.label_ends[:-1]]
