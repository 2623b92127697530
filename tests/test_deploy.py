"""The templates for clusters: KubeRay's fields and types; the job's script on a cluster of two nodes."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

# Of KubeRay's API reference, ray.io/v1: the fields of each object and their types.
RAY_JOB = {
    "entrypoint": str,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    "backoffLimit": int,
    "activeDeadlineSeconds": int,
    "runtimeEnvYAML": str,
    "submissionMode": str,
    "rayClusterSpec": dict,
}
RAY_CLUSTER = {"rayVersion": str, "enableInTreeAutoscaling": bool, "headGroupSpec": dict, "workerGroupSpecs": list}
HEAD = {"rayStartParams": dict, "serviceType": str, "template": dict}
WORKERS = {**HEAD, "groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int, "numOfHosts": int}
del WORKERS["serviceType"]


def fits(value: dict[str, Any], fields: dict[str, type], needed: set[str]) -> None:
    assert needed <= set(value) <= set(fields)
    for key, entry in value.items():
        assert type(entry) is fields[key], key


def test_the_rayjob_has_kuberays_fields_and_pods_that_hold_together():
    job = yaml.safe_load((ROOT / "deploy/rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job) == {"apiVersion", "kind", "metadata", "spec"}
    fits(job["spec"], RAY_JOB, {"entrypoint", "rayClusterSpec"})
    cluster = job["spec"]["rayClusterSpec"]
    fits(cluster, RAY_CLUSTER, {"headGroupSpec", "workerGroupSpecs"})
    fits(cluster["headGroupSpec"], HEAD, {"rayStartParams", "template"})
    for group in cluster["workerGroupSpecs"]:
        fits(group, WORKERS, {"groupName", "rayStartParams", "template"})
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert all(isinstance(entry["value"], str) for entry in container["env"])
    assert cluster["rayVersion"] in (ROOT / "constraints.txt").read_text()


def test_the_scripts_are_shell_that_parses():
    for name in ("train.sh", "slurm.sbatch"):
        assert subprocess.run(["bash", "-n", ROOT / "deploy" / name], check=False).returncode == 0


def test_a_requeued_job_makes_again_what_other_settings_clips_or_code_made(tmp_path):
    """With a `python` that notes the stage and leaves its result."""
    for name in ("deploy", "configs", "audiolib", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "data/download").mkdir(parents=True)
    (tmp_path / "data/download/source.json").write_text("{}")
    stand_in = tmp_path / "bin" / "python"
    stand_in.parent.mkdir()
    stand_in.write_text(
        '#!/bin/bash\nstage=${2#stages.}\necho "$stage" >> log\nmkdir -p "data/$stage"\n'
        '[ -e "$stage.fails" ] && exit 1\ntouch "data/$stage/index.json" "data/$stage/config.json"\n'
    )
    stand_in.chmod(0o755)

    def run() -> list[str]:
        (tmp_path / "log").write_text("")
        path = f"{stand_in.parent}:{os.environ['PATH']}"
        script = ["bash", "deploy/train.sh"]
        done = subprocess.run(script, cwd=tmp_path, env={**os.environ, "PATH": path}, check=False)
        return (tmp_path / "log").read_text().split() + (["failed"] if done.returncode else [])

    (tmp_path / "pretrain.fails").touch()
    assert run() == ["features", "pretrain", "failed"]
    (tmp_path / "pretrain.fails").unlink()
    assert run() == ["pretrain", "finetune"] and run() == []
    (tmp_path / "audiolib/__pycache__").mkdir(exist_ok=True)
    (tmp_path / "audiolib/__pycache__/new.pyc").touch()
    assert run() == []
    for name in (
        "params.yaml",
        "configs/model/flexi.yaml",
        "data/download/source.json",
        "audiolib/kernels/vector_math.h",
    ):
        with (tmp_path / name).open("a") as file:
            file.write("\n")
        assert run() == ["features", "pretrain", "finetune"] and run() == [], name
    (tmp_path / "stages/new.py").touch()
    assert run() == ["features", "pretrain", "finetune"] and run() == []
    (tmp_path / "data/download/source.json").unlink()
    assert run() == ["failed"], "there are no clips"


@pytest.mark.slow
def test_the_jobs_script_trains_on_a_cluster_of_two_nodes(tmp_path):
    from ray.cluster_utils import Cluster

    folder = tmp_path / "project"
    kept = ("audiolib", "stages", "configs", "deploy", "params.yaml")
    for name in kept:
        source = ROOT / name
        shutil.copytree(source, folder / name) if source.is_dir() else shutil.copy(source, folder / name)
    _shrink(folder)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    cluster.add_node(num_cpus=2)
    try:
        path = f"{ROOT / '.venv/bin'}:{os.environ['PATH']}"
        environment = {**os.environ, "RAY_ADDRESS": cluster.address, "PATH": path, "DVC_ROOT": str(folder)}
        subprocess.run(["python", "-m", "stages.download"], cwd=folder, env=environment, check=True)
        script = ["bash", str(folder / "deploy" / "train.sh")]
        done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    finally:
        cluster.shutdown()
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Failed to query" not in done.stderr, "Ray complains of the dashboard that is not there"
    assert (folder / "data/finetune/model.safetensors").exists()


def _shrink(folder: Path) -> None:
    """Few clips, one epoch, two workers."""
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["train"]["num_workers"] = [1, 2]
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    model = yaml.safe_load((folder / "configs/model/flexi.yaml").read_text())
    for stage in ("pretrain", "finetune"):
        model[stage]["phases"] = [{"compression": 1, "method": "none", "epochs": 1, "lr": 1e-3}]
        model[stage] |= {"patch_sizes": [16], "valid_patch_sizes": [16], "patch_probabilities": None}
    model["architecture"] |= {"name": "flexi_nano"}
    (folder / "configs/model/flexi.yaml").write_text(yaml.safe_dump(model))
    data = yaml.safe_load((folder / "configs/data/synthetic.yaml").read_text())
    data["source"]["clips_per_class"] = 12
    (folder / "configs/data/synthetic.yaml").write_text(yaml.safe_dump(data))
