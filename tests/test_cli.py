"""The command line as a shell user meets it."""

import io
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import pytest

import stages.features
import stages.report
from audiolib.cli.__main__ import COMMANDS, main
from audiolib.errors import AudiolibError
from audiolib.progress import track
from tests.conftest import ROOT
from tests.test_report import kept, record


def audiolib(*words: object) -> subprocess.CompletedProcess[str]:
    """`audiolib WORDS` in this process, which has everything imported already."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", ["audiolib", *map(str, words)]):
        try:
            main()
        except SystemExit as left:
            status = int(left.code or 0)
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


def test_help_needs_nothing_heavy():
    code = (
        "import sys; sys.argv = ['audiolib', '--help']\n"
        "from audiolib.cli.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'polars', 'numpy', 'mlflow', 'plotly'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip() == "[]" and all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    done = audiolib(command, "--help")
    assert done.returncode == 0 and command in done.stdout and done.stderr == ""


def test_an_unknown_command_is_a_usage_error():
    done = audiolib("nosuch")
    assert done.returncode == 2 and "invalid choice" in done.stderr


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("records")
    runs = [record("ast", 1, 0.7), record("ast", 2, 0.7), record("elastic", 1, 0.95)]
    return [kept(run, folder / str(number)) for number, run in enumerate(runs)]


def test_compare_prints_a_table_and_leaves_a_page(records, tmp_path):
    done = audiolib("compare", *records, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert (
        lines[0].startswith("| model |") and lines[2].startswith("| elastic |") and lines[3].startswith("| ast | 2 |")
    )
    assert (tmp_path / "out/report.html").exists() and str(tmp_path / "out/report.html") in done.stderr


def test_compare_knows_its_project_in_a_folder_below(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).touch()
    (tmp_path / "data").mkdir()
    kept(record("elastic", 1, 0.95), tmp_path / "data/evaluate")  # MLflow knows nothing of it.
    below = tmp_path / "below/it"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    done = audiolib("compare", "--out", tmp_path / "out")
    assert done.returncode == 0 and "| elastic | 1 |" in done.stdout, done.stderr
    assert not (tmp_path / "mlflow.db").exists() and list(below.iterdir()) == [], "what only reads leaves nothing"
    (tmp_path / "data/evaluate/rows.parquet").unlink()
    nothing = audiolib("compare", "a-run", "--out", tmp_path / "out")
    assert nothing.returncode == 1 and "no recorded run is called a-run" in nothing.stderr


def test_pick_names_the_cell_within_the_limits(records):
    done = audiolib("pick", *records, "--max-ms", 3, "--top", 2)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 4
    assert "use elastic with patch 16 x 16" in done.stderr
    refused = audiolib("pick", *records, "--max-ms", 0.01)
    assert refused.returncode == 1 and refused.stdout == ""
    assert refused.stderr.splitlines() == ["error: nothing that was measured is that cheap; the least is 0.625 ms"]
    assert "say what is wanted" in audiolib("pick", *records).stderr


def test_a_folder_that_is_no_record_is_one_line(tmp_path):
    done = audiolib("compare", tmp_path)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "has no rows.parquet; name a folder that `dvc repro evaluate` left" in done.stderr


def test_a_closed_pipe_is_no_error(records):
    command = f"{sys.executable} -m audiolib.cli pick {' '.join(map(str, records))} --max-ms 3 | true"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in done.stderr and "Broken pipe" not in done.stderr


@pytest.mark.parametrize("module", ["stages.features", "stages.report", "audiolib.summary"])
def test_a_program_without_arguments_explains_itself_and_does_nothing(module):
    before = (ROOT / "README.md").stat().st_mtime_ns
    helped = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert helped.returncode == 0 and "usage" in helped.stdout
    wrong = subprocess.run([sys.executable, "-m", module, "nonsense"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2 and "unrecognized arguments: nonsense" in wrong.stderr
    assert (ROOT / "README.md").stat().st_mtime_ns == before


@pytest.mark.parametrize("stage", [stages.features, stages.report])
def test_a_stage_without_its_inputs_keeps_what_it_left(stage, tmp_path, monkeypatch):
    name = stage.__name__.rpartition(".")[2]
    monkeypatch.setattr(stage, "DATA", tmp_path)
    (tmp_path / name).mkdir()
    (tmp_path / name / "kept").touch()
    with pytest.raises(AudiolibError):
        stage.main()
    assert (tmp_path / name / "kept").exists()


def test_in_a_log_file_long_work_is_told_in_lines(monkeypatch, capsys):
    monkeypatch.setattr("audiolib.progress._EVERY", 0.0)
    assert list(track("abc", "listening", total=3, unit="file")) == ["a", "b", "c"]
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3 and re.fullmatch(r"listening: 1 of 3 files, about \d+ s left", told[1])
