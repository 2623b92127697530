"""Runs of a study side by side, each in a process of its own: a small model leaves most of a GPU idle."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from audiolib.config.study import Study
from audiolib.errors import AudiolibError
from audiolib.files import disk_errors
from audiolib.progress import say


@dataclass(frozen=True)
class Task:
    """One run of a study on one corpus with one seed; one that others alone want is trained and not measured."""

    run: str
    corpus: str
    seed: int
    measured: bool = field(default=True, compare=False)

    def __str__(self) -> str:
        return f"{self.run} on {self.corpus}, seed {self.seed}"


class Plan:
    """Which runs may begin: those with the most epochs to come first, none before the one that it starts from.

    Args:
        study: the study.
        wanted: the runs; those that they start from are added.
    """

    def __init__(self, study: Study, wanted: list[Task]) -> None:
        self.study = study
        tasks = {task: task for task in wanted}
        for task in wanted:
            start = self._start(task)
            while start is not None:
                tasks.setdefault(start, replace(start, measured=False))
                start = self._start(start)
        self.waiting = sorted(tasks.values(), key=lambda task: -self._epochs_to_come(task.run))
        self.running: set[Task] = set()
        self.failed: dict[Task, str] = {}

    def begin(self, room: int) -> list[Task]:
        """Up to `room` runs that may begin now; they count as running."""
        busy = {*self.waiting, *self.running}
        ready = [task for task in self.waiting if self._start(task) not in busy][:room]
        self.waiting = [task for task in self.waiting if task not in ready]
        self.running.update(ready)
        return ready

    def end(self, task: Task, error: str) -> None:
        """A run has ended, well if there is no error; what would start from a failed one has failed, too."""
        self.running.discard(task)
        if error:
            self.failed[task] = error
            for other in [other for other in self.waiting if self._start(other) == task]:
                self.waiting.remove(other)
                self.end(other, f"it starts from {task}, which failed")

    def _start(self, task: Task) -> Task | None:
        start = self.study.run(task.run).start
        return replace(task, run=start) if start else None

    def _epochs_to_come(self, name: str) -> int:
        """Of a run and of the longest chain of runs that start from it; those of a preset count as none."""
        own = sum(phase["epochs"] for phase in self.study.run(name).recipe.get("phases", []))
        after = [self._epochs_to_come(run.name) for run in self.study.runs if run.start == name]
        return own + max(after, default=0)


def side_by_side(study: Study, wanted: list[Task], jobs: int, do: Callable[[Task], None], logs: Path) -> None:
    """Do runs in so many processes.

    Args:
        study: the study.
        wanted: its runs.
        jobs: processes at a time.
        do: does one; it is called in a fresh process.
        logs: folder for what each says meanwhile.

    Raises:
        AudiolibError: some have failed; the others were done nevertheless.
    """
    plan = Plan(study, wanted)
    total, running = len(plan.waiting), dict[BaseProcess, Task]()
    threads = max(1, len(os.sched_getaffinity(0)) // max(1, min(jobs, total)))
    spawn = get_context("spawn")  # A process that has used a GPU cannot be forked.
    with disk_errors(logs):
        logs.mkdir(parents=True, exist_ok=True)
    while plan.waiting or running:
        for task in plan.begin(jobs - len(running)):
            with disk_errors(logs):  # What an earlier attempt said is not taken for this one's.
                _log(logs, task).write_text("", encoding="utf-8")
            process = spawn.Process(target=_logged, args=(do, task, _log(logs, task), threads), daemon=True)
            process.start()
            running[process] = task
        wait([process.sentinel for process in running])
        for process in [process for process in running if not process.is_alive()]:
            task = running.pop(process)
            error = _error(process, _log(logs, task))
            plan.end(task, error)
            done = total - len(plan.waiting) - len(running)
            say(f"{task}: {error or 'done'}; {done} of {total} runs")
    if plan.failed:
        task, error = next(iter(plan.failed.items()))
        raise AudiolibError(f"{len(plan.failed)} of {total} runs failed; the first: {task}: {error}")


def _log(logs: Path, task: Task) -> Path:
    return logs / f"{task}.log".replace("/", "-")


def _error(process: BaseProcess, log: Path) -> str:
    """What a run says that was wrong, in the last line of its log; nothing if it ended well."""
    if process.exitcode == -signal.SIGKILL:
        return "its process was killed, as when memory is short: use fewer --jobs, and the same command continues"
    if process.exitcode is not None and process.exitcode < 0:
        return f"its process was ended by {signal.Signals(-process.exitcode).name}"
    if process.exitcode:  # One that could not even begin wrote no line.
        lines = log.read_text(encoding="utf-8").splitlines() or [f"its process ended with status {process.exitcode}"]
        return lines[-1].removeprefix("error: ")
    return ""


def _logged(do: Callable[[Task], None], task: Task, log: Path, threads: int) -> None:
    """Do one run, its messages in a log of its own."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)
    with log.open("a", encoding="utf-8") as file, redirect_stderr(file):
        try:
            do(task)
        except AudiolibError as error:
            say(f"error: {error}")
            sys.exit(1)
        except Exception:
            traceback.print_exc()
            sys.exit(1)
