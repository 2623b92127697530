"""Each corpus on a replica of its archive: labels, official splits, no group on two sides."""

import tarfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile

from audiolib.config.corpus import (
    DownloadSection,
    Esc50Source,
    FolderSource,
    FsddSource,
    MirroredArchive,
    SpeechCommandsSource,
    SyntheticSource,
)
from audiolib.corpora import speech_commands
from audiolib.corpora.clips import Clip, as_clips, read_clips
from audiolib.corpora.prepare import prepare
from audiolib.corpora.splits import split_groups
from audiolib.corpora.synthetic import CLASSES, make_clip
from audiolib.errors import AudiolibError
from audiolib.files import read_json, sha256_file
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


@pytest.fixture
def own(tmp_path) -> Path:
    folder = tmp_path / "own"
    for name in ("cat", "dog"):
        (folder / name / "deep").mkdir(parents=True)
        for i in range(6):
            (folder / name / ("deep" if i % 2 else "") / f"{i}.wav").write_bytes(replicas.wav_bytes())
    (folder / "cat" / "notes.txt").write_text("not audio")
    return folder


def test_a_folder_per_class(own, tmp_path):
    clips = clips_of(FolderSource(corpus="folder"), tmp_path, folder=str(own))
    assert Counter(c.label[0] for c in clips) == {"cat": 6, "dog": 6}
    assert {(c.label[0], c.split) for c in clips} == {
        (n, s) for n in ("cat", "dog") for s in ("train", "valid", "test")
    }
    assert all(Path(c.path).is_absolute() and Path(c.path).exists() for c in clips)


def test_a_changed_file_of_your_own_changes_what_later_stages_depend_on(own, tmp_path):
    source = FolderSource(corpus="folder")
    clips_of(source, tmp_path, folder=str(own))
    before = read_json(tmp_path / "out/source.json")["files"]
    soundfile.write(own / "cat" / "0.wav", np.zeros(9000), 16000)
    clips_of(source, tmp_path, folder=str(own))
    assert read_json(tmp_path / "out/source.json")["files"] != before


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_with_every_column(own, tmp_path, suffix):
    rows = [
        {
            "path": f"{name}/0.wav",
            "label": name,
            "split": split,
            "fold": 1,
            "group": f"g{i}",
            "start": 0.1 * i,
            "end": 0.1 * i + 0.05,
        }
        for name in ("cat", "dog")
        for i, split in enumerate(("train", "valid", "test"))
    ]
    table = pl.DataFrame(rows)
    table.write_csv(own / "t.csv") if suffix == "csv" else table.write_parquet(own / "t.parquet")
    clips = clips_of(FolderSource(corpus="folder", table=f"t.{suffix}"), tmp_path, folder=str(own))
    assert len({c.id for c in clips}) == 6 and clips[1].start == pytest.approx(0.1)
    assert {c.split for c in clips} == {"train", "valid", "test"} and clips[0].fold == 1


def folded(**columns: object) -> str:
    """A table of two clips of each file of `own`, a group, in three folds of two files a class; columns replaced."""
    rows = [
        {"path": f"{name}/{'deep/' if i % 2 else ''}{i}.wav", "label": name, "fold": 1 + i // 2, "group": f"{name}{i}",
         "start": start, **columns}
        for name in ("cat", "dog") for i in range(6) for start in (0.0, 0.05)
    ]  # fmt: skip
    return pl.DataFrame(rows).write_csv()


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_one_fold_of_your_own_table_is_the_test_and_the_others_are_for_training(own, tmp_path, fold):
    (own / "t.csv").write_text(folded().replace(",1,", ",1.0,"))
    source = FolderSource(corpus="folder", table="t.csv", fold=fold, valid_fraction=0.25)
    clips = clips_of(source, tmp_path, folder=str(own))
    assert all((clip.split == "test") == (clip.fold == fold) for clip in clips)
    assert all(len(found) == 1 for found in sides(clips).values())
    assert Counter((clip.label[0], clip.split) for clip in clips) == {
        (name, split): count for name in ("cat", "dog") for split, count in (("train", 6), ("valid", 2), ("test", 4))
    }


BAD_FOLDS = {
    "path,label\na.wav,cat": "1 clips of the table have no fold, the first is a.wav",
    "path,label,fold\na.wav,cat,1.5": "line 2: fold is '1.5', it must be a whole number",
    "path,label,fold\na.wav,cat,inf": "line 2: fold is 'inf', it must be a number from 0 on",
    "path,label,fold\na.wav,cat,3e9": "line 2: fold is '3e9', it must be a whole number",
    folded(fold=2): "source.fold is 2; the table has the folds 2",
    folded(fold=3): "source.fold is 2; the table has the folds 3",
    folded(split="train"): "the table has a column split, too",
    folded(group="g"): "group 'g' is in 1 and 2 and 3; keep it on one side",
}


