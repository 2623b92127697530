"""Ray: here, or the cluster of RAY_ADDRESS."""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from audiolib.errors import AudiolibError

# Workers on other machines, too, tell MLflow about epochs; this process' environment is not theirs.
_FORWARDED = tuple(f"MLFLOW_TRACKING_{name}" for name in ("URI", "TOKEN", "USERNAME", "PASSWORD"))

T = TypeVar("T")
R = TypeVar("R")


def start_ray(workers: int) -> Any:
    """Connect to the cluster of RAY_ADDRESS, or start Ray on this machine; returns the module `ray`.

    Raises:
        AudiolibError: Ray is not installed, or no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # The controller looks at its workers this often; the default of 2 s would be felt at every report.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # It would show every line twice.
    try:
        import ray
    except ImportError as error:
        raise AudiolibError(
            'several workers, or a cluster, need Ray: pip install -e ".[pipeline]" in its folder'
        ) from error
    if ray.is_initialized():
        return ray
    address = os.environ.get("RAY_ADDRESS")
    if address:
        # A submitted job may have its own environment, which Ray would otherwise not join with this one.
        os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
        known = {name: os.environ[name] for name in _FORWARDED if name in os.environ}
        try:
            ray.init(address=address, log_to_driver=True, runtime_env={**_quiet_processes(), "env_vars": known})
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise AudiolibError(f"no Ray cluster answers at RAY_ADDRESS={address}: {error}") from error
        return ray
    # It watches for machines of a cloud that are about to be taken away.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    ray.init(
        runtime_env=_quiet_processes(),
        num_cpus=max(workers, os.cpu_count() or 1) + 1,
        include_dashboard=False,
        object_store_memory=128 * 2**20,
        logging_level="ERROR",
        log_to_driver=True,
    )
    return ray


def _quiet_processes() -> dict[str, Any]:
    """What Ray does at the start of each process: it silences the one that tidies up after its controller.

    That looks for the controller by Ray's dashboard, and where there is none, as here and where `ray[default]` is not
    installed, it would say so every second. A function within another travels by value: a process of a cluster finds
    this package only later.
    """

    def hush() -> None:
        cleaner = "ray.train.v2._internal.execution.controller.placement_group_cleaner"
        logging.getLogger(cleaner).setLevel(logging.ERROR)

    return {"worker_process_setup_hook": hush}


def cluster_map(work: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
    """Results in the order of the tasks, a core each; a task whose machine is lost is done again elsewhere.

    Paths in the tasks must mean the same on every machine. A few tasks a core are under way at a time, so that a long
    list is never there as a whole.
    """
    ray = start_ray(1)
    remote = ray.remote(num_cpus=1, max_retries=3)(work)
    ahead = 4 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting: deque[Any] = deque()
    for task in tasks:
        waiting.append(remote.remote(task))
        if len(waiting) == ahead:
            yield _result(ray, waiting.popleft())
    while waiting:
        yield _result(ray, waiting.popleft())


def _result(ray: Any, reference: Any) -> Any:
    """What a task gave; of a user's mistake its one line, which Ray wraps in the traceback of the task."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, AudiolibError):
            raise error.cause from None
        raise
