"""Whatever bytes a file holds, the user gets a result or one line: never a traceback."""

import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from audiolib.config.corpus import AudioSetSource, DownloadSection, EpicSoundsSource, FolderSource, VggSoundSource
from audiolib.config.project import check
from audiolib.corpora import audioset, epic_sounds, folder, vggsound
from audiolib.corpora.archives import extract
from audiolib.corpora.clips import SCHEMA
from audiolib.errors import AudiolibError
from audiolib.frontend import BadClip, decode
from tests.conftest import ROOT
from tests.corpora import replicas

# `python -m audiolib.reliability fuzz` asks for more than a test may take, and for others each time.
MORE = int(os.environ.get("AUDIOLIB_FUZZ_EXAMPLES", "0"))
FUZZ = settings(max_examples=MORE or 150, deadline=None, derandomize=not MORE, suppress_health_check=list(HealthCheck))
# Flips, cuts and insertions in something that was whole once reach deeper than noise does.
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 2), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4
)
CELLS = st.sampled_from(["", "a.wav", "cat", "cat;dog", "nan", "-1", "1e999", "train", "tset", '"', "\x00", "é", " "])
TABLES = st.lists(st.lists(CELLS, min_size=1, max_size=5).map(",".join), max_size=6).map("\n".join)


def edited(whole: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    for place, kind, piece in edits:
        at = int(place * len(whole))
        whole = whole[:at] + (piece, b"", piece)[kind] + whole[at + (len(piece) if kind < 2 else 0) :]
    return whole


def one_line(error: AudiolibError) -> bool:
    return bool(str(error).strip()) and "\n" not in str(error)


def is_clip_list(table: pl.DataFrame) -> bool:
    """What the feature stage can go on with."""
    whole = table.schema == pl.Schema(SCHEMA) and table["id"].null_count() == table["path"].null_count() == 0
    return whole and set(table["split"]) <= {"train", "valid", "test"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("own")
    (place / "a.wav").write_bytes(replicas.wav_bytes())
    return place


@FUZZ
@given(text=st.one_of(TABLES, st.binary(max_size=60)), multi=st.booleans())
@example(text="path,label\na.wav,", multi=True)
def test_a_table_of_clips(clips, text, multi):
    (clips / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    section = DownloadSection(mirror=None, sha256=None, folder=str(clips))
    try:
        found = folder.fetch(FolderSource(corpus="folder", table="t.csv", multi_label=multi), section, clips, clips)
        assert is_clip_list(found)
    except AudiolibError as error:
        assert one_line(error)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "configs", place / "configs")
    return place


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)


@FUZZ
@given(data=st.data())
def test_parameters(project, data):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    section = data.draw(st.sampled_from([*params, None]))
    if section is not None and isinstance(params[section], dict):
        params[section][data.draw(st.sampled_from([*params[section], "new"]))] = data.draw(VALUES)
    else:
        params[section] = data.draw(VALUES)
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    try:
        check(project)
    except AudiolibError as error:
        assert one_line(error)


@FUZZ
@given(edits=EDITS)
def test_parameters_as_text(project, edits):
    (project / "params.yaml").write_bytes(edited((ROOT / "params.yaml").read_bytes(), edits))
    try:
        check(project)
    except AudiolibError as error:
        assert one_line(error)


def _tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as bundle:
        for name in ("a/one.txt", "a/two.txt"):
            info = tarfile.TarInfo(name)
            info.size = 700
            bundle.addfile(info, io.BytesIO(bytes(700)))
    return out.getvalue()


def _zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name in ("a/one.txt", "a/two.txt"):
            bundle.writestr(name, bytes(range(256)) * 3)
    return out.getvalue()


@FUZZ
@given(edits=EDITS, whole=st.sampled_from([_tar(), _zip()]))
def test_archives(tmp_path_factory, edits, whole):
    place = tmp_path_factory.mktemp("archive")
    (place / "x").write_bytes(edited(whole, edits))
    try:
        extract(place / "x", place / "out", "test")
    except AudiolibError as error:
        assert one_line(error)
    assert {path.name for path in place.iterdir()} <= {"x", "out"}  # Nothing was written beside its folder.


@FUZZ
@given(edits=EDITS)
def test_wav_files(clips, edits):
    (clips / "b.wav").write_bytes(edited(replicas.wav_bytes(0.05), edits))
    try:
        samples = decode(clips / "b.wav", 16000)
    except BadClip as error:
        assert one_line(error)
    else:
        assert samples.dtype == np.float32 and np.isfinite(samples).all()


LISTED = {
    "audioset": (
        replicas.audioset,
        "eval_segments.csv",
        audioset,
        AudioSetSource(corpus="audioset", train="balanced", valid_fraction=0.1, max_missing=0.9),
    ),
    "ontology": (
        replicas.audioset,
        "ontology.json",
        audioset,
        AudioSetSource(corpus="audioset", train="balanced", valid_fraction=0.1, max_missing=0.9),
    ),
    "vggsound": (
        replicas.vggsound,
        "vggsound.csv",
        vggsound,
        VggSoundSource(corpus="vggsound", valid_fraction=0.1, max_missing=0.9),
    ),
    "epic_sounds": (
        replicas.epic_sounds,
        "EPIC_Sounds_train.csv",
        epic_sounds,
        EpicSoundsSource(corpus="epic_sounds", valid_fraction=0.1, max_missing=0.9),
    ),
}


@pytest.mark.parametrize("name", LISTED)
def test_published_lists(tmp_path_factory, name):
    make, file, module, source = LISTED[name]
    place = make(tmp_path_factory.mktemp(name) / "own")
    whole = (place / file).read_bytes()
    section = DownloadSection(mirror=None, sha256=None, folder=str(place))

    @settings(FUZZ, max_examples=MORE or 60)
    @example(edits=[(0.307936032946689, 0, b"\x00\x00")])  # A cell became empty.
    @given(edits=EDITS)
    def tries(edits):
        (place / file).write_bytes(edited(whole, edits))
        try:
            assert is_clip_list(module.fetch(source, section, place.parent, place.parent))
        except AudiolibError as error:
            assert one_line(error)

    tries()
