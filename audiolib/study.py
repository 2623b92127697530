"""Evidence: train and measure the models of `configs/study/<name>.yaml` and keep the rows in `docs/results/<name>.csv`.

    python -m audiolib.study flexi

Rows are appended as each run ends, and a run whose rows are there is not repeated: the same command continues an
interrupted study. On a machine with cores to spare, start it once for each seed (`--seed 1`).
"""

import argparse
from pathlib import Path
from typing import Any

import polars as pl

from audiolib.config.corpus import DataPreset, DownloadSection, FeaturesSection
from audiolib.config.strict import read_section, read_yaml, validate
from audiolib.config.study import Study, StudyRun
from audiolib.config.training import Architecture, ModelPreset, Recipe, TrainSection
from audiolib.corpora.prepare import prepare
from audiolib.dataset import MEMORY_MIB
from audiolib.errors import AudiolibError, run_main
from audiolib.evaluate import Outcome, sweep
from audiolib.evidence import append_rows, read_evidence
from audiolib.features import extract
from audiolib.files import digest, lock, read_json, scratch_folder
from audiolib.grid import Cell, Grid, Trained
from audiolib.job import Job
from audiolib.launch import scaled
from audiolib.progress import say
from audiolib.train import fit

ROOT = Path(__file__).resolve().parent.parent


def run_study(name: str, *, corpora: list[str] | None = None, seeds: list[int] | None = None) -> None:
    """Do all runs of a study that are not done yet, for some or all of its corpora and seeds."""
    study = read_study(name)
    for corpus in corpora or study.corpora:
        features = _features(corpus)
        for seed in seeds or study.seeds:
            made: dict[str, Path] = {}
            for run in study.runs:
                made[run.name] = _do(name, study, run, corpus, seed, features, made)


def read_study(name: str) -> Study:
    """One file of `configs/study`, checked."""
    return validate(Study, read_yaml(ROOT / "configs" / "study" / f"{name}.yaml"), f"configs/study/{name}.yaml")


def _do(name: str, study: Study, run: StudyRun, corpus: str, seed: int, features: Path, made: dict[str, Path]) -> Path:
    """One run: its model folder, trained and measured unless that was done before."""
    if run.start is not None and run.start not in made:
        raise AudiolibError(
            f"configs/study/{name}.yaml: {run.name} starts from {run.start}, which no earlier run makes"
        )
    job = make_job(study, run, corpus, seed, features, made.get(run.start or ""))
    key = digest(
        [
            job.recipe.model_dump(mode="json"),
            job.architecture,
            job.seconds,
            seed,
            study.precision_on(corpus),
            str(job.start and job.start.name),
            corpus,
        ]
    )
    out = scratch_folder(ROOT) / "study" / "models" / key
    with lock(scratch_folder(ROOT) / "study" / f"{key}.lock"):
        if not (out / "training.json").exists():
            say(f"study {name}: {run.name} on {corpus}, seed {seed}")
            fit(_at(job, out, key))
        if read_evidence(name).filter((pl.col("run") == key) & (pl.col("model") == run.name)).is_empty():
            rows, outcome = _measure(study, run, corpus, seed, features, out, key)
            append_rows(name, rows, f"python -m audiolib.study {name}")
            outcome.written()
    return out


def make_job(study: Study, run: StudyRun, corpus: str, seed: int, features: Path, start: Path | None) -> Job:
    """What a run of a study trains; its folders are set when its key is known."""
    preset = validate(ModelPreset, read_yaml(ROOT / "configs" / "model" / f"{run.preset}.yaml"), run.preset)
    data = validate(DataPreset, read_yaml(ROOT / "configs" / "data" / f"{corpus}.yaml"), corpus)
    where = f"study run {run.name}"
    recipe = validate(Recipe, {**preset.finetune.model_dump(), **run.recipe}, f"{where}.recipe")
    shape = {**preset.architecture.model_dump(exclude_none=True), **run.architecture}
    architecture = validate(Architecture, shape, f"{where}.architecture")
    return Job(
        stage="finetune",
        recipe=scaled(recipe, data.epochs_scale),
        settings=TrainSection(
            num_workers=1,
            max_failures=0,
            accumulate=1,
            compile=False,
            deterministic=False,
            device="auto",
            precision=study.precision_on(corpus),
            attention="auto",
            scan="auto",
            loader_processes=None,
            memory_mib=MEMORY_MIB,
            checkpoint_seconds=120,
            start=None,
        ),
        architecture=architecture.model_dump(mode="json", exclude_none=True),
        features=features,
        seconds=run.seconds or data.seconds,
        seed=seed,
        start=start,
        out=Path(),
        scratch=Path(),
    )


def _at(job: Job, out: Path, key: str) -> Job:
    return Job(**{**vars(job), "out": out, "scratch": scratch_folder(ROOT) / "study" / "state" / key})


def _measure(
    study: Study, run: StudyRun, corpus: str, seed: int, features: Path, out: Path, key: str
) -> tuple[list[dict[str, Any]], Outcome]:
    seconds = validate(DataPreset, read_yaml(ROOT / "configs" / "data" / f"{corpus}.yaml"), corpus).seconds
    lengths = sorted({*study.seconds, seconds})
    cells = [Cell(size, seconds) for size in sorted(study.patch_sizes)]
    cells += [
        Cell(size, length)
        for length in lengths
        if length != seconds
        for size in (sorted(study.patch_sizes) if study.matrix else [(16, 16)])
    ]
    cells += [Cell((16, 16), seconds, hop) for hop in study.hops_ms]
    grid = Grid("test", cells, seconds)
    common = {"run": key, "corpus": corpus, "seed": seed}
    outcome = sweep([Trained(out, "finetune", run.name)], features, grid, common)
    training = read_json(out / "training.json")
    cost = {
        "valid_score": training["valid_score"],
        "train_gmac": training["gmac"],
        "train_tokens": training["tokens"],
        "train_seconds": pl.read_csv(out / "history.csv")["seconds"][-1],
    }
    own = {**common, "model": run.name, "stage": "finetune"}
    return outcome.rows + [{**own, "metric": metric, "value": value} for metric, value in cost.items()], outcome


def _features(corpus: str) -> Path:
    """The log-mel shards of a corpus, made on first use with the settings of params.yaml."""
    data = validate(DataPreset, read_yaml(ROOT / "configs" / "data" / f"{corpus}.yaml"), corpus)
    section = read_section(ROOT, "features", FeaturesSection)
    scratch = scratch_folder(ROOT)
    folder = scratch / "study" / "corpora" / f"{corpus}-{digest([data.source.model_dump(), section.model_dump()])}"
    with lock(scratch / "study" / f"{corpus}.lock"):
        if not (folder / "features" / "index.json").exists():
            prepare(data.source, read_section(ROOT, "download", DownloadSection), folder, scratch / "archives")
            extract(folder, section, folder / "features", scratch)
    return folder / "features"


def main() -> None:
    """`python -m audiolib.study <name> [--corpus NAME] [--seed N]`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", help="a file of configs/study")
    parser.add_argument("--corpus", action="append", help="only this corpus; may be given several times")
    parser.add_argument("--seed", action="append", type=int, help="only this seed; may be given several times")
    asked = parser.parse_args()
    run_study(asked.name, corpora=asked.corpus, seeds=asked.seed)


if __name__ == "__main__":
    run_main(main)
