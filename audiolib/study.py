"""Evidence: train and measure the models of `configs/study/<name>.yaml` and keep the rows in `docs/results/<name>.csv`.

    python -m audiolib.study flexi

Rows are appended as each run ends, and where a run is from in `<name>.runs.csv`. A run whose rows are there is not
repeated: the same command continues an interrupted study. On a GPU `--jobs N` trains so many models side by side.
A run trains in bfloat16 where the hardware has it, in float32 elsewhere; both are the same run of the study.
"""

import argparse
import shutil
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from audiolib.config.corpus import DataPreset, DownloadSection, FeaturesSection
from audiolib.config.strict import read_section, read_yaml, validate
from audiolib.config.study import Study, StudyRun
from audiolib.config.training import Architecture, ModelPreset, Precision, Recipe, TrainSection
from audiolib.corpora.prepare import prepare
from audiolib.dataset import MEMORY_MIB
from audiolib.errors import run_main
from audiolib.evaluate import Outcome, sweep
from audiolib.evidence import append_rows, read_evidence
from audiolib.features import extract
from audiolib.files import digest, lock, read_json, scratch_folder, sha256_file, write_text
from audiolib.grid import Cell, Grid, Trained
from audiolib.job import Job, precision_of
from audiolib.launch import scaled
from audiolib.precision import PRECISIONS
from audiolib.progress import say
from audiolib.start import checkpoints_of
from audiolib.study_home import home_of
from audiolib.study_jobs import Task, side_by_side
from audiolib.train import fit

ROOT = Path(__file__).resolve().parent.parent


def run_study(
    name: str,
    *,
    corpora: list[str] | None = None,
    seeds: list[int] | None = None,
    runs: list[str] | None = None,
    jobs: int = 1,
    again: bool = False,
) -> None:
    """Do all runs of a study that are not done yet, for some or all of its corpora, seeds and runs.

    Args:
        name: of the study.
        corpora: null = all of the study's; so with `seeds` and `runs`.
        seeds: see `corpora`.
        runs: see `corpora`.
        jobs: models that train side by side.
        again: whether runs whose rows are kept are done, too, and their rows replaced.

    Raises:
        AudiolibError: the study has no such run; or, of several jobs, some have failed.
    """
    study = read_study(name)
    for asked in runs or []:
        study.run(asked)
    corpora = corpora or study.corpora
    names = [run.name for run in study.runs if not runs or run.name in runs]
    for corpus in corpora:
        features_of(corpus)
    wanted = [Task(run, corpus, seed) for corpus in corpora for seed in seeds or study.seeds for run in names]
    if jobs == 1:
        for task in wanted:
            do(name, task, again=again)
    else:
        todo = [task for task in wanted if again or not _is_done(name, study, task)]
        side_by_side(
            study,
            todo,
            jobs,
            partial(do, name, alone=False, again=again),
            scratch_folder(ROOT) / "study" / "logs" / name,
        )


def read_study(name: str) -> Study:
    """One file of `configs/study`, checked."""
    return validate(Study, read_yaml(ROOT / "configs" / "study" / f"{name}.yaml"), f"configs/study/{name}.yaml")


def do(name: str, task: Task, *, alone: bool = True, again: bool = False) -> None:
    """Train and measure one run of a study, unless its rows are kept already; `again` replaces them.

    Times are kept only if it is `alone`: beside others a model takes longer, now more and now less.
    """
    study, features = read_study(name), features_of(task.corpus)
    job = make_job(study, study.run(task.run), task.corpus, task.seed, features)
    with lock(job.out.parent.parent / f"{job.out.name}.lock"):
        if not task.measured:
            _train(name, study, task, features, alone)
        elif not again and _is_done(name, study, task):
            say(f"study {name}: {task}: its rows are kept; --again trains and measures anew, and replaces them")
        else:
            begun = job.out.with_suffix(".again")
            if again and not begun.exists():  # Else it was interrupted, and continues.
                shutil.rmtree(job.out, ignore_errors=True)
                write_text(begun, "")
            _train(name, study, task, features, alone)
            rows, outcome = _measure(study, task, features, job.out, alone)
            timed = rows if alone else [{**row, "ms": None} for row in rows]
            append_rows(name, timed, f"python -m audiolib.study {name}", precision_of(job.settings))
            outcome.written()
            begun.unlink(missing_ok=True)


def _is_done(name: str, study: Study, task: Task) -> bool:
    run, features = study.run(task.run), features_of(task.corpus)
    keys = [make_job(study, run, task.corpus, task.seed, features, precision).out.name for precision in PRECISIONS]
    return not read_evidence(name).filter(pl.col("run").is_in(keys), pl.col("model") == task.run).is_empty()


def _train(name: str, study: Study, task: Task, features: Path, alone: bool) -> None:
    """Train one run, after the one that it starts from, unless their weights are there, made of the same clips."""
    run, clips = study.run(task.run), sha256_file(features / "index.json")
    job = make_job(study, run, task.corpus, task.seed, features)
    seen, beside = job.out.with_suffix(".clips"), _beside(job.out)
    if (job.out / "training.json").exists() and seen.exists() and seen.read_text(encoding="utf-8") == clips:
        return
    shutil.rmtree(job.out, ignore_errors=True)
    if run.start is not None:
        before = replace(task, run=run.start)
        first = make_job(study, study.run(run.start), task.corpus, task.seed, features)
        with lock(first.out.parent.parent / f"{first.out.name}.lock"):
            _train(name, study, before, features, alone)
    say(f"study {name}: {task}")
    write_text(seen, clips)
    if not alone:  # Then the other cores are for the other models.
        write_text(beside, "")
        job = replace(job, settings=job.settings.model_copy(update={"loader_processes": 0}))
    elif not any(checkpoints_of(job).folder.glob("step-*.json")):  # Nothing to continue that was begun beside others.
        beside.unlink(missing_ok=True)
    fit(job)


