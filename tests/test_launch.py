"""Several workers: the same numbers as one, through Ray."""

import csv
import os
import signal
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from audiolib import launch, precision
from audiolib.checkpoint import Checkpoints
from audiolib.cluster import cluster_map
from audiolib.errors import AudiolibError
from audiolib.features import extract
from audiolib.job import Job
from audiolib.launch import on_gpus, run
from audiolib.predict import own_cores
from audiolib.train import Trainer, fit
from tests.conftest import features_section
from tests.recipes import TINY, job, packed_recipe, phase, recipe
from tests.test_features import hashes
from tests.test_resume import weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def stop_ray():
    yield
    import ray

    ray.shutdown()


@pytest.mark.parametrize("name, make, lost", [("flexi_nano", recipe, True), ("elastic_nano", packed_recipe, False)])
def test_two_ray_workers_end_where_one_process_does(small_features, tmp_path, capfd, name, make, lost):
    """The same clips a step: only the order in which gradients are added differs. Also where a worker is lost."""

    def note(row: dict) -> None:
        world = distributed.get_world_size() if distributed.is_initialized() else 1
        (tmp_path / "world").write_text(f"{world} {os.environ.get('LOCAL_WORLD_SIZE')} {own_cores()}")
        if lost and world == 2 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    plan = {
        "recipe": make(phases=[phase(2, "avg_pool", epochs=1), phase(epochs=1)]),
        "architecture": {**TINY, "name": name},
    }
    run(job(small_features, tmp_path / "one", **plan))
    run(job(small_features, tmp_path / "two", num_workers=2, **plan), note)
    assert (tmp_path / "world").read_text() == f"2 2 {max(1, os.cpu_count() // 2)}"
    one, two = (weights(tmp_path / name / "out" / "last") for name in ("one", "two"))
    worst = max(float((one[name] - two[name]).abs().max()) for name in one)
    assert 0 < worst < 2e-3, "two sums of halves are not the same bits as one sum"
    rows = [list(csv.DictReader((tmp_path / name / "out/history.csv").open())) for name in ("one", "two")]
    assert len(rows[0]) == len(rows[1]) == 2
    for alone, both in zip(*rows, strict=True):
        assert (alone["step"], alone["gmac_cum"]) == (both["step"], both["gmac_cum"])
        assert float(both["train_loss"]) == pytest.approx(float(alone["train_loss"]), abs=1e-3)
    told = "".join(capfd.readouterr())
    assert ("beginning again from the last checkpoint" in told) == lost
    assert "Failed to query" not in told, "Ray complains of the dashboard that it was told not to start"
    assert "PreemptionWatcher" not in told, "nor of what watches for machines of a cloud"


