"""Comparison, Pareto front and pages, on small records made by hand so that their numbers are known."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from audiolib import charts
from audiolib.compare import compare, summaries, with_record
from audiolib.errors import AudiolibError
from audiolib.evaluate import Outcome
from audiolib.files import write_text
from audiolib.intervals import holm
from audiolib.pareto import front, pick
from audiolib.record import Record, read_record
from audiolib.report import Sources, render, render_comparison
from audiolib.results import SCORES, table, write_outcome
from audiolib.tables import pairs
from tests.conftest import ROOT

CLIPS = [f"clip/{number:03d}" for number in range(60)]


def settings(model: str, seed: int, **recipe: Any) -> dict[str, Any]:
    """Those of a pass, from the presets of this project."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    found = {"params": {**params, "model": model, "seed": seed}}
    for group, name in (("model", model), ("data", "synthetic"), ("evaluate", "matrix")):
        found[group] = yaml.safe_load((ROOT / f"configs/{group}/{name}.yaml").read_text())
    found["model"]["finetune"].update(recipe)
    return found


def record(model: str, seed: int, share: float, clips: list[str] = CLIPS, **recipe: Any) -> Record:
    """A run that does `share` of the clips right at home, fewer at foreign shapes; small patches cost more."""
    random = np.random.default_rng(seed)
    rows, scores = [], []
    for patch, seconds, hop, loss in (
        (16, 1.28, 10.0, 0.0), (8, 1.28, 10.0, 0.1), (32, 1.28, 10.0, 0.2), (16, 0.64, 10.0, 0.1),
        (16, 1.28, 20.0, 0.1),
    ):  # fmt: skip
        right = (random.random(len(clips)) < share - loss).astype(float)
        cell = {"stage": "finetune", "patch_f": patch, "patch_t": patch, "seconds": seconds, "hop_ms": hop}
        cost = {"gmac": 64 / patch**2, "ms": 640 / patch**2, "tokens": 16384 / patch**2, "mib": 512 / patch**2}
        value = float(right.mean())
        interval = {"ci_low": value - 0.1, "ci_high": value + 0.1}
        common = {"run": f"{model}{seed}", "model": model, "corpus": "synthetic", "split": "test", "seed": seed}
        rows.append({**common, **cell, **cost, **interval, "metric": "accuracy", "value": value, "n": len(clips)})
        scores.append(
            pl.DataFrame({"id": clips, "score": right}).with_columns(**{k: pl.lit(v) for k, v in cell.items()})
        )
    kept = pl.concat(scores).select(pl.col(name).cast(kind) for name, kind in SCORES.items())
    made = {"commit": "abc1234", "date": "2026-01-01", "command": "dvc repro", "machine": "2 of 2 cores"}
    return Record(f"{model}-{seed}", table(rows), kept, settings(model, seed, **recipe), made, [])


@pytest.fixture(scope="module")
def found():
    return compare([record("ast", seed, 0.7) for seed in (1, 2, 3)] + [record("elastic", 1, 0.95)])


def test_seeds_of_one_model_are_one_line_and_other_recipes_are_not(found):
    assert found.labels == ["ast", "elastic"]
    ast = found.line("patch").filter(pl.col("label") == "ast")
    values = [r.rows.filter(pl.col("patch_t") == 8)["value"][0] for r, _ in found.records[:3]]
    row = ast.filter(pl.col("patch_t") == 8).rows(named=True)[0]
    assert row["seeds"] == 3 and row["value"] == pytest.approx(np.mean(values))
    assert row["high"] - row["value"] == pytest.approx(np.std(values, ddof=1))
    single = found.line("patch").filter((pl.col("label") == "elastic") & (pl.col("patch_t") == 8)).rows(named=True)[0]
    assert single["high"] - single["value"] == pytest.approx(0.1)
    other = compare([record("ast", 1, 0.7), record("ast", 1, 0.7, label_smoothing=0.3), record("ast", 2, 0.7)])
    assert other.labels == ["ast", "ast (2)"]


def test_a_training_that_was_measured_twice_is_one_seed(capsys):
    first, again = record("ast", 1, 0.7), record("ast", 1, 0.7)
    again.settings["data"]["eval_seconds"] = [0.5]
    again.settings["params"]["evaluate"] = "product"
    twice = compare([first, again])
    assert twice.labels == ["ast"] and [kept for kept, _ in twice.records] == [again]
    assert "ast-1 and ast-1 are the same training; the second is shown" in capsys.readouterr().err