def _beside(out: Path) -> Path:
    """Whose presence says that the seconds of a training are of one beside others."""
    return out.with_suffix(".beside")


def make_job(study: Study, run: StudyRun, corpus: str, seed: int, features: Path, precision: Precision = "auto") -> Job:
    """What a run of a study trains, in a folder named by recipe, shape, seed, corpus and precision."""
    preset = validate(ModelPreset, read_yaml(ROOT / "configs" / "model" / f"{run.preset}.yaml"), run.preset)
    data = validate(DataPreset, read_yaml(ROOT / "configs" / "data" / f"{corpus}.yaml"), corpus)
    where = f"study run {run.name}"
    recipe = validate(Recipe, {**preset.finetune.model_dump(), **run.recipe}, f"{where}.recipe")
    shape = {**preset.architecture.model_dump(exclude_none=True), **run.architecture}
    architecture = validate(Architecture, shape, f"{where}.architecture")
    recipe = scaled(recipe, data.epochs_scale)
    seconds = run.seconds or data.seconds
    before = study.run(run.start) if run.start is not None else None
    start = make_job(study, before, corpus, seed, features, precision).out if before is not None else None
    described = architecture.model_dump(mode="json", exclude_none=True)
    settings = TrainSection(
        num_workers=1,
        max_failures=0,
        accumulate=1,
        compile=False,
        deterministic=False,
        device="auto",
        precision=precision,
        attention="auto",
        scan="auto",
        loader_processes=None,
        memory_mib=MEMORY_MIB,
        checkpoint_seconds=120,
        keep_checkpoints=2,
        start=None,
    )
    decisive = [recipe.model_dump(mode="json"), described, seconds, seed, precision_of(settings)]
    key = digest([*decisive, str(start and start.name), corpus])
    scratch = scratch_folder(ROOT) / "study"
    return Job(
        stage="finetune",
        recipe=recipe,
        settings=settings,
        architecture=described,
        features=features,
        seconds=seconds,
        seed=seed,
        start=start,
        out=scratch / "models" / key,
        scratch=scratch / "state" / key,
    )


def _measure(study: Study, task: Task, features: Path, out: Path, alone: bool) -> tuple[list[dict[str, Any]], Outcome]:
    run, corpus = study.run(task.run), task.corpus
    seconds = validate(DataPreset, read_yaml(ROOT / "configs" / "data" / f"{corpus}.yaml"), corpus).seconds
    lengths, home = sorted({*study.seconds, seconds}), home_of(run, corpus).patch
    cells = [Cell(size, seconds) for size in sorted(study.patch_sizes)]
    cells += [
        Cell(size, length)
        for length in lengths
        if length != seconds
        for size in (sorted(study.patch_sizes) if study.matrix else [home])
    ]
    cells += [Cell(home, seconds, hop) for hop in study.hops_ms]
    grid = Grid("test", cells, seconds)
    common = {"run": out.name, "corpus": corpus, "seed": task.seed}
    # A sweep that was begun beside others has their times: it is not continued alone.
    scratch = scratch_folder(ROOT) if alone else scratch_folder(ROOT) / "beside"
    outcome = sweep([Trained(out, "finetune", run.name)], features, grid, common, scratch=scratch)
    training = read_json(out / "training.json")
    cost = {
        "valid_score": training["valid_score"],
        "train_gmac": training["gmac"],
        "train_tokens": training["tokens"],
    }
    if not _beside(out).exists():
        cost["train_seconds"] = pl.read_csv(out / "history.csv")["seconds"][-1]
    own = {**common, "model": run.name, "stage": "finetune"}
    told = [row for row in outcome.rows if row["metric"] == "accuracy"]  # Of others no table is made.
    return told + [{**own, "metric": metric, "value": value} for metric, value in cost.items()], outcome


def features_of(corpus: str) -> Path:
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
    """`python -m audiolib.study <name> [--corpus NAME] [--seed N] [--run NAME] [--again] [--jobs N]`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", help="a file of configs/study")
    parser.add_argument("--corpus", action="append", help="only this corpus; may be given several times")
    parser.add_argument("--seed", action="append", type=int, help="only this seed; may be given several times")
    parser.add_argument("--run", action="append", help="only this run; may be given several times")
    parser.add_argument("--again", action="store_true", help="do runs whose rows are kept, too, and replace them")
    parser.add_argument("--jobs", type=int, default=1, help="models to train side by side (1); times are not kept")
    asked = parser.parse_args()
    if asked.jobs < 1:
        parser.error("--jobs is at least 1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # On its way out Python ends its processes, too.
    run_study(asked.name, corpora=asked.corpus, seeds=asked.seed, runs=asked.run, jobs=asked.jobs, again=asked.again)


if __name__ == "__main__":
    run_main(main)
