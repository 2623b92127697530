"""Conventions that a machine can hold: sizes, one door for each heavy dependency, a core that imports alone."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.imports import ROOT

SOURCES = sorted([*ROOT.glob("audiolib/**/*.py"), *ROOT.glob("stages/*.py")])
# Third-party package -> the files that may import it.
DOORS = {
    "ray": {"cluster.py", "launch.py", "workers.py"},
    "mlflow": {"tracking.py", "registry.py", "mlflow_model.py"},
    "pyarrow": {"shards.py"},
    "soundfile": {"frontend.py"},
    "soxr": {"frontend.py"},
    "torchaudio": {"frontend.py"},
    "matplotlib": {"figures.py", "page.py"},
    "jinja2": {"page.py"},
    "plotly": {"charts.py"},
    "gradio": {"demo.py"},
    "onnxscript": {"export.py"},
    "dvc": set(),
    "triton": {"triton_kernels.py", "triton_gradients.py"},
    "mamba_ssm": {"mamba_package.py"},
    "pickle": set(),
}


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*SOURCES, *sorted(ROOT.glob("tests/**/*.py"))], ids=ids)
def test_files_and_functions_fit_a_reader(path):
    text = path.read_text(encoding="utf-8")
    limit = 40 if path.parent.name == "stages" else 300
    assert text.count("\n") <= limit, f"{path} is longer than {limit} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{path}: {node.name} is longer than a screen"


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_heavy_dependencies_have_one_door(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        for name in names:
            package = name.split(".")[0]
            assert package not in DOORS or path.name in DOORS[package], f"{path} imports {package}"
            assert package != "__future__", f"{path} makes annotations lazy, which hides them from checkers"


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_layers_point_one_way(path):
    """Stages use the library, never the reverse; kernels know nothing; models know kernels and the batch type."""
    allowed = {
        "kernels": ("audiolib.kernels", "audiolib.errors"),
        "models": ("audiolib.kernels", "audiolib.models", "audiolib.batches", "audiolib.errors"),
    }
    parts = path.relative_to(ROOT).parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and parts[0] == "audiolib":
            assert not node.module.startswith("stages"), path
            layer = allowed.get(parts[1]) if len(parts) > 2 else None
            if layer and node.module.startswith("audiolib"):
                assert node.module.startswith(layer), f"{path} imports {node.module}"


def test_no_file_is_called_utils():
    assert not [path for path in SOURCES if path.stem in ("utils", "helpers", "misc", "common")]


def test_models_kernels_and_the_training_loop_import_without_the_pipelines_packages():
    """A GPU machine often has torch, numpy, pyarrow and safetensors, and nothing else of ours."""
    script = """
import sys
absent = "ray dvc mlflow polars pydantic soundfile soxr torchaudio matplotlib jinja2 yaml"
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent.split():
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import audiolib, audiolib.models, audiolib.kernels.check, audiolib.train, audiolib.pretrained, audiolib.loader
print(len(audiolib.list_models()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 8


def test_what_only_reads_results_does_not_load_torch():
    """Nor does the package itself: `audiolib compare` answers at once."""
    script = "import sys, audiolib, audiolib.compare, audiolib.pareto, stages.download, stages.report\n"
    script += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "False", done.stderr


def test_every_cited_section_is_there():
    """`papers.md 2.1, 5.1` in a docstring or a preset is a heading of docs/papers.md."""
    there = set(re.findall(r"^#+ (\d+(?:\.\d+)?)\.? ", (ROOT / "docs/papers.md").read_text(encoding="utf-8"), re.M))
    cited = {}
    for path in [*SOURCES, *ROOT.glob("configs/*/*.yaml"), *ROOT.glob("tests/**/*.py")]:
        for numbers in re.findall(r"papers\.md,? (?:section )?(\d[\d., ]*\d|\d)", path.read_text(encoding="utf-8")):
            cited.update(dict.fromkeys(re.findall(r"\d+(?:\.\d+)?", numbers), path.name))
    assert len(cited) > 10 and set(cited) <= there, {number: cited[number] for number in set(cited) - there}
