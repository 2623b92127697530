"""Models on sound files: against a plain loop, over any input, and through the command line."""

import json
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from audiolib.batches import pack
from audiolib.errors import AudiolibError
from audiolib.follow import follow
from audiolib.frontend import Frontend, decode, log_mel
from audiolib.inference import Listener, top, whole_files, window_starts
from audiolib.models import create_model
from audiolib.pretrained import Card, load, save_pretrained
from tests.test_cli import audiolib
from tests.test_report import kept, record

CLASSES = ["bell", "dog", "rain", "a, b"]
FRONTEND = {"sample_rate": 16000, "mel_bins": 128, "window_ms": 25.0, "hop_ms": 10.0, "mean": -7.0, "std": 4.0}


def saved(folder: Path, name: str = "elastic_nano", **changes) -> Path:
    """A model folder with random weights, large enough in the head that its answers differ."""
    small = {"width": 48, "depth": 1, **({} if name.startswith("aum") else {"heads": 2})}
    model = create_model(name, len(CLASSES), seed=1, frames=100, **small)
    torch.nn.init.normal_(model.head.weight, std=1.0, generator=torch.Generator().manual_seed(0))
    padded = not name.startswith("elastic")
    values = {"classes": CLASSES, "multi_label": False, "frontend": FRONTEND, "patch": (16, 16), "frames": 100}
    card = Card(**{**values, "compression": 1, "method": "none", "padded": padded, **changes})
    save_pretrained(model, card, folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("model") / "m")