@pytest.mark.parametrize("content", BAD_FOLDS)
def test_folds_that_cannot_be_are_one_line(own, tmp_path, content):
    (own / "t.csv").write_text(content)
    with pytest.raises(AudiolibError, match=BAD_FOLDS[content]) as caught:
        clips_of(FolderSource(corpus="folder", table="t.csv", fold=2), tmp_path, folder=str(own))
    assert "\n" not in str(caught.value)


def test_several_labels_per_clip(own, tmp_path):
    lines = [
        "path,label",
        *(f"cat/{'deep/' if i % 2 else ''}{i}.wav,{'cat;loud' if i < 3 else 'dog; loud'}" for i in range(6)),
    ]
    (own / "t.csv").write_text("\n".join(lines))
    clips = clips_of(FolderSource(corpus="folder", table="t.csv", multi_label=True), tmp_path, folder=str(own))
    assert {c.label for c in clips} == {("cat", "loud"), ("dog", "loud")}


BAD_TABLES = {
    "path;label\na.wav;cat": r"has no column 'path'; it has: path;label",
    "path,class\na.wav,cat": "has no column 'label'; it has: path, class",
    "path,label\na.wav,cat\nb.wav,": "line 3: the label of b.wav is missing",
    "path,label\n,cat": "line 2: the path is missing",
    "path,label,split\na.wav,cat,tset": "line 2: split is 'tset', it must be one of train, valid, test",
    "path,label,split\na.wav,cat,train\nb.wav,dog,": "1 rows have no split, the first is b.wav",
    "path,label,start\na.wav,cat,soon": "line 2: start is 'soon', it must be a number",
    "path,label\na.wav,cat\nb.wav,dog\nc.wav,dog\nd.wav,dog": "class 'cat' has 1 separate clip;",
    "path,label,split\na.wav,cat,train\nb.wav,dog,train\nc.wav,dog,valid": "the test split has no clip",
    "path,label,split\na.wav,cat,train\nb.wav,dog,test\nc.wav,cat,valid": "class 'dog' has no training clip",
    "path,label,split\na.wav,cat,train\nb.wav,cat,test\nc.wav,cat,valid": "at least two classes",
    "path,label\na.wav,cat\na.wav,cat\na.wav,cat\nb.wav,dog\nc.wav,dog\nd.wav,dog": "class 'cat' has 1 separate clip;",
    "path,label,start\na.wav,cat,nan": "line 2: start is 'nan', it must be a number from 0 on",
    "path,label,split,group\na.wav,cat,train,g\nb.wav,cat,test,g": "group 'g' is in test and train; keep it",
    "": "cannot read the table",
    "path,label\n" + '"unclosed': "cannot read the table|label",
}


@pytest.mark.parametrize("content", BAD_TABLES)
def test_a_bad_table_is_one_line(own, tmp_path, content):
    (own / "t.csv").write_text(content)
    with pytest.raises(AudiolibError, match=BAD_TABLES[content]) as caught:
        clips_of(FolderSource(corpus="folder", table="t.csv"), tmp_path, folder=str(own))
    assert "\n" not in str(caught.value)


def test_a_parquet_table_with_numbers_and_lists(own, tmp_path):
    rows = [{"path": f"cat/{i}.wav", "label": [i % 2], "group": i // 2} for i in range(12)]
    pl.DataFrame(rows).write_parquet(own / "t.parquet")
    clips = clips_of(FolderSource(corpus="folder", table="t.parquet"), tmp_path, folder=str(own))
    assert {c.label for c in clips} == {("0",), ("1",)} and {c.group for c in clips} == set("012345")
    assert all(len(found) == 1 for found in sides(clips).values())
    pl.DataFrame([{**row, "label": ["a", "b"]} for row in rows]).write_parquet(own / "t.parquet")
    with pytest.raises(AudiolibError, match=r"has 2 labels; set source\.multi_label: true"):
        clips_of(FolderSource(corpus="folder", table="t.parquet"), tmp_path, folder=str(own))


def test_clips_whose_label_sets_are_all_different_are_still_split():
    members = [(label, f"clip{i}") for i in range(60) for label in (f"a{i % 6}", f"b{i % 10}", f"c{i % 15}")]
    assert set(split_groups(members, valid=0.15, test=0.2).values()) == {"train", "valid", "test"}


def test_a_folder_that_is_missing_unset_or_empty_is_one_line(tmp_path):
    source = FolderSource(corpus="folder")
    with pytest.raises(AudiolibError, match=r"set download\.folder"):
        clips_of(source, tmp_path)
    with pytest.raises(AudiolibError, match="is not a folder"):
        clips_of(source, tmp_path, folder=str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudiolibError, match="has no <class>/<clip>"):
        clips_of(source, tmp_path, folder=str(tmp_path / "empty"))


def test_a_class_with_one_clip_is_named(own, tmp_path):
    (own / "bird").mkdir()
    (own / "bird" / "only.wav").write_bytes(replicas.wav_bytes())
    with pytest.raises(AudiolibError, match="class 'bird' has 1 separate clip;"):
        clips_of(FolderSource(corpus="folder"), tmp_path, folder=str(own))