def test_an_evaluation_that_mlflow_does_not_know_is_compared_too():
    known, own = [record("ast", 1, 0.7)], record("elastic", 1, 0.8)
    assert with_record(known, own, None) == with_record(known, own, "synthetic") == [*known, own]
    assert with_record(known, own, "fsdd") == with_record(known, record("ast", 1, 0.9), None) == known


def test_means_are_over_what_every_model_was_measured_at(found):
    short = record("flexi", 1, 0.9)
    kept = ~((pl.col("patch_t") == 32) & (pl.col("seconds") == 1.28))
    short = replace(short, rows=short.rows.filter(kept), scores=short.scores.filter(kept))
    both = compare([record("ast", 1, 0.7), short])
    assert both.shared("patch").sort("patch_t").rows() == [(8, 8), (16, 16)]
    for row, one in zip(summaries(both), (record("ast", 1, 0.7), short), strict=True):
        line = one.rows.filter((pl.col("seconds") == 1.28) & (pl.col("hop_ms") == 10) & (pl.col("patch_t") < 32))
        assert row["patch_mean"] == pytest.approx(line["value"].mean())
        assert row["patch_worst"] == pytest.approx(line["value"].min())
    (_, _, difference), *_ = both.differences("patch")
    means = [row["patch_mean"] for row in summaries(both)]
    assert difference.mean == pytest.approx(abs(means[0] - means[1]))


def test_differences_are_between_the_same_clips(found):
    one, other, difference = found.differences(None)[0]
    assert (one, other) == ("elastic", "ast") and difference.p < 0.05  # Two seeds and one.
    assert difference.test == "clips and seeds, one model's spread for both"
    row = {entry["label"]: entry for entry in summaries(found)}
    assert difference.mean == pytest.approx(row["elastic"]["home"] - row["ast"]["home"])
    along = found.differences("patch")[0][2]
    assert along.mean == pytest.approx(row["elastic"]["patch_mean"] - row["ast"]["patch_mean"])


def test_the_table_of_differences_says_what_it_tests():
    runs = [record("ast", 1, 0.7), record("elastic", 1, 0.9)]
    tagged = [replace(run, rows=run.rows.with_columns(metric=pl.lit("map"))) for run in runs]
    one, several = pairs(compare(runs)), pairs(compare(tagged))
    assert one.table.columns[3] == "points of accuracy" and "label ranking" not in one.text
    assert several.table.columns[3] == "points of label ranking" and "label ranking average precision" in several.text


def test_runs_on_other_clips_cannot_be_compared():
    with pytest.raises(AudiolibError, match=r"different clips of synthetic: 1 are in one only, clip/059"):
        compare([record("ast", 1, 0.7), record("elastic", 1, 0.7, clips=CLIPS[:-1])])
    with pytest.raises(AudiolibError, match="nothing to compare"):
        compare([])


def test_charts_draw_what_was_found(found):
    drawn = {trace.name: trace for trace in charts.lines(found, "patch", [16.0]).data if trace.name}
    for label in found.labels:
        own = found.line("patch").filter(pl.col("label") == label)
        assert list(drawn[label].x) == own["patch_t"].to_list() and list(drawn[label].y) == own["value"].to_list()
    bands = [trace for trace in charts.lines(found, "patch", []).data if trace.fill == "toself"]
    ast = found.line("patch").filter(pl.col("label") == "ast")
    assert list(bands[0].y) == [*ast["high"].to_list(), *ast["low"].to_list()[::-1]]


def test_pairs_are_told_as_one_test_and_as_one_of_many():
    three = compare([record(name, 1, share) for name, share in (("ast", 0.7), ("aum", 0.75), ("elastic", 0.95))])
    found = [difference for _, _, difference in three.differences(None)]
    assert [d.corrected for d in found] == holm([d.p for d in found]) and found[0].corrected > found[0].p


def test_the_front_is_what_no_other_cell_beats():
    random = np.random.default_rng(0)
    cells = pl.DataFrame({"ms": random.integers(1, 20, 80).astype(float), "value": random.integers(0, 20, 80) / 20})
    best = front(cells, "ms").rows()
    every = cells.select("ms", "value").rows()
    beaten = {
        (ms, value) for ms, value in every for other in every
        if other != (ms, value) and other[0] <= ms and other[1] >= value
    }  # fmt: skip
    assert set(best) == set(every) - beaten and best == sorted(best)


