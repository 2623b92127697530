"""The feature stage: complete, deterministic, resumable, and honest about clips it cannot use."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile
import torch

from audiolib import features
from audiolib.corpora.clips import Clip, as_clips, as_table, read_clips, write_clips
from audiolib.errors import AudiolibError
from audiolib.features import extract
from audiolib.files import read_json, sha256_file, write_json
from audiolib.frontend import Frontend, decode, log_mel
from audiolib.shards import ShardFolder
from tests.conftest import features_section


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir())}


def test_every_clip_is_there_once_with_its_own_log_mel(small_download, small_features):
    shards = ShardFolder(small_features)
    clips = {clip.id: clip for clip in as_clips(read_clips(small_download / "clips.parquet"))}
    seen = {}
    for split in ("train", "valid", "test"):
        for row in shards.rows(split):
            assert clips[row.id].split == split and clips[row.id].label == (shards.classes[row.label[0]],)
            seen[row.id] = row.log_mel
    assert set(seen) == set(clips)
    some = clips["trill_fast/0003"]
    expected = log_mel(decode(small_download / "audio" / some.path, 16000), Frontend(16000, 128, 25, 10))
    np.testing.assert_allclose(seen[some.id], expected, atol=0.01)  # Half precision of values to -16.


def test_statistics_are_those_of_the_training_split(small_features):
    values = np.concatenate([r.log_mel.astype(np.float64).ravel() for r in ShardFolder(small_features).rows("train")])
    stats = read_json(small_features / "stats.json")
    assert stats["mean"] == pytest.approx(values.mean()) and stats["std"] == pytest.approx(values.std())


def test_the_threads_of_the_process_are_what_they_were(small_download, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    extract(small_download, features_section(), tmp_path / "out", tmp_path / "scratch")
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_classes_are_mixed_over_a_shard(small_features):
    first = list(ShardFolder(small_features).rows("train"))[:20]
    assert len({row.label for row in first}) > 5


@pytest.mark.slow
def test_several_processes_give_the_same_bytes(small_download, small_features, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "_CLIPS_PER_WORKER", 50)
    monkeypatch.setattr(features.os, "cpu_count", lambda: 2)
    extract(small_download, features_section(), tmp_path / "out", tmp_path / "scratch")
    assert hashes(tmp_path / "out") == hashes(small_features)


def test_constants_that_no_paper_states_are_told_before_the_work(small_download, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "make_shard", lambda task: pytest.fail("log-mel was made first"))
    with pytest.raises(AudiolibError, match="normalisation"):
        extract(small_download, features_section(normalisation="paper"), tmp_path / "out", tmp_path / "scratch")


def dies_twice(task):
    """`make_shard` in a process that is killed, as one is when memory runs out."""
    deaths = Path(os.environ["DEATHS"])
    if task.path.name.endswith("00001.parquet") and len(deaths.read_text()) < 2:
        deaths.write_text(deaths.read_text() + "x")
        os.kill(os.getpid(), signal.SIGKILL)
    return features.make_shard(task)


@pytest.mark.slow
def test_a_process_that_dies_is_replaced(small_download, small_features, tmp_path, monkeypatch, capsys):
    (tmp_path / "deaths").write_text("")
    monkeypatch.setenv("DEATHS", str(tmp_path / "deaths"))
    monkeypatch.setattr(features, "_CLIPS_PER_WORKER", 50)
    monkeypatch.setattr(features.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(features, "make_shard", dies_twice)
    extract(small_download, features_section(), tmp_path / "out", tmp_path / "scratch")
    assert hashes(tmp_path / "out") == hashes(small_features)
    assert capsys.readouterr().err.count("doing them again") == 2
    monkeypatch.setattr(features, "_POOLS", 2)
    (tmp_path / "deaths").write_text("")
    with pytest.raises(AudiolibError, match="died 2 times"):
        extract(small_download, features_section(), tmp_path / "again", tmp_path / "scratch")


def test_an_interrupted_run_keeps_its_finished_shards(small_download, small_features, tmp_path, monkeypatch):
    real, made = features.make_shard, []

    def stops_at_the_third(task):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(task.path)
        return real(task)

    monkeypatch.setattr(features, "make_shard", stops_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        extract(small_download, features_section(), tmp_path / "out", tmp_path / "scratch")
    decoded = []
    real_decode = features.decode
    monkeypatch.setattr(features, "make_shard", real)
    monkeypatch.setattr(features, "decode", lambda path, *rest: decoded.append(path) or real_decode(path, *rest))
    extract(small_download, features_section(), tmp_path / "out", tmp_path / "scratch")
    assert len(decoded) == len(read_clips(small_download / "clips.parquet")) - 80
    assert hashes(tmp_path / "out") == hashes(small_features)
    assert not list((tmp_path / "scratch" / "features").iterdir())


@pytest.fixture
def mixed(tmp_path) -> Path:
    """A download folder with good clips and six kinds of bad ones."""
    folder = tmp_path / "download"
    (folder / "audio").mkdir(parents=True)
    good = np.random.default_rng(0).standard_normal(8000) * 0.1
    clips = []
    for i, split in enumerate(["train"] * 4 + ["valid"] * 2 + ["test"] * 2):
        soundfile.write(folder / "audio" / f"good{i}.wav", good, 16000)
        clips.append(Clip(f"good{i}", f"good{i}.wav", ("ab"[i % 2],), split))
    (folder / "audio" / "empty.wav").write_bytes(b"")
    (folder / "audio" / "text.wav").write_text("not audio")
    (folder / "audio" / "cut.wav").write_bytes((folder / "audio" / "good0.wav").read_bytes()[:3000])
    soundfile.write(folder / "audio" / "short.wav", good[:300], 16000)
    soundfile.write(folder / "audio" / "nan.wav", good * np.nan, 16000, subtype="FLOAT")
    for name in ("empty", "text", "cut", "short", "nan", "absent"):
        clips.append(Clip(name, f"{name}.wav", ("a",), "train"))
    write_clips(folder / "clips.parquet", as_table(clips))
    source = {"corpus": "folder", "multi_label": False, "frontend": None, "clips": len(clips), "files": "x"}
    source["list"] = sha256_file(folder / "clips.parquet")
    write_json(folder / "source.json", source)
    return folder


def test_all_bad_clips_are_reported_at_once(mixed, tmp_path, capfd):
    with pytest.raises(
        AudiolibError, match=r"6 clips cannot be used and features\.max_rejects is 5; the first is"
    ) as caught:
        extract(mixed, features_section(max_rejects=5), tmp_path / "out", tmp_path / "scratch")
    assert "\n" not in str(caught.value)
    said = capfd.readouterr().err
    for name, reason in [
        ("empty", "0 bytes"),
        ("text", "not readable"),
        ("cut", "cut short"),
        ("short", "one analysis window"),
        ("nan", "NaN"),
        ("absent", "does not exist"),
    ]:
        assert any(f"{name}.wav" in line and reason in line for line in said.splitlines())


def test_a_mended_clip_is_no_longer_rejected(mixed, tmp_path):
    with pytest.raises(AudiolibError, match="6 clips cannot be used"):
        extract(mixed, features_section(), tmp_path / "out", tmp_path / "scratch")
    shutil.copy(mixed / "audio" / "good0.wav", mixed / "audio" / "empty.wav")
    with pytest.raises(AudiolibError, match="5 clips cannot be used"):
        extract(mixed, features_section(), tmp_path / "out", tmp_path / "scratch")


def test_tolerated_bad_clips_are_put_aside(mixed, tmp_path):
    extract(mixed, features_section(max_rejects=6), tmp_path / "out", tmp_path / "scratch")
    rejects = pl.read_parquet(tmp_path / "out" / "rejects.parquet")
    assert sorted(rejects["id"]) == ["absent", "cut", "empty", "nan", "short", "text"]
    rows = [row for split in ("train", "valid", "test") for row in ShardFolder(tmp_path / "out").rows(split)]
    assert len(rows) == 8 and all(np.isfinite(row.log_mel).all() for row in rows)


def test_a_split_whose_clips_are_all_bad_is_an_error(mixed, tmp_path):
    for name in ("good6", "good7"):
        (mixed / "audio" / f"{name}.wav").write_bytes(b"")
    with pytest.raises(AudiolibError, match="the test split has no usable clip"):
        extract(mixed, features_section(max_rejects=99), tmp_path / "out", tmp_path / "scratch")


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_what_was_finished_is_kept(small_download, small_features, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    half = sum(path.stat().st_size for path in small_features.glob("**/part-*.parquet")) // 2
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={half}", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        with pytest.raises(AudiolibError, match=r"no space left on the disk while writing .*part-.*parquet"):
            extract(small_download, features_section(), tmp_path / "out", disk / "scratch")
        kept = list(disk.glob("scratch/features/*/part-*.parquet"))
        assert kept and not list(disk.glob("**/*.tmp"))
        moved = tmp_path / "scratch"
        shutil.copytree(disk / "scratch", moved)
    finally:
        subprocess.run(["umount", disk], check=True)
    extract(small_download, features_section(), tmp_path / "out", moved)
    assert hashes(tmp_path / "out") == hashes(small_features)
