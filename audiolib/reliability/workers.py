"""Kill the workers of a training on Ray one after another, and take a node away."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from audiolib.files import read_json
from audiolib.progress import say
from audiolib.reliability.finding import Finding
from audiolib.tracking import Run

KILLS, EPOCHS, STEPS = 10, 150, 6


def measure(features: Path, folder: Path) -> list[Finding]:
    """Ten workers killed at random moments and one node lost, in one training with one or two workers."""
    from ray.cluster_utils import Cluster

    own = folder / "workers"
    own.mkdir()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    node = cluster.add_node(num_cpus=1)
    command = [sys.executable, "-m", "audiolib.reliability.driver", str(features), str(own), str(EPOCHS)]
    environment = {**os.environ, "RAY_ADDRESS": cluster.address}
    killed = 0
    with (own / "log").open("w", encoding="utf-8") as log:
        driver = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        draw = random.Random(0)
        try:
            while driver.poll() is None and killed < KILLS:
                time.sleep(draw.uniform(8, 16))
                pids = _workers(cluster.address)
                if pids:
                    os.kill(draw.choice(pids), signal.SIGKILL)
                    killed += 1
                    say(f"workers: {killed} of {KILLS} killed")
                if killed == KILLS // 2 and node is not None:
                    cluster.remove_node(node)
                    node = None
                    say("workers: a node is gone")
            driver.wait()
        finally:
            driver.kill()
            cluster.shutdown()
    return [_judge(own, driver.returncode, killed)]


def _workers(address: str) -> list[int]:
    """Of this cluster alone: Ray writes what a process is into its command line, and where its cluster is into that of
    the process that started it.
    """
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            name = place.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if name.startswith("ray::") and "TrainWorker" in name and address in _parent(place.parent):
            found.append(int(place.parent.name))
    return found


def _parent(process: Path) -> str:
    """The command line of a process' parent; nothing when either has ended."""
    try:
        number = (process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]
        return (process.parent / number / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _judge(own: Path, status: int, killed: int) -> Finding:
    promise = "a training on Ray that loses workers and a node ends as planned, and every point is logged once"
    wanted = {"steps": (EPOCHS + 2) * STEPS, "epochs": list(range(EPOCHS + 2)), "points": list(range(EPOCHS + 2))}
    if status:
        return Finding(promise, 1, 0, f"exit status {status}: {(own / 'log').read_text(encoding='utf-8')[-300:]}")
    with (own / "out" / "history.csv").open(encoding="utf-8", newline="") as handle:
        epochs = [int(row["epoch"]) for row in csv.DictReader(handle)]
    record = Run(**read_json(own / "run.json"))
    points = record.steps("valid_score", record.stage("finetune"))
    steps = read_json(own / "out" / "training.json")["steps"]
    found = {"steps": steps, "epochs": epochs, "points": sorted(points)}
    detail = f"{killed} workers killed, 1 node removed; {steps} steps, {len(epochs)} epochs, {len(points)} points"
    return Finding(promise, 1, int(found == wanted and killed == KILLS), detail)
