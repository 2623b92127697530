"""Runs of a study side by side, each in a process of its own: a small model leaves most of a GPU idle."""

import os
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import torch

from audiolib.config.study import Study
from audiolib.errors import AudiolibError
from audiolib.files import disk_errors, scratch_folder
from audiolib.progress import say

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Task:
    """One run of a study on one corpus with one seed."""

    run: str
    corpus: str
    seed: int

    def __str__(self) -> str:
        return f"{self.run} on {self.corpus}, seed {self.seed}"


def side_by_side(name: str, study: Study, wanted: list[Task], jobs: int) -> None:
    """Do runs in so many processes, those with the most epochs before them first, a start before what it is for.

    Raises:
        AudiolibError: some have failed; the others were done nevertheless.
    """
    waiting = sorted(wanted, key=lambda task: -_epochs_to_come(study, task.run))
    running: dict[Future[str], Task] = {}
    failed: list[str] = []
    spawn = get_context("spawn")  # A process that has used a GPU cannot be forked.
    with ProcessPoolExecutor(jobs, spawn, initializer=_share_cores, initargs=(jobs,)) as pool:
        while waiting or running:
            busy = {*waiting, *running.values()}
            ready = [task for task in waiting if _start(study, task) not in busy]
            for task in ready[: jobs - len(running)]:
                waiting.remove(task)
                running[pool.submit(_do, name, task)] = task
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                task, error = running.pop(future), future.result()
                failed += [f"{task}: {error}"] if error else []
                done = len(wanted) - len(waiting) - len(running)
                say(f"study {name}: {task}: {error or 'done'}; {done} of {len(wanted)} runs")
    if failed:
        raise AudiolibError(f"{len(failed)} of {len(wanted)} runs failed; the first: {failed[0]}")


def _epochs_to_come(study: Study, name: str) -> int:
    """Of a run and of the longest chain of runs that start from it; those of a preset count as none."""
    own = sum(phase["epochs"] for phase in study.run(name).recipe.get("phases", []))
    return own + max((_epochs_to_come(study, run.name) for run in study.runs if run.start == name), default=0)


def _start(study: Study, task: Task) -> Task | None:
    start = study.run(task.run).start
    return replace(task, run=start) if start else None


def _share_cores(jobs: int) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))


def _do(name: str, task: Task) -> str:
    """Do one run, its messages in a log of its own; what was wrong, or nothing."""
    from audiolib.study import do  # It imports this module.

    log = scratch_folder(ROOT) / "study" / "logs" / f"{name}, {task}.log"
    with disk_errors(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        file = log.open("w", encoding="utf-8")
    with file, redirect_stderr(file):
        try:
            do(name, task, alone=False)
        except AudiolibError as error:
            return str(error)
        except Exception as error:  # One run's fault is not the others'.
            traceback.print_exc()
            return f"{type(error).__name__}: {error}; see {log}"
    return ""