def test_two_at_the_same_training_do_not_share_its_checkpoints(small_features, tmp_path, capfd):
    plan = job(small_features, tmp_path, recipe=recipe(phases=[phase(epochs=2)]))
    both = [threading.Thread(target=run, args=(plan,)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    told = capfd.readouterr().err
    assert told.count("another process is at the same training") == 1
    assert told.count("epoch 2/2") == 2 and told.rindex("epoch 1/2") > told.index("epoch 2/2"), "one after the other"


def test_the_feature_stage_makes_the_same_bytes_on_a_cluster(small_download, small_features, tmp_path, monkeypatch):
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    try:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        extract(small_download, features_section(), tmp_path / "out", tmp_path / "scratch")
        assert len(ray.nodes()) == 2, "the work was done elsewhere"
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert hashes(tmp_path / "out") == hashes(small_features)


def known_there(name: str) -> str | None:
    return os.environ.get(name)


def complain_there(name: str) -> None:
    raise AudiolibError("no space left on the disk")


def test_workers_of_a_cluster_know_how_to_reach_mlflow(monkeypatch):
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)  # What follows was set after its processes had started.
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
        names = ["MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD"]
        assert list(cluster_map(known_there, names)) == ["secret", None]
        with pytest.raises(AudiolibError, match=r"^no space left on the disk$"):
            list(cluster_map(complain_there, names))
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_settings_that_do_not_go_together_are_refused_before_ray_starts(small_features, tmp_path, monkeypatch):
    monkeypatch.delattr(launch, "start_ray")
    with pytest.raises(AudiolibError, match="batch_size 1 cannot be shared by 2 workers in 1 parts"):
        run(job(small_features, tmp_path, recipe=recipe(batch_size=1), num_workers=2))


def test_a_mistake_of_one_worker_ends_the_others_and_is_not_tried_again(small_features, tmp_path, capfd):
    """The other one waits for it in the next epoch."""

    def complain(row: dict) -> None:
        with (tmp_path / "calls").open("a") as calls:
            calls.write("epoch\n")
        raise AudiolibError("no space left on the disk")

    plan = job(small_features, tmp_path, recipe=recipe(phases=[phase(epochs=3)]), num_workers=2)
    with pytest.raises(AudiolibError, match=r"^no space left on the disk$"):
        run(plan, complain)
    assert (tmp_path / "calls").read_text() == "epoch\n"
    told = "".join(capfd.readouterr())
    assert told.count("epoch 1/3") == 1 and "no space left" not in told and "Error in training function" not in told
    run(plan)
    assert (tmp_path / "out" / "model.safetensors").exists(), "the mistake is mended: nothing of it is left"


def test_workers_get_a_gpu_each_or_none_at_all(monkeypatch, capfd):
    assert [on_gpus("cpu", 2, there) for there in (0, 1, 2)] == [False, False, False]
    assert [on_gpus(device, 2, there) for device in ("auto", "cuda") for there in (2, 3)] == [True] * 4
    assert not on_gpus("auto", 2, 0)
    for device, there in (("auto", 1), ("cuda", 1), ("cuda", 0)):
        with pytest.raises(AudiolibError, match=rf"Ray finds {there} GPUs.* 2 workers.* set .*train\.device to cpu"):
            on_gpus(device, 2, there)
    monkeypatch.setenv("RAY_ADDRESS", "a cluster that may grow")
    assert on_gpus("cuda", 2, 0) and "waiting" in capfd.readouterr().err
    with pytest.raises(AudiolibError, match="Ray finds 1 GPUs"):
        on_gpus("auto", 2, 1)


def test_trainings_that_differ_in_precision_alone_wait_for_each_other(small_features, tmp_path, monkeypatch):
    """`auto` may mean either, and its checkpoints are those of what it means."""
    locks = []
    monkeypatch.setattr(launch, "lock", lambda path, _: locks.append(path) or nullcontext())
    monkeypatch.setattr(launch, "fit", lambda plan, on_epoch: None)
    for changes in ({"precision": "auto"}, {"precision": "float32"}, {"precision": "bfloat16"}, {"seed": 2}):
        run(job(small_features, tmp_path, **changes))
    assert locks[0] == locks[1] == locks[2] != locks[3]


def join(rank: int, folder: Path) -> None:
    """Make this process one of two workers, without Ray."""
    store = distributed.FileStore(str(folder / "meeting"), 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)


def leave() -> None:
    """Once the other worker needs this one no longer: gloo aborts a process that ends while its threads run."""
    distributed.barrier()
    distributed.destroy_process_group()


def resume(rank: int, folder: Path) -> None:
    join(rank, folder)
    try:
        found = Checkpoints(folder / str(rank), {"what": 1}).agreed()
        told = "none" if found is None else f"{found.name} {found.state} {found.tensors['w'].tolist()}"
    except AudiolibError as error:
        told = f"error: {error}"
    (folder / f"told-{rank}").write_text(told)
    leave()


def test_all_workers_continue_from_the_first_ones_checkpoint(tmp_path):
    """Of disks that show them different things."""

    def told(name: str, *steps: tuple[int, ...]) -> list[str]:
        for rank, own in enumerate(steps):
            store = Checkpoints(tmp_path / name / str(rank), {"what": 1}, keep=3)
            for step in own:
                store.save(step, {"w": torch.full((1,), float(step))}, {"step": step})
        (tmp_path / name).mkdir(exist_ok=True)
        multiprocessing.spawn(resume, (tmp_path / name,), nprocs=2)
        return [(tmp_path / name / f"told-{rank}").read_text() for rank in (0, 1)]

    assert told("older", (1, 2), (1, 2, 3)) == ["step-000000002-00000 {'step': 2} [2.0]"] * 2
    assert told("nothing", (), (1,)) == ["none"] * 2
    whole, lacking = told("lacking", (1, 2), (1,))
    assert whole.startswith("step-000000002") and "\n" not in lacking
    assert lacking.startswith("error: ") and "step-000000002" in lacking and "the first worker has it" in lacking


def lost_at_the_end(rank: int, plan: Job, folder: Path) -> None:
    join(rank, folder)

    def die() -> None:
        while not (plan.out / "training.json").exists():  # The last that the first worker writes.
            time.sleep(0.05)
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)

    if rank == 1:
        distributed.barrier = die
    fit(plan)


def test_a_worker_lost_at_the_very_end_does_not_cost_the_training(small_features, tmp_path, capfd):
    plan = job(small_features, tmp_path)
    with pytest.raises(multiprocessing.ProcessExitedException):
        multiprocessing.spawn(lost_at_the_end, (plan, tmp_path), nprocs=2)
    capfd.readouterr()
    fit(plan)
    told = capfd.readouterr().err
    assert "continuing after step 6" in told and "epoch" not in told


def settled(rank: int, plan: Job, folder: Path) -> None:
    join(rank, folder)
    precision.cpu_has_bf16 = lambda: rank == 0
    (folder / f"precision-{rank}").write_text(Trainer(plan, None).job.settings.precision)
    leave()


def test_workers_of_unlike_hardware_train_in_one_precision(small_features, tmp_path):
    """Else they would not agree on which checkpoint is theirs, either."""
    multiprocessing.spawn(settled, (job(small_features, tmp_path, precision="auto"), tmp_path), nprocs=2)
    assert [(tmp_path / f"precision-{rank}").read_text() for rank in (0, 1)] == ["float32"] * 2
