"""dvc.yaml says the truth: stage names, dependencies and parameters are those of the code."""

import re

import pytest
import yaml

from tests.imports import ROOT, closure

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
def test_a_stage_depends_on_exactly_the_code_that_it_imports(name):
    needed = {str(path.relative_to(ROOT)) for path in closure(ROOT / "stages" / f"{name}.py")}
    listed = {dep for dep in PIPELINE[name]["deps"] if dep.endswith(".py")}
    folders = [dep for dep in PIPELINE[name]["deps"] if dep.startswith("audiolib/") and "." not in dep]
    within = {path for path in needed if any(path.startswith(folder + "/") for folder in folders)}
    assert needed - within - listed == set(), "used, but not in deps"
    assert listed - needed == set(), "in deps, but not used"


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
