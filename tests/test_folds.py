"""Runs of a cross-validation are one model, on records made by hand so that their numbers are known."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest

from audiolib.compare import compare, summaries
from audiolib.errors import AudiolibError
from audiolib.folds import join_folds
from audiolib.record import Record
from audiolib.report import render_comparison
from tests.test_report import record

CLIPS = {fold: [f"{fold}/{number:03d}" for number in range(20 * fold)] for fold in (1, 2, 3)}  # Of unequal size.


def fold_run(model: str, fold: int, share: float, seed: int = 1) -> Record:
    """A run whose test was one fold."""
    made = record(model, 10 * fold + seed, share, CLIPS[fold])
    made.settings["params"]["seed"] = seed
    made.settings["data"]["source"]["fold"] = fold
    epoch = {"stage": "finetune", "gmac_cum": 1.0, "valid_score": 0.5, "compression": 1.0}
    rows = made.rows.with_columns(fold=pl.lit(fold, pl.Int32))
    return replace(made, name=f"{model}, fold {fold}", rows=rows, history=[epoch])


def at(rows: pl.DataFrame, patch: int = 16) -> dict:
    return rows.filter((pl.col("patch_t") == patch) & (pl.col("seconds") == 1.28) & (pl.col("hop_ms") == 10)).row(
        0, named=True
    )


def test_folds_are_one_model_measured_on_all_their_clips():
    parts = [fold_run("ast", fold, 0.7) for fold in (3, 1, 2)]
    (joined,) = join_folds(parts)
    row = at(joined.rows)
    right = sum(at(part.rows)["value"] * at(part.rows)["n"] for part in parts)
    assert row["n"] == 120 == joined.scores["id"].n_unique() and row["value"] == pytest.approx(right / 120)
    known = binomtest(round(right), 120).proportion_ci(method="wilson")
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((known.low, known.high))
    assert row["gmac"] == at(parts[0].rows)["gmac"] and row["fold"] is None
    assert [part.fold for part in joined.passes] == [1, 2, 3]


@pytest.mark.parametrize("metric, lift", [("d_prime", 1.0), ("map", 0.25)])
def test_of_other_metrics_the_interval_is_that_of_a_mean_of_independent_parts(metric, lift):
    random = np.random.default_rng(0)
    sizes, spreads = np.array([20, 40, 60]), np.array([0.3, 0.2, 0.1])
    parts = []
    for fold, spread in zip((1, 2, 3), spreads, strict=True):
        made = fold_run("ast", fold, 0.7)
        around = pl.col("value")
        rows = made.rows.with_columns(
            metric=pl.lit(metric), value=around + lift, ci_low=around + lift - spread, ci_high=around + lift + spread
        )
        parts.append(replace(made, rows=rows))
    row = at(join_folds(parts)[0].rows)
    weights = sizes / sizes.sum()
    assert row["value"] == pytest.approx(weights @ [at(part.rows)["value"] for part in parts])
    drawn = random.normal(0, spreads / 1.96, (200_000, 3)) @ weights
    half = row["value"] - row["ci_low"]
    assert half == pytest.approx(1.96 * drawn.std(), rel=0.01)
    whole = row["value"] + half
    assert whole > 1.01, "so high that a mean average precision cannot be"
    assert row["ci_high"] == (1 if metric == "map" else pytest.approx(whole))


def test_models_are_compared_on_the_clips_of_all_folds_and_seeds_stay_seeds(tmp_path):
    runs = [fold_run(model, fold, share, seed) for fold in (1, 2, 3) for seed in (1, 2)
            for model, share in (("ast", 0.6), ("elastic", 0.95))]  # fmt: skip
    found = compare(runs)
    assert found.labels == ["ast", "elastic"] and found.clips == 120
    assert {row["label"]: row["seeds"] for row in summaries(found)} == {"ast": 2, "elastic": 2}
    assert {name: scores.shape for name, scores in found.clip_scores(None).items()} == {
        "ast": (2, 120), "elastic": (2, 120)
    }  # fmt: skip
    render_comparison(found, tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert "12 runs, seeds 1, 2, test folds 1, 2, 3, 120 test clips" in page
    assert page.count("source.fold=3") == 4 and "# elastic, fold 2" in page
    assert "elastic, seed 2, fold 3" in (tmp_path / "report.html").read_text()


def test_a_model_that_lacks_a_fold_is_left_out(capsys):
    runs = [fold_run("ast", fold, 0.6) for fold in (1, 2, 3)] + [fold_run("elastic", fold, 0.9) for fold in (1, 3)]
    plain = record("flexi", 1, 0.7, CLIPS[3])
    found = compare([*runs, plain])
    assert found.clips == 120 and found.labels == ["ast"]
    told = capsys.readouterr().err
    assert "elastic, seed 1, lacks fold 2, and is left out" in told
    assert "flexi-1 was not tested on a fold as others were, and is left out" in told
    few = compare([*runs[:3:2], *runs[3:]])
    assert few.clips == 80 and few.labels == ["ast", "elastic"] and not capsys.readouterr().err


def test_a_record_that_is_older_than_the_setting_is_no_other_training():
    old, new, other = record("ast", 1, 0.7), record("ast", 1, 0.7), record("ast", 2, 0.7)
    for made in (new, other):
        made.settings["data"]["source"]["fold"] = None
    assert [kept for kept, _ in compare([old, new]).records] == [new] and compare([old, other]).labels == ["ast"]


def test_folds_that_do_not_go_together_are_one_line():
    match = "no model was tested on all folds 1, 2: ast, seed 1, lacks fold 2; elastic, seed 1, lacks fold 1; train"
    with pytest.raises(AudiolibError, match=match):
        compare([fold_run("ast", 1, 0.7), fold_run("elastic", 2, 0.7)])
    again = replace(fold_run("ast", 2, 0.7), scores=fold_run("ast", 1, 0.7).scores)
    with pytest.raises(AudiolibError, match="the folds of ast, seed 1, are not apart: clip 1/000 was tested twice"):
        compare([fold_run("ast", 1, 0.7), again])
    coarse = fold_run("ast", 2, 0.7)
    coarse = replace(coarse, rows=coarse.rows.with_columns(hop_ms=pl.col("hop_ms") + 100))
    with pytest.raises(AudiolibError, match="the folds of ast, seed 1, were measured at different shapes"):
        compare([fold_run("ast", 1, 0.7), coarse])


def test_equal_counts_of_right_clips_are_equal_however_they_lie_in_folds():
    found = set()
    for right in ((3, 20, 47), (10, 30, 30), (20, 40, 10), (1, 9, 60), (7, 31, 32)):
        parts = []
        for fold, count in zip((1, 2, 3), right, strict=True):
            made = fold_run("ast", fold, 0.7)
            parts.append(replace(made, rows=made.rows.with_columns(value=pl.lit(count / len(CLIPS[fold])))))
        found.add(at(join_folds(parts)[0].rows)["value"])
    assert len(found) == 1


def test_only_cells_that_every_fold_has_are_joined():
    one, other = fold_run("ast", 1, 0.7), fold_run("ast", 2, 0.7)
    other = replace(other, rows=other.rows.filter(pl.col("patch_t") != 32))
    assert set(join_folds([one, other])[0].rows["patch_t"]) == {8, 16}
