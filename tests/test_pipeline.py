"""dvc.yaml says the truth: stage names, dependencies and parameters are those of the code."""

import re

import pytest
import yaml

from audiolib import evaluate, job
from tests.imports import OTHERS, PACKAGES, ROOT, closure, is_folder

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
ORDER = ["download", "features", "pretrain", "finetune", "evaluate", "report"]


def test_one_name_for_stage_script_and_folder():
    assert list(PIPELINE) == ORDER
    assert {p.stem for p in (ROOT / "stages").glob("*.py")} == {*ORDER, "__init__"}
    for name, stage in PIPELINE.items():
        assert stage["cmd"] == f"python -m stages.{name}"
        outs = stage["outs"] + [next(iter(metric)) for metric in stage.get("metrics", [])]
        assert all(out == f"data/{name}" or out.startswith(f"data/{name}/") for out in outs)


@pytest.mark.parametrize("name", ORDER)
def test_a_stage_depends_on_exactly_the_files_of_the_library_that_it_uses(name):
    needed = {str(path.relative_to(ROOT)) for path in closure(ROOT / "stages" / f"{name}.py")}
    folders = [dep for dep in PIPELINE[name]["deps"] if is_folder(dep)]
    listed = {dep for dep in PIPELINE[name]["deps"] if dep.startswith(PACKAGES)} - set(folders)
    within = {path for path in needed if any(path.startswith(folder + "/") for folder in folders)}
    assert needed - within - listed == set(), "used, but not in deps"
    assert listed - needed == set(), "in deps, but not used"


def test_every_file_of_the_library_that_is_not_python_belongs_to_a_stage():
    listed = {dep for stage in PIPELINE.values() for dep in stage["deps"]}
    paths = [path.relative_to(ROOT) for path in OTHERS.values()]
    assert len(paths) >= 6
    for path in paths:
        assert listed & {str(path), str(path.parent)}, path


# What they do to a training is to keep it, tell of it, or hand it on; the precision is in the fingerprint itself.
HARMLESS = {"__init__", "checkpoint", "errors", "files", "finish", "job", "kernels/__init__", "precision", "pretrained"}
HARMLESS |= {"progress"}


@pytest.mark.parametrize(
    "file, patterns, harmless", [("train.py", job.CODE, HARMLESS), ("evaluate.py", evaluate.CODE, {"kernels/__init__"})]
)
def test_unfinished_work_is_not_continued_by_other_code(file, patterns, harmless):
    """All that a training or a sweep uses is in its fingerprint."""
    library = ROOT / "audiolib"
    needed = {str(path.relative_to(library)) for path in closure(library / file)}
    hashed = {str(path.relative_to(library)) for pattern in patterns for path in library.glob(pattern)}
    assert needed - hashed == {f"{name}.py" for name in harmless}


@pytest.mark.parametrize("name", ORDER)
def test_a_stage_depends_on_the_sections_that_it_reads(name):
    text = (ROOT / "stages" / f"{name}.py").read_text(encoding="utf-8")
    listed = {p for p in PIPELINE[name]["params"] if isinstance(p, str)}
    files = {next(iter(p)) for p in PIPELINE[name]["params"] if isinstance(p, dict)}
    for section in re.findall(r'read_section\(ROOT, "(\w+)"', text):
        assert section in listed or "params.yaml" in files
    for group in re.findall(r'read_preset\(ROOT, "(\w+)"', text):
        assert f"configs/{group}/${{{group}}}.yaml" in files


def test_every_output_of_a_stage_that_another_reads_is_its_dependency():
    made = {name: list(stage["outs"]) for name, stage in PIPELINE.items()}
    for name, stage in PIPELINE.items():
        text = (ROOT / "stages" / f"{name}.py").read_text(encoding="utf-8")
        for other in ORDER[: ORDER.index(name)]:
            if f'DATA / "{other}"' in text or f'"{other}"' in text:
                assert any(dep in stage["deps"] for dep in made[other]), f"{name} reads {other}"
