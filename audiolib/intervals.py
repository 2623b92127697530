"""95 % intervals: of a share by Wilson's formula, of other metrics and of differences by resampling clips."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from audiolib.rng import rng

RESAMPLES = 200
PAIRED_RESAMPLES = 2000


def wilson_interval(share: float, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a share among `count` clips; stays within 0 and 1 also for 0 % and 100 %."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def ranking_intervals(scores: np.ndarray, target: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    """Of the mean average precision, and of d-prime: percentiles when clips are drawn anew `RESAMPLES` times.

    Classes that a drawing leaves without a clip, or without any other, do not count in it. A clip that is drawn twice
    stands in two ranks next to one another, which lifts the precision of rare classes in every drawing: the drawings
    are moved so that their mean is the value itself.

    Args:
        scores: (clips, c).
        target: (clips, c), 1 for each class that a clip has.
    """
    clips = len(scores)
    weights = _drawings(clips)
    drawings = weights.shape[1]
    total, counted = np.zeros((2, drawings)), np.zeros(drawings)
    for column in range(target.shape[1]):
        relevant = target[:, column] > 0.5
        if 0 < relevant.sum() < clips:
            ranks = _ranks(scores[:, column], relevant, weights)
            known = (ranks.hits > 0) & (ranks.misses > 0)
            counted += known
            total[0, known] += ranks.average_precisions()[known]
            total[1, known] += ranks.areas()[known]
    if not counted[0]:
        return (math.nan, math.nan), (math.nan, math.nan)
    means = total[:, counted > 0] / counted[counted > 0]
    low, high = _around(means[0])
    normal = NormalDist()
    areas = np.clip(means[1], 1e-6, 1 - 1e-6)
    return (max(0.0, low), min(1.0, high)), _around(math.sqrt(2) * np.array([normal.inv_cdf(area) for area in areas]))


def _around(values: np.ndarray) -> tuple[float, float]:
    """The interval around the first value that the others, of the drawings, give."""
    low, high = np.percentile(values[1:], [2.5, 97.5]) + (values[0] - values[1:].mean())
    return float(low), float(high)


@lru_cache(maxsize=2)
def _drawings(clips: int) -> np.ndarray:
    """(clips, 1 + r): how often each clip counts, at first as they are; the same for all models and cells."""
    drawn = rng(0, "intervals").multinomial(clips, np.full(clips, 1 / clips), RESAMPLES)
    return np.vstack([np.ones(clips, np.int32), drawn.astype(np.int32)]).T.copy()


@dataclass(frozen=True)
class _Ranks:
    """Where the clips of one class stand among all, in r drawings; equal scores share a rank.

    Attributes:
        own: (k, r) how often each clip of the class counts, from the highest score down.
        hits_there: (k, r) clips of the class down to the rank of each; `clips_there` of all classes.
        clips_there: see `hits_there`.
        misses_above: (k, r) twice the other clips above each, a tie counting half.
        hits: (r,) clips of the class in all; `misses` the others.
        misses: see `hits`.
    """

    own: np.ndarray
    hits_there: np.ndarray
    clips_there: np.ndarray
    misses_above: np.ndarray
    hits: np.ndarray
    misses: np.ndarray

    def average_precisions(self) -> np.ndarray:
        """(r,) average precision for each drawing; not a number where it has no clip of the class."""
        with np.errstate(invalid="ignore", divide="ignore"):  # The best clip may not have been drawn.
            return np.nansum(self.own * (self.hits_there / self.clips_there), axis=0) / self.hits

    def areas(self) -> np.ndarray:
        """(r,) area under the ROC curve for each drawing; not a number where it has clips of one side alone."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return 1 - (self.own * self.misses_above).sum(0) / (2 * self.hits * self.misses)


def _ranks(scores: np.ndarray, relevant: np.ndarray, weights: np.ndarray) -> _Ranks:
    """Of one class: its scores of all clips, which of them have it, and how often each counts (clips, r)."""
    order = np.argsort(-scores, kind="stable")
    falling, of_class = scores[order], relevant[order]
    own = weights[order[of_class]]
    hits_to = _sums_before(own)
    # The first clip and the one after the last of equal scores, for each clip of the class.
    first, after = (np.searchsorted(-falling, -falling[of_class], side) for side in ("left", "right"))
    hits_above, hits_there = (hits_to[np.searchsorted(np.flatnonzero(of_class), place)] for place in (first, after))
    clips_above, clips_there, every = _sums_at(weights[order], first, after, np.array([len(order)]))
    misses_above = (clips_above - hits_above) + (clips_there - hits_there)
    return _Ranks(own, hits_there, clips_there, misses_above, hits_to[-1], every[0] - hits_to[-1])


def _sums_before(values: np.ndarray) -> np.ndarray:
    """(n + 1, r) sums of the rows above each."""
    sums = np.zeros((len(values) + 1, values.shape[1]), np.int64)
    np.cumsum(values, 0, out=sums[1:])
    return sums


