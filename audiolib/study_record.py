"""The kept rows of a study as MLflow runs, one for each model and seed, to be looked at beside one another.

    python -m audiolib.study_record flexi
    python -m audiolib.ui --experiment "audiolib studies"

They have the names that a pass through the pipeline logs, in an experiment of their own; what is there is not logged
again, and runs whose rows have been replaced are deleted.
"""

import sys

import polars as pl

from audiolib.errors import AudiolibError, run_main
from audiolib.evidence import read_evidence
from audiolib.progress import track
from audiolib.results import Home, summary
from audiolib.study import ROOT, read_study
from audiolib.study_home import home_of
from audiolib.tracking import study_runs

EXPERIMENT = "audiolib studies"
_COSTS = {"train_gmac": "compute/gmac_cum", "train_seconds": "compute/seconds", "valid_score": "valid_score"}


def record(name: str) -> int:
    """Log all models and seeds of a study; returns how many there are.

    Raises:
        AudiolibError: nothing has been measured yet; or MLflow does not answer.
    """
    study, rows = read_study(name), read_evidence(name)
    rows = rows.filter(pl.col("model").is_in([run.name for run in study.runs]))  # Others were taken out of it.
    if rows.is_empty():
        raise AudiolibError(f"no rows yet; run `python -m audiolib.study {name}` first")
    runs = rows.partition_by("run", "model", "corpus", "seed", as_dict=True, maintain_order=True)
    wanted = {}
    for (key, model, corpus, seed), own in runs.items():
        tags = {"model": model, "dataset": corpus, "seed": str(seed), "commit": own["commit"][0]}
        wanted[f"{name}-{key}-{model}"] = {"mlflow.runName": f"{model}, seed {seed}", **tags}
    found = study_runs(ROOT, EXPERIMENT, name, wanted)
    for (key, model, corpus, _), own in track(runs.items(), "MLflow", total=len(runs), unit="run"):
        run = found[f"{name}-{key}-{model}"]
        here = home_of(study.run(model), corpus)
        home = Home({"finetune": here.patch}, here.seconds, {"finetune": here.hop_ms})
        measured = own.filter(pl.col("metric") == "accuracy")
        run.matrix(measured, home)
        said = summary(measured, home)["finetune"]
        values = {f"summary/{key}": said[key] for key in ("accuracy", "patch_mean")}
        values |= {_COSTS[metric]: value for metric, value in own.select("metric", "value").rows() if metric in _COSTS}
        run.summary({metric: value for metric, value in values.items() if value is not None})
        run.done()
    return len(runs)


def main() -> None:
    """`python -m audiolib.study_record <name>`."""
    if len(sys.argv) != 2:
        raise AudiolibError("usage: python -m audiolib.study_record <name of a file in configs/study>")
    record(sys.argv[1])


if __name__ == "__main__":
    run_main(main)
