"""Each corpus on a replica of its archive: labels, official splits, no group on two sides."""

import tarfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from audiolib.config.corpus import (
    DownloadSection,
    Esc50Source,
    FsddSource,
    MirroredArchive,
    SpeechCommandsSource,
    SyntheticSource,
)
from audiolib.corpora import speech_commands, synthetic
from audiolib.corpora.clips import Clip, as_clips, read_clips
from audiolib.corpora.prepare import prepare
from audiolib.corpora.splits import split_groups
from audiolib.corpora.synthetic import CLASSES, make_clip
from audiolib.errors import AudiolibError
from audiolib.files import sha256_file
from tests.corpora import replicas


def clips_of(source, place: Path, archive: Path | None = None, **section: object) -> list[Clip]:
    if archive is not None:
        known = MirroredArchive(file=archive.name, sha256=sha256_file(archive))
        source = source.model_copy(update={"mirrored": known})
        section["mirror"] = str(archive.parent)
    settings = DownloadSection(**{"mirror": None, "sha256": None, "folder": None, **section})
    prepare(source, settings, place / "out", place / "store")
    return list(as_clips(read_clips(place / "out" / "clips.parquet")))


def sides(clips: list[Clip]) -> dict[str | None, set[str]]:
    found = defaultdict(set)
    for clip in clips:
        found[clip.group].add(clip.split)
    return found


def test_fsdd_has_its_official_test_and_a_validation_balanced_over_speakers(tmp_path):
    clips = clips_of(FsddSource(corpus="fsdd"), tmp_path, replicas.fsdd(tmp_path / "f.tar.gz"))
    assert len(clips) == 240 and {c.label[0] for c in clips} == set("0123456789")
    for clip in clips:
        index = int(clip.id.rsplit("_", 1)[1])
        assert (clip.split == "test") == (index < 5)
    valid = Counter((c.label[0], c.group) for c in clips if c.split == "valid")
    assert len(valid) == 20 and set(valid.values()) == {5}
    assert all((tmp_path / "out/audio" / c.path).exists() for c in clips)


def test_speech_commands_test_archive_is_split_by_speaker(tmp_path):
    source = SpeechCommandsSource(corpus="speech_commands", variant="test12")
    clips = clips_of(source, tmp_path, replicas.speech_commands_test(tmp_path / "s.tar.gz"))
    assert {c.label[0] for c in clips} == {"yes", "no", "_unknown_", "_silence_"} and len(clips) == 120
    assert all(len(found) == 1 for found in sides(clips).values())
    assert {(c.label[0], c.split) for c in clips} == {
        (n, s) for n in ("yes", "no", "_unknown_", "_silence_") for s in ("train", "valid", "test")
    }


def test_a_part_of_speech_commands_is_the_same_from_the_whole_archive(tmp_path, monkeypatch):
    whole = replicas.speech_commands_test(tmp_path / "whole.tar.gz")
    with tarfile.open(whole) as bundle:
        names = sorted(name.removeprefix("./") for name in bundle.getnames() if name.endswith(".wav"))
        part = replicas.tar(
            tmp_path / "part.tar.gz", {f"./{n}": bundle.extractfile(f"./{n}").read() for n in names[::2]}
        )
    monkeypatch.setattr(speech_commands, "PART", tmp_path / "part.txt")
    speech_commands.PART.write_text("\n".join(names[::2]))
    source = SpeechCommandsSource(corpus="speech_commands", variant="part12")
    found = [clips_of(source, tmp_path / archive.stem, archive) for archive in (whole, part)]
    assert found[0] == found[1] and len(found[0]) == 60
    places = [tmp_path / archive.stem / "out/audio" for archive in (whole, part)]
    held = [{path.relative_to(place) for path in place.rglob("*.wav")} for place in places]
    assert held[0] == held[1] and len(held[0]) == 60
    speech_commands.PART.write_text("\n".join([*names, "yes/absent_nohash_0.wav"]))
    with pytest.raises(AudiolibError, match=r"lacks 1 of the 121 clips in part\.txt, among them yes/absent"):
        clips_of(source, tmp_path / "again", whole)


