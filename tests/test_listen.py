"""`audiolib predict`, `embed`, `info`, `doctor` and `verify`, as they are typed."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile

from audiolib.inference import Listener
from tests.test_cli import audiolib
from tests.test_inference import CLASSES, saved, sound, streaming_model
from tests.test_report import kept, record


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("model") / "m")


def test_predict_names_bad_files_and_does_the_rest(folder, tmp_path):
    sounds = tmp_path / "sounds"
    (sounds / "deep").mkdir(parents=True)
    for number in range(3):
        sound(sounds / f"{number}.wav", 0.5 + number / 4)
    sound(sounds / "deep/x.flac", 0.7)
    for name in ("bad1.wav", "bad2.mp3", "deep/bad3.ogg"):
        (sounds / name).write_text("nothing")
    (sounds / "notes.txt").write_text("not asked for")
    done = audiolib("predict", sounds, "--model", folder, "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1 and [Path(row["file"]).name for row in rows] == ["0.wav", "1.wav", "2.wav", "x.flac"]
    assert all(name in done.stderr for name in ("bad1.wav", "bad2.mp3", "bad3.ogg")) and "Traceback" not in done.stderr
    assert rows[2]["end"] == 1.0 and [entry["probability"] for entry in rows[0]["classes"]] == sorted(
        (entry["probability"] for entry in rows[0]["classes"]), reverse=True
    )


def test_predict_writes_what_others_read(folder, tmp_path):
    path, out = sound(tmp_path / "a b.wav", 1.0), tmp_path / "out.parquet"
    done = audiolib("predict", path, "--model", folder, "--csv", "--top-k", 4, "--window", 0.5)
    table = pl.read_csv(done.stdout.encode())
    assert table.columns == ["file", "start", "end", "rank", "class", "probability"] and len(table) == 8
    assert set(table["class"]) == set(CLASSES) and table["start"].unique().to_list() == [0.0, 0.5]
    assert audiolib("predict", path, "--model", folder, "--parquet", out, "--top-k", 1).stdout == ""
    whole = audiolib("predict", path, "--model", folder, "--top-k", 1).stdout.split("\t")[1]
    assert [f"{row['class']} {row['probability']:.3f}" for row in pl.read_parquet(out).to_dicts()] == [whole.strip()]
    vectors = audiolib("embed", path, "--model", folder)
    assert len(json.loads(vectors.stdout)["embedding"]) == 48


def test_a_folder_without_sounds_is_told(folder, tmp_path):
    (tmp_path / "notes.txt").write_text("no sound")
    done = audiolib("predict", tmp_path, "--model", folder)
    assert done.returncode == 1 and "has no sound files" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_place_that_cannot_be_written_is_told_before_listening(folder, tmp_path):
    path = sound(tmp_path / "a.wav", 1.0)
    for place in (tmp_path, tmp_path / "none" / "out.parquet"):
        done = audiolib("embed", path, "--model", folder, "--parquet", place)
        assert done.returncode == 2 and "name a file" in done.stderr and done.stdout == ""


@pytest.mark.parametrize("scan", ["auto", "naive"])
def test_a_scan_can_be_chosen(tmp_path, scan):
    model, path = saved(tmp_path / "m", "aum_nano"), sound(tmp_path / "a.wav", 1.0)
    listener = Listener(model, scan=scan)
    assert {block.mixer.impl for block in listener.model.blocks} == {scan}
    done = audiolib("predict", path, "--model", model, "--scan", scan, "--top-k", 1)
    (heard,) = listener.listen([path])
    assert done.stdout.split("\t")[1].startswith(CLASSES[heard.values.argmax()])


def test_predict_hears_standard_input(folder, tmp_path):
    path = sound(tmp_path / "a.wav", 1.0)
    command = [sys.executable, "-m", "audiolib.cli", "predict", "-", "--model", str(folder)]
    done = subprocess.run(command, input=path.read_bytes(), capture_output=True, cwd=tmp_path.parent)
    direct = audiolib("predict", path, "--model", folder).stdout.split("\t")[1:]
    assert done.stdout.decode().split("\t") == ["-", *direct]


def test_a_budget_takes_the_best_shape_that_was_measured(tmp_path):
    model = saved(tmp_path / "finetune")
    kept(record("elastic", 1, 0.9), tmp_path / "evaluate")
    path = sound(tmp_path / "a.wav", 1.0)
    done = audiolib("predict", path, "--model", model, "--budget-ms", 1)
    assert "patch 32 x 32, hop 10 ms" in done.stderr and done.returncode == 0
    # Within 3 ms the best cell of all is one of shorter clips, which are not what the model will hear.
    rows = pl.read_parquet(tmp_path / "evaluate/rows.parquet")
    best = pl.when(pl.col("seconds") == 0.64).then(1.0).when(pl.col("patch_t") == 32).then(0.99).otherwise(0.5)
    rows.with_columns(value=best).write_parquet(tmp_path / "evaluate/rows.parquet")
    within = audiolib("predict", path, "--model", model, "--budget-ms", 3)
    assert "patch 32 x 32, hop 10 ms" in within.stderr and within.returncode == 0
    short = audiolib("predict", path, "--model", model, "--budget-ms", 3, "--window", 0.6)
    assert "patch 16 x 16, hop 10 ms: 1.000" in short.stderr and short.returncode == 0
    assert (
        "--budget-ms needs results"
        in audiolib("predict", path, "--model", saved(tmp_path / "x/m"), "--budget-ms", 1).stderr
    )


@pytest.mark.parametrize(
    "words, message",
    [
        (["--patch", "a"], "'a' is no patch size"),
        (["--hop-ms", "0.1"], "a hop lasts 1 to 1000 ms"),
        (["--window", "-1"], "positive numbers of seconds"),
        (["--window", "0.001"], "shorter than a single frame"),
        (["--patch", "500"], "a patch of 500 bands is higher than this model's log-mel, which has 128"),
        (["--top-k", "0"], "'0' is no positive whole number"),
        (["--json", "--parquet", "out.parquet"], "leave --json and --csv out"),
        (["--patch", "12", "--budget-ms", "3"], "leave --patch and --hop-ms out"),
    ],
)
def test_a_wrong_option_is_one_line(folder, tmp_path, words, message):
    done = audiolib("predict", sound(tmp_path / "a.wav", 0.5), "--model", folder, *words)
    assert done.returncode != 0 and message in done.stderr and "Traceback" not in done.stderr


def test_info_doctor_and_verify(folder, tmp_path, small_features):
    told = json.loads(audiolib("info", folder, "--json").stdout)
    assert told["classes"] == CLASSES and told["takes any length"] is True
    assert "parameters" in audiolib("info", folder).stdout
    doctor = audiolib("doctor")
    assert doctor.returncode == 0 and "selective_scan naive: right" in doctor.stdout
    assert "segment_attention grouped: right" in doctor.stdout and "mamba_ssm: not here" in doctor.stdout
    done = audiolib("verify", folder, small_features)
    assert done.returncode == 0 and "model, whole" in done.stdout and "features, whole" in done.stdout
    weights = saved(tmp_path / "m") / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    damaged = audiolib("verify", tmp_path / "m", tmp_path)
    assert damaged.returncode == 1 and len(damaged.stderr.splitlines()) == 2 and "sha256" in damaged.stderr


def test_following_from_the_command_line(folder, tmp_path):
    path, model = sound(tmp_path / "a.wav", 2.5), streaming_model(tmp_path / "m")
    (tmp_path / "empty.wav").touch()
    done = audiolib("predict", tmp_path / "empty.wav", path, "--model", model, "--stream", "1")
    assert [line.split("\t")[1] for line in done.stdout.splitlines()] == ["0.00-1.00", "0.00-2.00", "0.00-2.50"]
    assert done.returncode == 1 and "empty.wav: the file is empty" in done.stderr
    other = audiolib("predict", path, "--model", folder, "--stream", "1")
    assert other.returncode == 1 and "directions: fo-fo" in other.stderr and "Traceback" not in other.stderr


def test_a_file_that_turns_bad_has_no_answer_as_a_whole(tmp_path):
    """The mean over its first windows would pass for one over the file; windows before the damage are told."""
    model = saved(tmp_path / "m", padded=True)
    good, bad = sound(tmp_path / "good.wav", 3.0), tmp_path / "bad.wav"
    samples, rate = soundfile.read(good, dtype="float32")
    samples[int(2.5 * rate) :] = np.nan
    soundfile.write(bad, samples, rate, subtype="FLOAT")
    whole = audiolib("predict", bad, good, bad, "--model", model)
    assert [line.split("\t")[0] for line in whole.stdout.splitlines()] == [str(good)] and whole.returncode == 1
    assert whole.stderr.count("not finite numbers") == 2
    assert str(bad) in audiolib("predict", bad, "--model", model, "--window", 0.5).stdout


def test_a_folder_gives_all_that_can_be_trained_on(folder, tmp_path):
    (tmp_path / "clips" / ".hidden").mkdir(parents=True)
    (tmp_path / "linked").mkdir()
    samples, rate = soundfile.read(sound(tmp_path / "a.wav", 0.5))
    for name in ("clips/a.aiff", "clips/.hidden/b.wav", "linked/c.flac"):
        soundfile.write(tmp_path / name, samples, rate)
    (tmp_path / "clips" / "more").symlink_to(tmp_path / "linked")
    done = audiolib("predict", tmp_path / "clips", "--model", folder)
    told = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert told == [str(tmp_path / "clips/a.aiff"), str(tmp_path / "clips/more/c.flac")]
    empty = audiolib("predict", "", "--model", folder)
    assert empty.returncode == 1 and "an empty word was given" in empty.stderr


def test_a_table_of_nothing_has_its_columns(folder, tmp_path):
    (tmp_path / "empty.wav").touch()
    audiolib("predict", tmp_path / "empty.wav", "--model", folder, "--parquet", tmp_path / "o.parquet")
    assert pl.read_parquet(tmp_path / "o.parquet").columns == ["file", "start", "end"]