def sound(path: Path, seconds: float, rate: int = 16000, channels: int = 1, pitch: float = 440.0) -> Path:
    """A gliding tone with a click in it."""
    t = np.arange(int(seconds * rate)) / rate
    wave = 0.3 * np.sin(2 * np.pi * (pitch * t + 60 * t**2))
    wave[len(wave) // 2 : len(wave) // 2 + 20] += 0.5
    soundfile.write(path, np.repeat(wave[:, None], channels, 1), rate)
    return path


def by_hand(folder: Path, path: Path, start: float, end: float, hop: float = 10.0, patch=(16, 16)) -> np.ndarray:
    mel = log_mel(decode(path, 16000, start, end), Frontend(16000, 128, 25.0, hop))
    x = torch.from_numpy((mel - np.float32(-7.0)) * np.float32(0.125))
    with torch.inference_mode():
        return load(folder)(pack([x], stretch=[hop / 10]), patch).softmax(1)[0].numpy()


@pytest.mark.parametrize("shape", [{}, {"patch": (12, 12)}, {"hop_ms": 14.0}, {"patch": (16, 8), "hop_ms": 25.0}])
def test_windows_are_what_a_plain_loop_finds(folder, tmp_path, shape):
    files = [sound(tmp_path / f"{n}.wav", seconds) for n, seconds in enumerate((0.4, 1.3, 2.05))]
    found = list(Listener(folder, **shape).listen(files, window=0.5, stride=0.3))
    assert [(h.path, round(h.start, 2), round(h.end, 2)) for h in found[:5]] == [
        (str(files[0]), 0, 0.4), (str(files[1]), 0, 0.5), (str(files[1]), 0.3, 0.8), (str(files[1]), 0.6, 1.1),
        (str(files[1]), 0.8, 1.3),
    ]  # fmt: skip
    for heard in found:
        hop = shape.get("hop_ms", 10.0)
        alone = by_hand(folder, Path(heard.path), heard.start, heard.end, hop, shape.get("patch", (16, 16)))
        assert np.allclose(heard.values, alone, atol=2e-5)
    assert sum(found[1].values) == pytest.approx(1, abs=1e-5)


def test_a_model_trained_on_padded_clips_sees_its_own_length(tmp_path):
    listener = Listener(saved(tmp_path / "m", "flexi_nano"))
    assert listener.own_seconds == 1.0
    long = sound(tmp_path / "long.wav", 2.5)
    windows = list(listener.listen([long]))
    assert [(round(h.start, 2), round(h.end, 2)) for h in windows] == [(0, 1), (1, 2), (1.5, 2.5)]
    (whole,) = whole_files(windows)
    assert np.allclose(whole.values, np.mean([h.values for h in windows], axis=0)) and whole.end == 2.5
    short = sound(tmp_path / "short.wav", 0.005)  # Shorter than one analysis window.
    assert np.isfinite(next(iter(listener.listen([short]))).values).all()


def test_coarse_models_and_several_labels(tmp_path):
    pooled = Listener(saved(tmp_path / "p", "flexi_nano", compression=2, method="avg_pool"))
    path = sound(tmp_path / "a.wav", 1.0)
    assert np.isfinite(next(iter(pooled.listen([path]))).values).all()
    several = Listener(saved(tmp_path / "s", multi_label=True))
    values = next(iter(several.listen([path]))).values
    assert abs(values.sum() - 1) > 1e-3 and ((values > 0) & (values < 1)).all()


def test_rate_and_channels_do_not_matter(folder, tmp_path):
    plain = sound(tmp_path / "a.wav", 1.0)
    stereo = sound(tmp_path / "b.wav", 1.0, rate=44100, channels=2)
    one, other = (h.values for h in Listener(folder).listen([plain, stereo]))
    assert np.allclose(one, other, atol=0.05)


def test_files_are_read_one_by_one_and_in_pieces(folder, tmp_path, monkeypatch):
    read = []

    def noted(path, rate, start, end):
        read.append((path.name, end - start))
        return decode(path, rate, start, end)

    monkeypatch.setattr("audiolib.inference.decode", noted)
    monkeypatch.setattr("audiolib.inference.BATCH_FRAMES", 400)
    files = [sound(tmp_path / f"{n}.wav", 30.0) for n in range(2)]
    windows = Listener(folder).listen(files, window=1.0)
    next(windows)
    assert len(read) <= 6 and max(length for _, length in read) <= 1.0 + 1e-9
    assert sum(1 for _ in windows) == 59


def test_embeddings_are_what_the_head_sees(folder, tmp_path):
    path, listener = sound(tmp_path / "a.wav", 1.0), Listener(folder)
    (said,) = listener.listen([path])
    (vector,) = listener.listen([path], embed=True)
    assert vector.values.shape == (48,)
    assert np.allclose(listener.probabilities(torch.from_numpy(vector.values)[None])[0], said.values, atol=1e-5)


@given(st.floats(0.01, 500), st.floats(0.05, 30), st.floats(0.05, 30))
def test_windows_cover_a_file(total, window, stride):
    starts = window_starts(total, window, stride)
    assert starts[0] == 0 and starts == sorted(starts)
    assert starts[-1] + window >= total - 1e-6 and (total <= window or math.isclose(starts[-1] + window, total))
    assert all(later - earlier <= stride + 1e-9 for earlier, later in pairwise(starts))


def test_bad_files_are_told_or_raised(folder, tmp_path):
    good, empty, text = sound(tmp_path / "a.wav", 1.0), tmp_path / "empty.wav", tmp_path / "t.wav"
    empty.write_bytes(b"")
    text.write_text("no sound")
    told = []
    found = list(
        Listener(folder).listen([empty, good, text, tmp_path / "no.wav"], bad=lambda p, r: told.append((p, r)))
    )
    assert [h.path for h in found] == [str(good)] and [Path(p).name for p, _ in told] == [
        "empty.wav",
        "t.wav",
        "no.wav",
    ]
    with pytest.raises(AudiolibError, match=r"empty.wav: the file is empty"):
        list(Listener(folder).listen([empty]))
    with pytest.raises(AudiolibError, match="positive numbers of seconds"):
        list(Listener(folder).listen([good], window=0))


def test_top_is_sorted():
    assert top(np.array([0.1, 0.5, 0.2, 0.2]), CLASSES, 3) == [("dog", 0.5), ("rain", 0.2), ("a, b", 0.2)]


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


FOLLOWS = {"directions": "fo-fo", "order": "time", "class_token": "end", "positions": "centre", "border": "pad"}


FOLLOWED = [(16000, 23.3, 5.0, 10), (16000, 0.4, 1.0, 10), (44100, 21.0, 7.0, 10), (16000, 12.2, 4.0, 20)]


@pytest.mark.parametrize("rate, seconds, every, hop", FOLLOWED)
def test_a_followed_file_is_what_the_model_says_of_its_beginning(tmp_path, rate, seconds, every, hop):
    listener = Listener(streaming_model(tmp_path / "m"), hop_ms=hop)
    path = sound(tmp_path / "a.wav", seconds, rate=rate)
    told = list(follow(listener, path, every, pytest.fail))
    assert [round(h.end, 1) for h in told] == [*np.arange(every, seconds - 0.1, every), seconds]
    for heard in (told[0], told[-1]):
        mel = log_mel(decode(path, 16000, 0, None), Frontend(16000, 128, 25.0, hop))
        mel = mel[: round(heard.end * 1000 / hop)]  # Frames that begin before then.
        batch = pack([torch.from_numpy(listener.normalised(mel))], stretch=[hop / 10])
        with torch.inference_mode():
            whole = listener.model(batch).softmax(1)[0].numpy()
        assert np.allclose(heard.values, whole, atol=1e-4 if rate == 16000 else 1e-3)
    if len(told) > 1:
        assert not np.allclose(told[0].values, told[-1].values, atol=1e-3)


def streaming_model(folder: Path) -> Path:
    """Its positions reach over 25 s: beyond them a whole clip squeezes them, which a stream cannot."""
    model = create_model("aum_nano", len(CLASSES), seed=1, frames=2500, width=48, depth=1, **FOLLOWS)
    torch.nn.init.normal_(model.head.weight, std=1.0, generator=torch.Generator().manual_seed(0))
    save_pretrained(model, Card(CLASSES, False, FRONTEND, (16, 16), 2500, 1, "none"), folder)
    return folder


def test_following_from_the_command_line(folder, tmp_path):
    path, model = sound(tmp_path / "a.wav", 2.5), streaming_model(tmp_path / "m")
    (tmp_path / "empty.wav").touch()
    done = audiolib("predict", tmp_path / "empty.wav", path, "--model", model, "--stream", "1")
    assert [line.split("\t")[1] for line in done.stdout.splitlines()] == ["0.00-1.00", "0.00-2.00", "0.00-2.50"]
    assert done.returncode == 1 and "empty.wav: the file is empty" in done.stderr
    other = audiolib("predict", path, "--model", folder, "--stream", "1")
    assert other.returncode == 1 and "directions: fo-fo" in other.stderr and "Traceback" not in other.stderr
