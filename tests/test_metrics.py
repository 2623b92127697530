"""Metrics against scikit-learn and scipy on random data."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm, permutation_test
from sklearn.metrics import average_precision_score, label_ranking_average_precision_score, roc_auc_score

from audiolib.intervals import (
    RESAMPLES,
    _sign_flips,
    holm,
    paired_difference,
    ranking_intervals,
    wilson_interval,
)
from audiolib.metrics import accuracy, clip_scores, d_prime, mean_average_precision
from audiolib.rng import rng


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
    assert d_prime(scores, target) == pytest.approx(np.sqrt(2) * norm.ppf(area), abs=1e-12)


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


@pytest.mark.parametrize("decimals", [16, 1])
def test_scores_of_clips_are_scikit_learns_label_ranking(decimals):
    scores, target = multi_label(3, decimals)
    target[5] = 0  # Without a label.
    found = clip_scores(scores, target, multi_label=True)
    assert found.mean() == pytest.approx(label_ranking_average_precision_score(target, scores), abs=1e-12)
    assert set(clip_scores(scores, target, multi_label=False)) <= {0.0, 1.0}


@pytest.mark.parametrize("place, metric", [(0, mean_average_precision), (1, d_prime)])
@pytest.mark.parametrize("decimals", [16, 1])
@pytest.mark.parametrize("count", [200, 20])  # Of twenty clips some drawings leave a class without any, or with all.
def test_intervals_are_those_of_a_plain_bootstrap(place, metric, decimals, count):
    """The same drawings, each clip as many times as it was drawn, by the plain metric; around the value itself."""
    scores, target = (values[:count] for values in multi_label(4, decimals))
    target[:, 0] = np.arange(count) > 0
    drawn = rng(0, "intervals").multinomial(count, np.full(count, 1 / count), RESAMPLES)
    values = [metric(scores.repeat(counts, 0), target.repeat(counts, 0)) for counts in drawn]
    moved = np.percentile(values, [2.5, 97.5]) + metric(scores, target) - np.mean(values)
    assert ranking_intervals(scores, target)[place] == pytest.approx(moved, abs=1e-9)


def test_a_value_of_rare_classes_lies_in_the_middle_of_its_interval():
    random = np.random.default_rng(0)
    target = np.eye(50)[np.arange(400) % 50]  # Eight clips of each class, as in ESC-50.
    scores = random.standard_normal((400, 50)) + 1.5 * target
    value, (low, high) = mean_average_precision(scores, target), ranking_intervals(scores, target)[0]
    assert 0.3 < (value - low) / (high - low) < 0.7


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    hits = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        relevant = random.random(150) < 0.4
        scores = random.standard_normal(150) + relevant
        low, high = ranking_intervals(scores[:, None], relevant[:, None].astype(float))[1]
        hits += low <= 1.0 <= high  # Two normals one deviation apart have a d-prime of 1.
    assert 51 <= hits <= 60


def test_a_difference_between_models_is_mcnemars_for_answers_of_one_seed():
    random = np.random.default_rng(0)
    first, second = (random.random(300) < 0.9).astype(float), (random.random(300) < 0.8).astype(float)
    found = paired_difference(first, second)
    only = int((first > second).sum()), int((first < second).sum())
    assert found.p == pytest.approx(binomtest(only[0], sum(only)).pvalue) and found.test == "McNemar"
    assert found.mean == pytest.approx(first.mean() - second.mean())
    assert found.low < found.mean < found.high
    assert paired_difference(first, first).p == 1.0


def test_sign_flips_agree_with_scipys_permutation_test():
    random = np.random.default_rng(1)
    first, second = random.random(80), random.random(80) - 0.05
    found = paired_difference(first, second)
    gained = first - second
    expected = permutation_test((gained,), np.mean, permutation_type="samples", n_resamples=4000, rng=0).pvalue
    assert found.test == "sign flips" and found.p == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("seeds", [(2, 1), (2, 2), (3, 1), (3, 3), (5, 1)])
def test_equal_recipes_are_seldom_called_different(seeds):
    """Several seeds each of one recipe, whose accuracy differs from seed to seed by two points."""
    found, by_flips = [], []
    for trial in range(100):
        random = np.random.default_rng(trial)
        hard = random.random(300)
        models = [
            np.stack([(hard < 0.9 + 0.02 * random.standard_normal()).astype(float) for _ in range(count)])
            for count in seeds
        ]
        found.append(paired_difference(*models))
        if trial < 40:
            by_flips.append(_sign_flips(models[0].mean(0) - models[1].mean(0), 2000) < 0.05)
    borrowed = "clips and seeds, one model's spread for both"
    assert {difference.test for difference in found} == {borrowed if 1 in seeds else "clips and seeds"}
    assert sum(difference.p < 0.05 for difference in found) <= 8
    assert sum(difference.low <= 0 <= difference.high for difference in found) >= 92
    assert sum(by_flips) > 20, "clips alone know nothing of seeds"


@pytest.mark.parametrize("seeds", [(3, 1), (3, 3), (5, 1)])
def test_recipes_that_differ_by_far_more_than_their_seeds_are_told_apart(seeds):
    found = []
    for trial in range(20):
        random = np.random.default_rng(trial)
        hard = random.random(300)
        models = [
            np.stack([(hard < level + 0.01 * random.standard_normal()).astype(float) for _ in range(count)])
            for level, count in zip((0.9, 0.75), seeds, strict=True)
        ]
        found.append(paired_difference(*models))
    assert sum(difference.p < 0.05 and difference.low > 0 for difference in found) >= 18


def test_models_that_do_not_differ_at_all_are_not_told_apart():
    same = np.stack([np.arange(50) % 5 > 0] * 2).astype(float)
    found = paired_difference(same, same[:1])
    assert found.mean == 0 and found.low < 0 < found.high and found.p > 0.9


def test_seeds_that_happen_to_tie_are_no_proof_that_seeds_do_not_matter():
    def model(*right: int) -> np.ndarray:
        return np.stack([np.arange(300) < count for count in right]).astype(float)

    tied, apart = (paired_difference(model(276, other), model(264)) for other in (276, 275))
    assert tied.p == pytest.approx(apart.p, abs=0.03) and tied.p > 0.02


def test_holm_on_values_computed_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.9]) == [0.8, 0.9] and holm([]) == []
