"""95 % intervals: of a share by Wilson's formula, of other metrics and of differences by resampling clips."""

import math
from collections.abc import Callable
from dataclasses import dataclass
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


def map_interval(scores: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Of the mean average precision; scores and target are (clips, c)."""
    return _resampled(_average_precisions, scores, target, lambda mean: mean)


def d_prime_interval(scores: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Of d-prime, which grows with the mean area under the ROC curve."""
    normal = NormalDist()
    return _resampled(
        _areas, scores, target, lambda mean: math.sqrt(2) * normal.inv_cdf(min(max(mean, 1e-6), 1 - 1e-6))
    )


def _resampled(
    metric: Callable[..., np.ndarray], scores: np.ndarray, target: np.ndarray, scale: Callable[[float], float]
) -> tuple[float, float]:
    """Percentiles of a mean over classes, when clips are drawn anew with replacement `RESAMPLES` times.

    Classes that a drawing leaves without a clip, or without any other, do not count in it.
    """
    clips = len(scores)
    weights = rng(0, "intervals").multinomial(clips, np.full(clips, 1 / clips), RESAMPLES)  # (r, clips)
    total, counted = np.zeros(RESAMPLES), np.zeros(RESAMPLES)
    for column in range(target.shape[1]):
        relevant = target[:, column] > 0.5
        if not 0 < relevant.sum() < clips:
            continue
        values = metric(scores[:, column], relevant, weights)
        known = np.isfinite(values)
        total[known] += values[known]
        counted += known
    means = total[counted > 0] / counted[counted > 0]
    if not len(means):
        return math.nan, math.nan
    low, high = np.percentile([scale(float(mean)) for mean in means], [2.5, 97.5])
    return float(low), float(high)


def _runs(scores: np.ndarray, relevant: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of relevant and of other clips, from the highest score down, up to the last clip of each run of equal
    scores: both (r, runs).
    """
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    sorted_weights, hit = weights[:, order], relevant[order]
    return np.cumsum(sorted_weights * hit, 1)[:, last], np.cumsum(sorted_weights * ~hit, 1)[:, last]


def _average_precisions(scores: np.ndarray, relevant: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(r,) average precision of one class for each weighting of the clips."""
    hits, misses = _runs(scores, relevant, weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.nan_to_num(hits / (hits + misses))
        return (precision * np.diff(hits, prepend=0, axis=1)).sum(1) / hits[:, -1]


def _areas(scores: np.ndarray, relevant: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(r,) area under the ROC curve of one class for each weighting of the clips."""
    hits, misses = _runs(scores, relevant, weights)
    middle = hits - np.diff(hits, prepend=0, axis=1) / 2  # A tie counts half.
    with np.errstate(invalid="ignore", divide="ignore"):
        return (middle * np.diff(misses, prepend=0, axis=1)).sum(1) / (hits[:, -1] * misses[:, -1])


@dataclass(frozen=True)
class Difference:
    """How much better one model is than another on the same clips.

    Attributes:
        mean: difference of the mean scores.
        low: lower end of its interval; `high` the upper.
        p: how often chance alone would make so large a difference.
        test: what `p` comes from.
    """

    mean: float
    low: float
    high: float
    p: float
    test: str


def paired_difference(first: np.ndarray, second: np.ndarray) -> Difference:
    """Compare two models by the scores of the same clips.

    The interval is by resampling clips. Right or wrong answers of single models are tested by McNemar's exact test,
    everything else by flipping the signs of the clips' differences at random.

    Args:
        first: (clips,) or (seeds, clips) scores of one model.
        second: those of the other; the clips in the same order, any number of seeds.
    """
    single = first.ndim == second.ndim == 1 or len(first) == len(second) == 1
    gained = np.atleast_2d(first).mean(0) - np.atleast_2d(second).mean(0)
    random, clips = rng(0, "paired"), len(gained)
    drawn = np.array([gained[random.integers(clips, size=clips)].mean() for _ in range(PAIRED_RESAMPLES)])
    low, high = np.percentile(drawn, [2.5, 97.5])
    if single and set(np.unique(gained)) <= {-1.0, 0.0, 1.0}:
        p, test = _mcnemar(int((gained > 0).sum()), int((gained < 0).sum())), "McNemar"
    else:
        p, test = _sign_flips(gained), "sign flips"
    return Difference(float(gained.mean()), float(low), float(high), p, test)


def _mcnemar(only_first: int, only_second: int) -> float:
    from scipy.stats import binomtest

    return float(binomtest(only_first, only_first + only_second).pvalue) if only_first + only_second else 1.0


def _sign_flips(gained: np.ndarray) -> float:
    random = rng(0, "flips")
    signs = random.choice([-1.0, 1.0], (PAIRED_RESAMPLES, len(gained)))
    as_large = np.abs(signs @ gained) >= abs(gained.sum()) - 1e-12
    return float((as_large.sum() + 1) / (PAIRED_RESAMPLES + 1))
