"""The pages of docs/results are what is made of the rows beside them."""

import re

import polars as pl
import pytest
import torch

from audiolib import study_tables, summary
from audiolib.bench import kept
from audiolib.evidence import RESULTS, read_evidence
from audiolib.origin import origin
from audiolib.reliability import pages
from audiolib.study import make_job, read_study

STUDIES = sorted(path.stem for path in (RESULTS.parent.parent / "configs" / "study").glob("*.yaml"))
MEASURED = [name for name in STUDIES if (RESULTS / f"{name}.csv").exists()]


@pytest.mark.parametrize("name", MEASURED)
def test_a_studys_page_is_made_of_its_rows(name):
    assert (RESULTS / f"{name}.md").read_text(encoding="utf-8") == study_tables.render(name)


def test_the_page_of_benchmarks_is_made_of_their_rows():
    assert (RESULTS / "bench.md").read_text(encoding="utf-8") == kept.page()


def test_the_page_of_reliability_is_made_of_its_rows():
    assert (RESULTS / "reliability.md").read_text(encoding="utf-8") == pages.page()


@pytest.mark.parametrize("name", STUDIES)
def test_kept_rows_are_those_of_the_recipes_that_stand_there(name):
    """Else the command that continues a study would train again what is kept, beside rows of another recipe."""
    study = read_study(name)
    columns = ["model", "corpus", "seed", "precision", "run"]
    for model, corpus, seed, precision, key in read_evidence(name).select(columns).unique().rows():
        job = make_job(study, study.run(model), corpus, seed, RESULTS, precision)
        assert job.out.name == key, (model, corpus, seed)


def test_the_table_of_the_readme_is_made_of_the_same_rows():
    readme = (RESULTS.parent.parent / "README.md").read_text(encoding="utf-8")
    assert f"{summary.BEGIN}\n\n{summary.render()}\n\n{summary.END}" in readme
    assert "| FlexiAST, from AST/8 | 4 + 18, then 60 | 3 |" in readme


def test_processors_of_one_name_differ_by_their_vectors():
    assert f"({torch.backends.cpu.get_cpu_capability()}), " in origin("a command")["machine"]


def test_without_git_a_commit_is_unknown(monkeypatch, tmp_path):
    assert re.fullmatch(r"[0-9a-f]{7,}\+?", origin("a command")["commit"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert origin("a command")["commit"] == "unknown"


def test_a_page_says_which_runs_were_trained_in_another_precision():
    rows = pl.DataFrame(
        [("a", 1, "float32"), ("b", 1, "float32"), ("a", 2, "bfloat16"), ("b", 2, "bfloat16"), ("c", 2, "float32")]
        + [(name, 3, "bfloat16") for name in "abc"],
        schema=["model", "seed", "precision"],
        orient="row",
    )
    told = study_tables._precisions(rows, ["c", "b", "a"])
    assert told == "bfloat16, but in float32: all of seed 1, c (seed 2)"
    assert study_tables._precisions(rows.filter(pl.col("seed") == 3), ["a"]) == "bfloat16"
