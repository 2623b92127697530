"""Metrics: arrays in, floats out."""

import math
from statistics import NormalDist

import numpy as np


def accuracy(scores: np.ndarray, target: np.ndarray) -> float:
    """Share of clips whose highest score is their class; scores and target are (clips, c)."""
    return float((scores.argmax(1) == target.argmax(1)).mean())


def clip_scores(scores: np.ndarray, target: np.ndarray, multi_label: bool) -> np.ndarray:
    """(clips,) how well each clip was done: 1 or 0 for a right or wrong class; with several labels the mean precision
    at the ranks of its labels (label ranking average precision), 1 for a clip without labels.
    """
    if not multi_label:
        return (scores.argmax(1) == target.argmax(1)).astype(np.float64)
    found = np.ones(len(scores))
    for place, (row, labels) in enumerate(zip(scores, target > 0.5, strict=True)):
        own = row[labels]
        if 0 < len(own) < len(row):
            found[place] = np.mean([(own >= score).sum() / (row >= score).sum() for score in own])
    return found


def average_precision(scores: np.ndarray, relevant: np.ndarray) -> float:
    """Area under the precision-recall steps of one class, as scikit-learn defines it; equal scores are one step.

    Args:
        scores: (clips,).
        relevant: (clips,) 0 or 1; at least one must be 1.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(relevant[order])
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # The last clip of each run of equal scores.
    precision = hits[last] / (last + 1)
    gained = np.diff(hits[last], prepend=0)
    return float((precision * gained).sum() / hits[-1])


def mean_average_precision(scores: np.ndarray, target: np.ndarray) -> float:
    """Unweighted mean of the average precision of every class that occurs (papers.md 1.1)."""
    return _over_classes(average_precision, scores, target)


def roc_auc(scores: np.ndarray, relevant: np.ndarray) -> float:
    """Probability that a relevant clip scores above an irrelevant one, ties counting half."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    positives = int(relevant.sum())
    below = ranks[relevant > 0].sum() - positives * (positives + 1) / 2
    return float(below / (positives * (len(scores) - positives)))


def d_prime(scores: np.ndarray, target: np.ndarray) -> float:
    """sqrt(2) times the normal quantile of the mean AUC over classes; a perfect AUC is held at 1 - 1e-6."""
    area = _over_classes(roc_auc, scores, target)
    return math.sqrt(2) * NormalDist().inv_cdf(min(max(area, 1e-6), 1 - 1e-6))


def _over_classes(metric, scores: np.ndarray, target: np.ndarray) -> float:
    relevant = target > 0.5
    some = [i for i in range(target.shape[1]) if 0 < relevant[:, i].sum() < len(target)]
    return float(np.mean([metric(scores[:, i], relevant[:, i].astype(float)) for i in some])) if some else float("nan")