def test_the_part_of_speech_commands_lists_clips_of_twelve_classes():
    names = speech_commands.PART.read_text().split()
    assert len(names) == len(set(names)) == 1449 and names == sorted(names)
    assert Counter(name.split("/")[0] for name in names).keys() >= {"_silence_", "_unknown_", "yes", "no"}
    assert len({name.split("/")[0] for name in names}) == 12


def test_speech_commands_full_archive_has_its_official_lists(tmp_path):
    source = SpeechCommandsSource(corpus="speech_commands", variant="full")
    clips = clips_of(source, tmp_path, replicas.speech_commands_full(tmp_path / "s.tar.gz"))
    assert {c.label[0] for c in clips} == {"yes", "no", "bed"} and len(clips) == 18
    expected = {"00000004": "valid", "00000005": "test"}
    assert all(c.split == expected.get(c.group, "train") for c in clips)


@pytest.mark.parametrize("fold", [1, 5])
def test_esc50_tests_on_one_official_fold_and_keeps_recordings_together(tmp_path, fold):
    clips = clips_of(Esc50Source(corpus="esc50", fold=fold), tmp_path, replicas.esc50(tmp_path / "e.zip"))
    assert len(clips) == 60 and all((c.split == "test") == (c.fold == fold) for c in clips)
    assert all(len(found) == 1 for found in sides(clips).values())
    assert Counter(c.split for c in clips if c.label == ("dog",))["valid"] == 2


def test_an_archive_of_another_corpus_is_refused(tmp_path):
    archive = replicas.tar(tmp_path / "x.tar.gz", {"readme": b"text"})
    for source in (
        FsddSource(corpus="fsdd"),
        Esc50Source(corpus="esc50", fold=1),
        SpeechCommandsSource(corpus="speech_commands", variant="test12"),
    ):
        with pytest.raises(AudiolibError, match="is it another archive"):
            clips_of(source, tmp_path, archive)


def test_synthetic_clips_depend_on_the_seed_alone_and_vary_in_length(tmp_path):
    one, again, other = (make_clip("sweep_up", 4, seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one[:1000], other[:1000])
    clips = clips_of(SyntheticSource(corpus="synthetic", clips_per_class=12, seed=1), tmp_path)
    assert {c.label[0] for c in clips} == set(CLASSES) and len(CLASSES) >= 10
    lengths = [c.seconds for c in clips]
    assert min(lengths) < 0.8 and max(lengths) > 2
    assert Counter(c.split for c in clips) == {"train": 8 * 12, "valid": 2 * 12, "test": 2 * 12}


def test_groups_are_never_split_and_every_class_is_everywhere():
    members = [(f"class{i % 4}", f"group{i % 31}") for i in range(400)]
    split = split_groups(members, valid=0.2, test=0.2)
    assert set(split) == {f"group{i}" for i in range(31)}
    for label in {label for label, _ in members}:
        assert {split[group] for name, group in members if name == label} == {"train", "valid", "test"}


def test_adding_a_class_moves_no_clip_of_another():
    members = [("a", f"a{i}") for i in range(20)]
    before = split_groups(members, valid=0.2, test=0.2)
    after = split_groups([*members, *(("b", f"b{i}") for i in range(9))], valid=0.2, test=0.2)
    assert all(after[group] == side for group, side in before.items())


def test_clips_whose_label_sets_are_all_different_are_still_split():
    members = [(label, f"clip{i}") for i in range(60) for label in (f"a{i % 6}", f"b{i % 10}", f"c{i % 15}")]
    assert set(split_groups(members, valid=0.15, test=0.2).values()) == {"train", "valid", "test"}


def test_a_full_disk_is_one_line(tmp_path):
    clip = tmp_path / "audio" / next(iter(CLASSES)) / "0000.wav"
    clip.parent.mkdir(parents=True)
    clip.symlink_to("/dev/full")
    source = SyntheticSource(corpus="synthetic", clips_per_class=12, seed=1)
    with pytest.raises(AudiolibError, match="no space left on the disk"):
        synthetic.fetch(source, DownloadSection(mirror=None, sha256=None, folder=None), tmp_path / "audio", tmp_path)
