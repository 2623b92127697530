"""Where the clips come from (`configs/data/<name>.yaml`), how they are fetched and turned into log-mel."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from audiolib.config.strict import Section

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class MirroredArchive(Section):
    """An archive that only a mirror folder has, accepted because its hash is written in the preset."""

    file: str
    sha256: Sha256


class SyntheticSource(Section):
    """Clips generated from a seed; no download."""

    corpus: Literal["synthetic"]
    clips_per_class: Annotated[int, Field(ge=10)]
    seed: Annotated[int, Field(ge=0)]


class FsddSource(Section):
    """Free Spoken Digit Dataset, official split."""

    corpus: Literal["fsdd"]
    mirrored: MirroredArchive | None = None


class SpeechCommandsSource(Section):
    """Google Speech Commands v0.02.

    `full` has 35 words and official lists, `test12` is the 12-class test archive, `part12` a listed part of it.
    """

    corpus: Literal["speech_commands"]
    variant: Literal["full", "test12", "part12"]
    mirrored: MirroredArchive | None = None


class Esc50Source(Section):
    """ESC-50; `fold` (1 to 5) is the official test fold."""

    corpus: Literal["esc50"]
    fold: Annotated[int, Field(ge=1, le=5)]
    mirrored: MirroredArchive | None = None


class FolderSource(Section):
    """Your own clips: `download.folder` has one folder per class, or `table` names a CSV or Parquet in it.

    `fold` is the test fold of a table with a column of that name; the other folds train and validate.
    """

    corpus: Literal["folder"]
    table: str | None = None
    fold: Annotated[int, Field(ge=0)] | None = None
    multi_label: bool = False
    label_separator: Annotated[str, Field(min_length=1)] = ";"
    valid_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.15
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2

    @model_validator(mode="after")
    def _what_needs_a_table(self) -> "FolderSource":
        if self.multi_label and self.table is None:
            raise ValueError("multi_label needs a table: a folder per class gives each clip one label")
        if self.fold is not None and self.table is None:
            raise ValueError("fold needs a table with a column of that name")
        return self


class FrontendSection(Section):
    """A corpus' own front end, in place of that of `features`: `kaldi` (AST's) or `stft` (papers.md 4.3)."""

    kind: Literal["kaldi", "stft"]
    sample_rate: PositiveInt
    window_ms: PositiveFloat
    hop_ms: PositiveFloat


class LocalSource(Section):
    """A corpus without a free download: `download.folder` has its published lists and the clips that you have.

    `max_missing` is the share of listed clips that may lack a file; `valid_fraction`, where there is one, the share of
    the training recordings that is held out because the corpus has no validation list.
    """

    max_missing: Annotated[float, Field(ge=0, lt=1)]


class AudioSetSource(LocalSource):
    """AudioSet; `train` says which of the two training lists: the balanced one, or both."""

    corpus: Literal["audioset"]
    train: Literal["balanced", "full"]
    valid_fraction: Annotated[float, Field(gt=0, lt=1)]
    multi_label: Literal[True] = True


class VggSoundSource(LocalSource):
    """VGGSound."""

    corpus: Literal["vggsound"]
    valid_fraction: Annotated[float, Field(gt=0, lt=1)]


class VoxCeleb1Source(LocalSource):
    """VoxCeleb1, the identification split."""

    corpus: Literal["voxceleb1"]


class EpicSoundsSource(LocalSource):
    """EPIC-SOUNDS, recognition."""

    corpus: Literal["epic_sounds"]
    valid_fraction: Annotated[float, Field(gt=0, lt=1)]
    frontend: FrontendSection | None = None


ArchiveSource = FsddSource | SpeechCommandsSource | Esc50Source
ListedSource = AudioSetSource | VggSoundSource | VoxCeleb1Source | EpicSoundsSource
Source = Annotated[SyntheticSource | ArchiveSource | ListedSource | FolderSource, Field(discriminator="corpus")]


class DataPreset(Section):
    """One file of `configs/data`.

    `seconds` is the training length, `eval_seconds` the lengths to compare at. `epochs_scale` multiplies the epochs of
    every phase: a corpus of a thousand clips needs more passes than one of a million.
    """

    source: Source
    seconds: PositiveFloat
    eval_seconds: Annotated[list[PositiveFloat], Field(min_length=1)]
    epochs_scale: PositiveInt


class DownloadSection(Section):
    """`download` in params.yaml."""

    mirror: str | None
    sha256: Sha256 | None
    folder: str | None


class FeaturesSection(Section):
    """`features` in params.yaml: the log-mel front end (papers.md 1.1) and the shape of the shards."""

    sample_rate: PositiveInt
    mel_bins: Annotated[int, Field(ge=8, le=512)]
    window_ms: PositiveFloat
    hop_ms: PositiveFloat
    waveform: bool
    normalisation: Literal["own", "paper", "elastic", "elastic_ast", "elastic_weighted", "flexi_time"]
    clips_per_shard: PositiveInt
    max_rejects: Annotated[int, Field(ge=0)]
