"""The papers' numbers: complete, with their sources, and drawn beside ours where the corpus is the same."""

import polars as pl
import pytest

from audiolib.published import curves, published, single
from audiolib.report import render_comparison
from tests.test_report import CLIPS, record


def test_curves_have_the_means_that_the_papers_state():
    """Means over hops or length caps as the evaluation notebooks print them: no cell is missing or misread."""
    wanted = {
        ("audioset", "map", "hop"): {"ElasticAST": 0.4049, "AST 10 ms": 0.2736, "AST 20 ms": 0.3755},
        ("vggsound", "accuracy", "hop"): {"ElasticAST": 0.5086, "AST 30 ms": 0.4633, "AST 40 ms": 0.4352},
        ("voxceleb1", "accuracy", "length"): {"ElasticAST": 0.5798, "AST-400": 0.2485, "AST-1600": 0.5438},
        ("epic_sounds", "accuracy", "length"): {"ElasticAST": 0.5165, "AST-1024": 0.4797},
    }
    for (corpus, metric, axis), means in wanted.items():
        found = {line.label: line for line in curves(corpus, metric, axis)}
        for model, mean in means.items():
            own = found[f"published: {model}" + ("" if model == "ElasticAST" else " (ElasticAST)")]
            assert sum(own.values) / len(own.values) == pytest.approx(mean, abs=6e-5)
            assert own.places == sorted(set(own.places))


def test_flexible_patches_and_single_numbers():
    (line,) = curves("vggsound", "accuracy", "patch")
    assert line.places == [8, 10, 12, 16, 20, 24, 30, 32, 40, 48] and line.values[3] == 0.50693
    mamba = single("speech_commands_full", "accuracy")
    assert mamba.row(0, named=True)["model"] == "AuM-S, ImageNet" and mamba["value"][0] == 0.9751
    assert set(mamba["paper"]) == {"Audio Mamba"} and len(mamba) == 6
    assert single("fsdd", "accuracy").is_empty() and curves("fsdd", "accuracy", "patch") == []


def test_every_number_is_a_share_with_a_source():
    for corpus in ("audioset", "vggsound", "voxceleb1", "epic_sounds", "speech_commands_full"):
        for metric in ("accuracy", "map"):
            rows = published(corpus, metric)
            assert (
                rows["value"].is_between(0.05, 1).all() and rows["source"].str.contains(r"^arXiv \d{4}\.\d{5}, ").all()
            )


def test_a_report_draws_them_beside_ours(tmp_path):
    from audiolib.compare import compare

    ours = record("flexi", 1, 0.5, CLIPS)
    rows = ours.rows.with_columns(pl.lit("vggsound").alias("corpus"))
    render_comparison(compare([type(ours)(**{**vars(ours), "rows": rows})]), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "published: FlexiAST" in page and "AuM-B/16" in page and "arXiv 2406.03344, Table 1" in page
    assert "arXiv 2406.03344, Table 1" in (tmp_path / "report.md").read_text()