def _sums_at(values: np.ndarray, *places: np.ndarray) -> list[np.ndarray]:
    """(places, r) sums of the rows above each place. A class has few clips among many: what lies between two places is
    summed at once, and no sum is kept for all.
    """
    cuts = np.unique(np.concatenate([[0], *places]))
    starts = cuts[cuts < len(values)]
    sums = _sums_before(np.add.reduceat(values, starts, axis=0, dtype=np.int64))
    return [sums[np.searchsorted(starts, own)] for own in places]


@dataclass(frozen=True)
class Difference:
    """How much better one model is than another on the same clips.

    Attributes:
        mean: difference of the mean scores.
        low: lower end of its interval; `high` the upper.
        p: how often chance alone would make so large a difference.
        test: what `p` comes from.
        corrected: `p` as one of several tests (`holm`); of a single one the same.
    """

    mean: float
    low: float
    high: float
    p: float
    test: str
    corrected: float


def paired_difference(first: np.ndarray, second: np.ndarray, tests: int = 1) -> Difference:
    """Compare two models by the scores of the same clips.

    The interval is by resampling clips, and by drawing other seeds where a model has several: other clips, and training
    once more, would both have given other scores. Then the same drawings are the test. A single seed says nothing of
    its recipe's spread: it is given that of the other model. Of two single seeds, about which nothing can be said
    beyond these trained weights, right or wrong answers are tested by McNemar's exact test, other scores by flipping
    the signs of the clips' differences at random.

    Args:
        first: (clips,) or (seeds, clips) scores of one model.
        second: those of the other; the clips in the same order, any number of seeds.
        tests: pairs among which this one is. So many more drawings that p may be small enough to count among them all:
            it is never less than two in all drawings.
    """
    drawings = max(PAIRED_RESAMPLES, 80 * tests)
    models = np.atleast_2d(first), np.atleast_2d(second)
    gained = models[0].mean(0) - models[1].mean(0)
    random, clips = rng(0, "paired"), len(gained)
    drawn = np.array([gained[random.integers(clips, size=clips)].mean() for _ in range(drawings)])
    fewest, most = sorted(map(len, models))
    if most > 1:
        drawn += _seed_drawings([scores.mean(1) for scores in models], clips, random, drawings)
    low, high = np.percentile(drawn, [2.5, 97.5])
    if most > 1:
        p, test = (
            _both_tails(drawn),
            "clips and seeds" if fewest > 1 else "clips and seeds, one model's spread for both",
        )
    elif set(np.unique(gained)) <= {-1.0, 0.0, 1.0}:
        p, test = _mcnemar(int((gained > 0).sum()), int((gained < 0).sum())), "McNemar"
    else:
        p, test = _sign_flips(gained, drawings), "sign flips"
    return Difference(float(gained.mean()), float(low), float(high), p, test, p)


def _seed_drawings(means: list[np.ndarray], clips: int, random: np.random.Generator, count: int) -> np.ndarray:
    """How far the difference between two models would move, if both were trained with other seeds.

    A few seeds tell their spread badly: the drawings are Student's t, with the degrees of freedom of Welch and
    Satterthwaite.

    Args:
        means: of each model, (seeds,) its score; one of them may have a single seed.
        clips: that the scores are means over.
        random: their order among the drawings of clips.
        count: how many.
    """
    from scipy.stats import t

    several = [scores for scores in means if len(scores) > 1]
    # Seeds with equally many right clips have a spread, too: less than one clip tells it.
    spreads = [max(float(scores.var(ddof=1)), 1 / (2 * clips**2)) for scores in several]
    if len(several) == 1:
        variance = spreads[0] * sum(1 / len(scores) for scores in means)
        freedom = len(several[0]) - 1.0
    else:
        parts = [spread / len(scores) for spread, scores in zip(spreads, means, strict=True)]
        variance = sum(parts)
        unsure = sum(part**2 / (len(scores) - 1) for part, scores in zip(parts, means, strict=True))
        freedom = variance**2 / unsure
    # One from each of as many equal shares: how long the tails are is no luck.
    shares = (random.permutation(count) + 0.5) / count
    return math.sqrt(variance) * t.ppf(shares, freedom)


def holm(p: Sequence[float]) -> list[float]:
    """p values of several tests at once (Holm 1979): however many there are, one below 0.05 is seldom chance."""
    order, running = np.argsort(p, kind="stable"), 0.0
    found = [0.0] * len(p)
    for rank, place in enumerate(order.tolist()):
        running = max(running, min(1.0, (len(p) - rank) * p[place]))
        found[place] = running
    return found


def _both_tails(drawn: np.ndarray) -> float:
    """Twice the share of drawings on the other side of zero."""
    other = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return min(1.0, 2 * (float(other) + 1) / (len(drawn) + 1))


def _mcnemar(only_first: int, only_second: int) -> float:
    from scipy.stats import binomtest

    return float(binomtest(only_first, only_first + only_second).pvalue) if only_first + only_second else 1.0


def _sign_flips(gained: np.ndarray, drawings: int) -> float:
    random, as_large = rng(0, "flips"), 0
    for _ in range(drawings):  # One at a time: all at once would take gigabytes for many clips.
        flipped = gained @ random.choice([-1.0, 1.0], len(gained))
        as_large += abs(flipped) >= abs(gained.sum()) - 1e-12
    return float((as_large + 1) / (drawings + 1))
