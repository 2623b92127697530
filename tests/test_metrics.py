"""Metrics against scikit-learn and scipy on random data."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from sklearn.metrics import average_precision_score, roc_auc_score

from audiolib.metrics import accuracy, d_prime, mean_average_precision, wilson_interval


def multi_label(seed: int, decimals: int = 16) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    target = (random.random((200, 7)) < 0.2).astype(float)
    return np.round(random.standard_normal((200, 7)) + target, decimals), target


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [16, 1])  # One decimal makes many equal scores.
def test_map_and_d_prime_are_scikit_learns(seed, decimals):
    scores, target = multi_label(seed, decimals)
    assert mean_average_precision(scores, target) == pytest.approx(
        average_precision_score(target, scores, average="macro"), abs=1e-12
    )
    area = roc_auc_score(target, scores, average="macro")
    assert d_prime(scores, target) == pytest.approx(np.sqrt(2) * norm.ppf(area), abs=1e-10)


def test_a_class_without_clips_does_not_count():
    scores, target = multi_label(0)
    target[:, 3] = 0
    kept = [0, 1, 2, 4, 5, 6]
    assert mean_average_precision(scores, target) == mean_average_precision(scores[:, kept], target[:, kept])


@pytest.mark.parametrize("hits, count", [(0, 10), (10, 10), (1, 3), (37, 41), (288, 300)])
def test_wilson_interval_is_scipys(hits, count):
    expected = binomtest(hits, count).proportion_ci(method="wilson")
    assert wilson_interval(hits / count, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_accuracy_counts_the_highest_score():
    scores = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    target = np.array([[0, 1], [1, 0], [1, 0], [1, 0]], float)
    assert accuracy(scores, target) == 0.75


def test_perfect_scores_give_a_finite_d_prime():
    target = np.eye(4).repeat(3, 0)
    assert 6 < d_prime(target, target) < 7
