"""Taking times side by side: the candidates take turns, so that a slow moment of the machine meets all of them."""

import ctypes
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch


@dataclass(frozen=True)
class Result:
    """Median and spread of one candidate; `ratio` is the median of its rounds over the first candidate's."""

    op: str
    impl: str
    case: str
    mode: str
    median: float
    p20: float
    p80: float
    unit: str
    ratio: float | None = None


def race(
    op: str, case: str, mode: str, candidates: dict[str, Callable[[], object]], rounds: int, device: torch.device
) -> list[Result]:
    """Milliseconds of each candidate, after two rounds that are not counted."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 2):
        for name, run in candidates.items():
            started = _now(device)
            run()
            if number >= 2:
                times[name].append((_now(device) - started) * 1000)
    first = np.array(next(iter(times.values())))
    return [
        Result(op, name, case, mode, *_spread(taken), "ms", float(np.median(np.array(taken) / first)))
        for name, taken in times.items()
    ]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _spread(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = np.percentile(values, [20, 50, 80])
    return float(middle), float(low), float(high)


def peak_memory(run: Callable[[], object], device: torch.device) -> float:
    """MiB by which a run raises the peak; on a CPU in a process of its own, whose peak starts anew."""
    if device.type == "cuda":
        run()  # Libraries take their workspaces at first use.
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # A forked process has lost the threads of its parent.
        ctypes.CDLL(None).malloc_trim(0)  # What the parent has freed would be taken again unseen.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # The peak starts anew.
        before = _status("VmRSS")
        run()
        os.write(write, str(_status("VmHWM") - before).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        grown = told.read()
    os.waitpid(child, 0)
    return float(grown)


def _status(key: str) -> float:
    """MiB of memory: VmRSS is what is taken now, VmHWM the most so far."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(key)) / 1024
