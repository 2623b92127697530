"""Corpora with published lists and clips of your own, on replicas in the upstream's layout."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from audiolib.config.corpus import (
    AudioSetSource,
    EpicSoundsSource,
    FrontendSection,
    VggSoundSource,
    VoxCeleb1Source,
)
from audiolib.corpora.normalisation import STATED
from audiolib.errors import AudiolibError
from audiolib.features import extract
from audiolib.files import read_json
from audiolib.shards import ShardFolder
from tests.conftest import features_section
from tests.corpora import replicas
from tests.corpora.test_corpora import clips_of, sides

AUDIOSET = AudioSetSource(corpus="audioset", train="balanced", valid_fraction=0.2, max_missing=0.3)
VGGSOUND = VggSoundSource(corpus="vggsound", valid_fraction=0.2, max_missing=0)
VOXCELEB = VoxCeleb1Source(corpus="voxceleb1", max_missing=0)
EPIC = EpicSoundsSource(
    corpus="epic_sounds",
    valid_fraction=0.3,
    max_missing=0,
    frontend=FrontendSection(kind="stft", sample_rate=24000, window_ms=10, hop_ms=5),
)


@pytest.mark.parametrize("train, count", [("balanced", 60), ("full", 120)])
def test_audioset_has_several_labels_a_clip_by_name_and_its_evaluation_list_as_test(tmp_path, train, count):
    source = AUDIOSET.model_copy(update={"train": train})
    clips = clips_of(source, tmp_path, folder=str(replicas.audioset(tmp_path / "as")))
    splits = Counter(clip.split for clip in clips)
    assert splits["test"] == 20 and splits["train"] + splits["valid"] == count and splits["valid"] > count / 10
    assert all(len(clip.label) == 2 and clip.seconds == 10 for clip in clips)
    assert {name for clip in clips for name in clip.label} == {"Speech", "Music", "Gasp", "Dog"}
    first = next(clip for clip in clips if clip.id == "-a_00000001_30")
    assert set(first.label) == {"Music", "Gasp"} and Path(first.path).name == "Y-a_00000001.wav"
    assert read_json(tmp_path / "out/source.json")["multi_label"] is True


def test_clips_that_are_missing_are_listed_counted_and_tolerated_up_to_a_limit(tmp_path):
    root = replicas.audioset(tmp_path / "as")
    for path in sorted((root / "clips" / "balanced_train").iterdir())[:20]:
        path.unlink()
    clips = clips_of(AUDIOSET, tmp_path, folder=str(root))
    assert len(clips) == 60
    listed = (tmp_path / "out/audio/missing.csv").read_text().splitlines()
    assert listed[0] == "id,split" and len(listed) == 21
    assert not {row.split(",")[0] for row in listed} & {clip.id for clip in clips}
    with pytest.raises(AudiolibError, match=r"20 of 80 clips have no audio file, the first is .* tolerates 10%"):
        clips_of(AUDIOSET.model_copy(update={"max_missing": 0.1}), tmp_path, folder=str(root))


def test_vggsound_keeps_its_test_and_holds_out_whole_videos(tmp_path):
    clips = clips_of(VGGSOUND, tmp_path, folder=str(replicas.vggsound(tmp_path / "vgg")))
    assert len(clips) == 80 and Counter(clip.split for clip in clips)["test"] == 16
    assert {clip.label[0] for clip in clips} == {"playing harp", "people eating, noisily"}
    assert all(len(found) == 1 for found in sides(clips).values())


def test_voxceleb1_has_its_identification_split(tmp_path):
    clips = clips_of(VOXCELEB, tmp_path, folder=str(replicas.voxceleb1(tmp_path / "vox")))
    assert Counter((clip.label[0], clip.split) for clip in clips) == {
        (who, split): 2 for who in ("id10001", "id10002") for split in ("train", "valid", "test")
    }
    assert all(Path(clip.path).parts[-3] == clip.label[0] for clip in clips)


def test_epic_sounds_cuts_pieces_and_has_its_own_front_end(tmp_path):
    clips = clips_of(EPIC, tmp_path, folder=str(replicas.epic_sounds(tmp_path / "epic")))
    assert len(clips) == 60 and Counter(clip.split for clip in clips)["test"] == 12
    assert all(len(found) == 1 for found in sides(clips).values())
    piece = next(clip for clip in clips if clip.id == "P02_101_3")
    assert (piece.start, piece.end, piece.label) == (1.5, pytest.approx(1.9), ("metal-only collision",))
    extract(tmp_path / "out", features_section(), tmp_path / "features", tmp_path / "scratch")
    shards = ShardFolder(tmp_path / "features")
    assert shards.frontend["sample_rate"] == 24000 and shards.frontend["kind"] == "stft"
    assert {row.log_mel.shape for row in shards.rows("test")} == {(81, 128)}  # 0.4 s at a hop of 5 ms


@pytest.mark.parametrize("name, stated", [("paper", [-8.660809, 3.878928]), ("elastic_ast", [-8.820385, 3.7790387])])
def test_stated_constants_replace_own_statistics(tmp_path, name, stated):
    clips_of(EPIC, tmp_path, folder=str(replicas.epic_sounds(tmp_path / "epic")))
    section = features_section(normalisation=name)
    extract(tmp_path / "out", section, tmp_path / "features", tmp_path / "scratch")
    stats = ShardFolder(tmp_path / "features").stats
    np.testing.assert_allclose([stats["mean"], stats["std"]], stated)


def test_every_recipe_of_constants_can_be_chosen():
    for name in STATED:
        assert features_section(normalisation=name).normalisation == name


BAD = {
    "no list": ("eval_segments.csv", None, r"has no eval_segments\.csv, which AudioSet is published with"),
    "not a segment": ("eval_segments.csv", "# x\nabc, 1, 2", "not a segment: 'abc, 1, 2'"),
    "unknown label": (
        "eval_segments.csv",
        '-a_00000200, 0.0, 10.0, "/m/0"',
        "has a label that ontology.json lacks: /m/0",
    ),
    "no ontology": ("ontology.json", "{", "is not the AudioSet ontology"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_list_is_one_line(tmp_path, case):
    name, content, said = BAD[case]
    root = replicas.audioset(tmp_path / "as")
    (root / name).unlink() if content is None else (root / name).write_text(content)
    with pytest.raises(AudiolibError, match=said) as caught:
        clips_of(AUDIOSET, tmp_path, folder=str(root))
    assert "\n" not in str(caught.value)


def test_lists_of_the_other_corpora_are_checked_too(tmp_path):
    makers = (replicas.vggsound, replicas.voxceleb1, replicas.epic_sounds)
    vgg, vox, epic = (make(tmp_path / make.__name__) for make in makers)
    (vgg / "vggsound.csv").write_text("a,soon,harp,train\n")
    (vox / "iden_split.txt").write_text("4 id1/v/1.wav\n")
    (epic / "EPIC_Sounds_validation.csv").write_text("annotation_id,video_id\n1,2\n")
    for source, root, said in (
        (VGGSOUND, vgg, "not a clip: a,soon,harp,train"),
        (VOXCELEB, vox, "not a clip: '4 id1/v/1.wav'"),
        (EPIC, epic, "has no column 'start_timestamp'"),
    ):
        with pytest.raises(AudiolibError, match=said):
            clips_of(source, tmp_path, folder=str(root))
    with pytest.raises(AudiolibError, match=r"VoxCeleb1 has no free download: set download\.folder"):
        clips_of(VOXCELEB, tmp_path)