def test_pick_keeps_to_its_limits(found):
    cells = found.cells()
    quick = pick(cells, max_ms=3)
    assert quick["ms"].max() <= 3 and quick["value"][0] == quick["value"].max()
    good = pick(cells, min_score=0.8)
    assert good["value"].min() >= 0.8 and good["ms"][0] == good["ms"].min()
    both = pick(cells, max_gmac=0.3, min_score=0.7)
    assert both["gmac"].max() <= 0.3 and both["value"].min() >= 0.7
    with pytest.raises(AudiolibError, match=r"the least is 0.625 ms"):
        pick(cells, max_ms=0.1)
    with pytest.raises(AudiolibError, match=r"reaches 1.1; the best is"):
        pick(cells, min_score=1.1)


def kept(run: Record, folder: Path) -> Path:
    """A record as the evaluate stage leaves it."""
    write_outcome(folder, Outcome(run.rows.rows(named=True), [], [run.scores], folder), run.settings, [])
    return folder


def test_records_come_back_from_their_folders(tmp_path):
    run = record("ast", 1, 0.7)
    back = read_record(kept(run, tmp_path / "a"))
    assert back.rows.equals(run.rows) and back.scores.equals(run.scores) and back.settings == run.settings
    (tmp_path / "a/run.json").unlink()
    with pytest.raises(AudiolibError, match="a is not a record of an evaluation"):
        read_record(tmp_path / "a")


def outside(page: str) -> list[str]:
    """What a page would fetch: addresses in its own markup, not in the text of the library inside it."""
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    links = re.findall(r"(?:src|href)=\"(?!data:)[^\"]*\"|@import|url\(http|<link", own)
    return links + re.findall(r"<script[^>]+src", page)


def test_the_page_of_a_comparison_needs_nothing_else(found, tmp_path):
    render_comparison(found, tmp_path)
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    assert outside(page) == []
    for heading in ("Side by side", "Is the difference real?", "One axis at a time", "Accuracy and cost"):
        assert f"<h2>{heading}</h2>" in page and f"## {heading}" in text
    assert re.findall(r"!\[\w+\]\((\w+\.png)\)", text)
    assert all((tmp_path / name).exists() for name in re.findall(r"\((\w+\.png)\)", text))
    assert len(pl.read_csv(tmp_path / "cells.csv")) == 10
    assert page.count("<td") > 10 * 11 and "-S model=elastic" in page


def test_the_report_of_a_run_has_its_mistakes_with_their_sound(small_features, tmp_path):
    from audiolib.shards import ShardFolder

    shards = ShardFolder(small_features)
    clips = [(row.id, shards.classes[row.label[0]]) for row in shards.rows("test")]
    run = record("flexi", 1, 0.8, [name for name, _ in clips])
    said = [
        {"stage": "finetune", "id": name, "actual": actual, "predicted": shards.classes[0], "p_actual": 0.1,
         "p_predicted": 0.9}
        for name, actual in clips
    ]  # fmt: skip
    write_text(tmp_path / "history.csv", "stage,compression,gmac_cum,valid_score\nfinetune,1,2.5,0.5\n")
    outcome = Outcome(run.rows.rows(named=True), said, [run.scores], tmp_path)
    write_outcome(tmp_path / "evaluate", outcome, settings("flexi", 1), [tmp_path / "history.csv"])
    render(Sources(small_features, tmp_path / "evaluate"), tmp_path / "out", classes_shown=5, mistakes_shown=4)
    page = (tmp_path / "out/report.html").read_text()
    assert outside(page) == []
    assert page.count("data:audio/wav;base64,UklGR") == 4 and page.count('class="mistake"') == 4
    assert {path.stem for path in (tmp_path / "out").glob("*.png")} >= {"matrix", "patch", "confusion", "spectrograms"}


def test_a_name_cannot_become_markup(tmp_path: Path):
    names = ["</script><script>alert(1)</script>", *CLIPS[1:]]
    run = record("ast", 1, 0.7, names)
    render_comparison(compare([run]), tmp_path)
    assert "<script>alert(1)" not in (tmp_path / "report.html").read_text()


def test_what_was_not_timed_is_told_and_comes_last(found):
    cells = found.cells()
    untimed = cells.with_columns(ms=pl.lit(None, dtype=pl.Float64))
    with pytest.raises(AudiolibError, match="ms of these were not measured"):
        pick(untimed, max_ms=5)
    one = cells.with_row_index().with_columns(ms=pl.when(pl.col("index") > 0).then("ms"))
    assert pick(one, min_score=0.0)["ms"][0] is not None
    with pytest.raises(AudiolibError, match="each in a cell of its own"):
        pick(cells, max_ms=cells["ms"].min(), max_gmac=cells["gmac"].min() / 2)
