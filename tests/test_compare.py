"""What comparisons do with records that are not alike, and pictures with names that are odd."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from audiolib import figures
from audiolib.compare import compare, summaries, with_record
from audiolib.intervals import holm, paired_difference
from audiolib.pareto import pick
from audiolib.report import _sounds, render_comparison
from tests.test_report import record


def test_a_place_counts_where_every_seed_was_measured():
    """One seed by the whole matrix, one by fewer cells: table and test are over the same."""
    part, home = record("ast", 2, 0.7), pl.col("seconds") == 1.28
    part = replace(part, rows=part.rows.filter(home), scores=part.scores.filter(home))
    found = compare([record("ast", 1, 0.7), record("elastic", 1, 0.95), part])
    assert found.shared("length")["seconds"].to_list() == [1.28]
    gap = [row["length_mean"] for row in summaries(found)]
    assert found.differences("length")[0][2].mean == pytest.approx(abs(gap[0] - gap[1]))


@pytest.mark.parametrize("seeds, pairs", [(1, 105), (5, 105), (3, 55)])
def test_among_many_pairs_a_large_difference_still_counts(seeds, pairs):
    """The least p that drawings can give, times the number of pairs, is under 0.05: for scores of single seeds by flips
    of signs, and for several seeds, whose own spread sets a limit, too.
    """
    random = np.random.default_rng(0)
    good, bad = (share + 0.1 * random.random((seeds, 200)) for share in (0.85, 0.3))
    p = paired_difference(good, bad, pairs).p
    assert p < 0.05 / pairs < paired_difference(good, bad).p
    assert holm([p] + [1.0] * (pairs - 1))[0] < 0.05


def test_models_that_share_no_patch_size_are_compared_by_the_rest(tmp_path):
    one, other = record("ast", 1, 0.7), record("elastic", 1, 0.9)
    apart = [
        replace(r, rows=r.rows.filter(pl.col("patch_t") == size), scores=r.scores.filter(pl.col("patch_t") == size))
        for r, size in ((one, 16), (other, 16))
    ]
    moved = {"patch_f": 8, "patch_t": 8}
    settings = {**other.settings, "model": {**other.settings["model"]}}
    settings["model"]["architecture"] = {**settings["model"]["architecture"], "patch": [8, 8]}
    apart[1] = replace(
        apart[1],
        settings=settings,
        rows=apart[1].rows.with_columns(pl.lit(v, apart[1].rows.schema[k]).alias(k) for k, v in moved.items()),
        scores=apart[1].scores.with_columns(pl.lit(v, apart[1].scores.schema[k]).alias(k) for k, v in moved.items()),
    )
    found = compare(apart)
    assert [row["patch_mean"] for row in summaries(found)] == [None, None]
    render_comparison(found, tmp_path)
    assert "at its own shape" in (tmp_path / "report.html").read_text()


def test_milliseconds_of_two_machines_are_not_mixed(capsys):
    slow = record("ast", 2, 0.7)
    rows = slow.rows.with_columns(pl.col("ms") * 40)
    slow = replace(slow, rows=rows, origin={**slow.origin, "machine": "an old laptop"})
    found = compare([record("ast", 1, 0.7), slow, record("elastic", 1, 0.95)])
    assert "milliseconds are those of 2 of 2 cores; ast-2 ran elsewhere" in capsys.readouterr().err
    ast = found.cells().filter(pl.col("label") == "ast")
    assert ast.filter(pl.col("patch_t") == 16)["ms"].unique().to_list() == [2.5]
    assert set(pick(found.cells(), max_ms=3.0)["label"]) == {"ast", "elastic"}


def test_two_folders_of_ones_own_clips_are_two_trainings():
    """Equal settings but for the path; that they cannot be compared is said, and neither is taken for the other."""
    with pytest.raises(Exception, match="measured different clips"):
        compare([record("ast", 1, 0.7), record("ast", 1, 0.7, clips=[f"other/{n}" for n in range(60)])])


def test_an_evaluation_of_other_clips_is_not_taken_for_a_known_one():
    own = record("ast", 1, 0.9, clips=[f"other/{n}" for n in range(60)])
    assert with_record([record("ast", 1, 0.7)], own, None)[-1] is own


def test_names_are_no_formulas_and_none_is_left_out():
    """matplotlib takes $ for mathematics and leaves names that begin with _ out of a legend."""
    names = ["US$ 5% to US$ 6%", "A$_$", "_silence_"]
    figure = figures.heard_over_time(np.zeros((50, 64)), 10, [0.1, 0.2], {name: [0.1, 0.9] for name in names})
    assert [text.get_text() for text in figure.axes[1].get_legend().get_texts()] == names
    figures.spectrograms({name: np.zeros((20, 64), np.float32) for name in names}, 10.0).canvas.draw()


def test_a_log_axis_has_plain_numbers():
    """Its usual labels are formulas, which are not set here."""
    figure = figures.pareto(compare([record("ast", 1, 0.7), record("elastic", 1, 0.9)]), "ms")
    figure.canvas.draw()
    texts = [text.get_text() for text in figure.axes[0].get_xticklabels(which="both")]
    assert {"1", "10"} <= set(texts) and not any("$" in text for text in texts)


def test_the_first_clips_of_classes_are_found_at_any_place_of_a_label():
    """A class that always comes after another has its picture, and nobody reads on when all are there."""
    read = []

    def rows(split):
        for number in range(1000):
            read.append(number)
            yield SimpleNamespace(label=(number % 2, 2), log_mel=np.full((20, 64), number, np.float32))

    shards = SimpleNamespace(classes=["alarm", "bell", "speech"], rows=rows, frontend={"hop_ms": 10.0})
    shown = _sounds(shards, 3).figures["spectrograms"]
    assert [axes.get_title() for axes in shown.axes[:3]] == ["alarm", "bell", "speech"] and len(read) == 2
