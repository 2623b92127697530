"""Your own audio: a folder for each class, or a table with any of the columns; bad ones are one line."""

import os
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile

from audiolib.config.corpus import FolderSource
from audiolib.corpora.splits import split_groups
from audiolib.errors import AudiolibError
from audiolib.files import files_below, read_json
from tests.corpora import replicas
from tests.corpora.test_corpora import clips_of, sides


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


@pytest.mark.parametrize("seed", range(5))
def test_with_several_labels_a_clip_every_class_has_a_training_clip(seed):
    """Labels as rare as words are: of 200, the rarest have a handful of 2,000 clips."""
    random, shares = np.random.default_rng(seed), 1 / np.arange(1, 201)
    members = [
        (f"l{label:03d}", f"clip{clip}")
        for clip in range(2000)
        for label in random.choice(200, random.integers(1, 5), replace=False, p=shares / shares.sum())
    ]
    split = split_groups(members, valid=0.15, test=0.15, several_labels=True)
    sides = defaultdict(set)
    for label, clip in members:
        sides[label].add(split[clip])
    assert all("train" in found for found in sides.values())
    counts = Counter(split.values())
    assert 0.1 < counts["test"] / len(split) < 0.25 and 0.1 < counts["valid"] / len(split) < 0.25


def test_a_class_whose_clips_others_would_have_for_the_test_keeps_one():
    rare = [(f"a{label}", f"clip {label} {n}") for label in range(3) for n in range(3)]
    taken = [clip for clip, side in split_groups(rare, 0.2, 0.2, several_labels=True).items() if side == "test"]
    split = split_groups([*rare, *(("z", clip) for clip in taken)], 0.2, 0.2, several_labels=True)
    assert len(taken) == 3 and "train" in {split[clip] for clip in taken}


def test_a_name_that_is_no_utf8_is_one_line(own, tmp_path):
    (own / "cat" / os.fsdecode(b"h\xfcnd.wav")).write_bytes(replicas.wav_bytes())
    with pytest.raises(AudiolibError, match=r"h\\xfcnd\.wav' has a name that is not UTF-8; rename it"):
        clips_of(FolderSource(corpus="folder"), tmp_path, folder=str(own))


def test_labels_of_a_list_are_a_set_of_words(own, tmp_path):
    rows = [
        {"path": f"{name}/{i}.wav", "label": labels}
        for name, labels in (("cat", ["b ", "b"]), ("dog", [None, "a", ""]))
        for i in (0, 2, 4)
    ]
    pl.DataFrame(rows).write_parquet(own / "t.parquet")
    source = FolderSource(corpus="folder", table="t.parquet", multi_label=True)
    assert {clip.label for clip in clips_of(source, tmp_path, folder=str(own))} == {("a",), ("b",)}


def test_what_is_found_and_what_is_not_is_told(own, tmp_path, capsys):
    """Links are followed, but not in a circle; what is hidden or no sound makes no class."""
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(own / "cat", elsewhere)
    (own / "cat" / "more").symlink_to(elsewhere)
    (own / "sheep").symlink_to(elsewhere)
    (own / "cat" / "round").symlink_to(own)
    shutil.copytree(own / "cat", own / ".ipynb_checkpoints", symlinks=True)
    shutil.copytree(own / "dog", own / "__MACOSX")
    (own / "dog" / "notes.txt").touch()
    clips = clips_of(FolderSource(corpus="folder"), tmp_path, folder=str(own))
    counts = Counter(clip.label[0] for clip in clips)
    assert counts["cat"] == 2 * counts["sheep"] and set(counts) == {"cat", "dog", "sheep"}
    told = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    assert f"clips in 3 classes: {told}; left out: 4 .txt" in capsys.readouterr().err


def test_links_that_lead_to_each_other_end(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.wav").touch()
        (tmp_path / name / "x").symlink_to(tmp_path / other)
        (tmp_path / name / "y").symlink_to(tmp_path / other)
    found = [str(path.relative_to(tmp_path)) for path in files_below(tmp_path)]
    assert sorted(found) == ["a/a.wav", "a/x/b.wav", "a/y/b.wav", "b/b.wav", "b/x/a.wav", "b/y/a.wav"]


def test_absolute_paths_of_a_table_in_a_folder_of_its_own(own, tmp_path):
    (own / "meta").mkdir()
    rows = [{"path": str(own / f"{name}/{i}.wav"), "label": name} for name in ("cat", "dog") for i in (0, 2, 4)]
    pl.DataFrame(rows).write_csv(own / "meta" / "t.csv")
    clips = clips_of(FolderSource(corpus="folder", table="meta/t.csv"), tmp_path, folder=str(own))
    assert sorted(clip.path for clip in clips) == sorted(row["path"] for row in rows)


def test_a_class_that_cannot_be_read_is_no_small_thing(own, tmp_path):
    (own / "cow").mkdir()
    (own / "cow" / "moo.m4a").touch()
    with pytest.raises(AudiolibError, match=r"cow has no clip: 1 of its files are \.m4a, .* convert them"):
        clips_of(FolderSource(corpus="folder"), tmp_path, folder=str(own))


def test_a_file_by_two_spellings_is_one_file(own, tmp_path):
    """Else it might be trained on and tested with."""
    names = [f"{name}/{'deep/' if i % 2 else ''}{i}.wav" for name in ("cat", "dog") for i in range(6)]
    twice = names + [f"./{name}" for name in names[:3]] + [str(own / name) for name in names[3:6]]
    rows = [
        {"path": path, "label": "cat" if "cat" in path else "dog", "start": n / 100} for n, path in enumerate(twice)
    ]
    (own / "t.csv").write_text(pl.DataFrame(rows).write_csv() + ",,\n\n")
    clips = clips_of(FolderSource(corpus="folder", table="t.csv"), tmp_path, folder=str(own))
    files = defaultdict(set)
    for clip in clips:
        files[clip.path].add(clip.split)
    assert len(clips) == 18 and len(files) == 12 and all(len(split) == 1 for split in files.values())


BAD_CELLS = {
    "path,label,start,end\na.wav,cat,0.5,0.2": "line 2: end is 0.2, it must be after start",
    "path,label,end\na.wav,cat,0": "line 2: end is 0, it must be after start",
    "path,label\na.wav,": "line 2: the label of a.wav is missing; give clips of no class one of their own",
}


@pytest.mark.parametrize("content", BAD_CELLS)
def test_a_table_that_cannot_be_is_one_line(own, tmp_path, content):
    (own / "t.csv").write_text(content)
    with pytest.raises(AudiolibError, match=BAD_CELLS[content]):
        clips_of(FolderSource(corpus="folder", table="t.csv", multi_label=True), tmp_path, folder=str(own))


def test_a_table_in_another_encoding_says_what_to_do(own, tmp_path):
    (own / "t.csv").write_text("path,label\ncat/0.wav,cat\n", encoding="utf-16-le")
    with pytest.raises(AudiolibError, match=r"no column 'path'; it has: path, ?label; save it as UTF-8"):
        clips_of(FolderSource(corpus="folder", table="t.csv"), tmp_path, folder=str(own))
