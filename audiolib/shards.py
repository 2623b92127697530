"""Log-mel on disk: the one Parquet schema, written and read only here.

A row is a clip. The log-mel is a list of float16 with its bytes split by place and compressed (35 MB where plain
float32 takes 90), in row groups of 16 clips for random access. Where asked for, the 16-bit sound lies beside it, as
differences of neighbours: together they take 2.4 times the space of the log-mel alone. Every page carries a checksum,
and the index a sha256 of every file: without verification a flipped byte would be read as wrong numbers, silently.
"""

import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from audiolib.errors import AudiolibError
from audiolib.files import atomic_path, read_sealed, sha256_file

SCHEMA_VERSION = 2
ROWS_PER_GROUP = 16
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.list_(pa.int16())),
        ("frames", pa.int32()),
        ("log_mel", pa.list_(pa.float16())),
    ]
)
_WAVE = pa.field("wave", pa.list_(pa.int16()))


@dataclass(frozen=True)
class Row:
    """One clip in a shard: `label` indexes the class list, `log_mel` is (t, f), `wave` (l,) int16 or null."""

    id: str
    label: tuple[int, ...]
    log_mel: np.ndarray
    wave: np.ndarray | None = None


@dataclass(frozen=True)
class ShardInfo:
    """What the index says of one shard; `total` and `squares` are sums over all values, for the statistics."""

    file: str
    split: str
    clips: int
    frames: int
    total: float
    squares: float
    sha256: str


class Names(Sequence[str]):
    """The ids of millions of clips, without an object for each."""

    def __init__(self, array: pa.Array) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, place: int) -> str:
        return self.array[place].as_py()

    def __iter__(self) -> Iterator[str]:
        yield from self.array.to_pylist()


@dataclass(frozen=True)
class Facts:
    """What is known of all clips of a split: see `dataset.Clips`."""

    frames: np.ndarray
    labels: np.ndarray
    label_ends: np.ndarray
    names: Names
    keys: np.ndarray
    groups: np.ndarray

    @classmethod
    def of(cls, table: pa.Table, shards: list[int]) -> "Facts":
        """Of a table with the columns id, label and frames of shards with so many clips each."""
        label = table["label"].combine_chunks()
        firsts = np.cumsum([0, *shards])
        starts = [np.arange(first, last, ROWS_PER_GROUP) for first, last in pairwise(firsts)]
        names = table["id"].combine_chunks()
        return cls(
            frames=table["frames"].to_numpy(),
            labels=label.values.to_numpy(),
            label_ends=label.offsets.to_numpy(),
            names=Names(names),
            keys=np.fromiter((zlib.crc32(name.as_buffer()) for name in names), np.uint32, len(names)),
            groups=np.concatenate([*starts, [firsts[-1]]]),
        )


def write_shard(path: Path, split: str, rows: list[Row], header: dict[str, Any]) -> ShardInfo:
    """Write one shard atomically; equal rows and header give equal bytes."""
    import torch  # Numpy halves floats one by one, a tenth of the whole work of a clip. Readers need no torch.

    values = [torch.from_numpy(row.log_mel).half().numpy() for row in rows]
    total = squares = 0.0
    for value in values:
        wide = value.astype(np.float64)
        total, squares = total + float(wide.sum()), squares + float(np.square(wide, out=wide).sum())
    frames = sum(len(value) for value in values)
    sums = {"split": split, "clips": len(rows), "frames": frames, "total": total, "squares": squares}
    table = pa.table(
        {
            "id": pa.array([row.id for row in rows], pa.string()),
            "label": pa.array([list(row.label) for row in rows], pa.list_(pa.int16())),
            "frames": pa.array([len(value) for value in values], pa.int32()),
            "log_mel": _lists([value.ravel() for value in values], np.float16),
        }
    ).cast(_SCHEMA)
    if header.get("waveform"):
        table = table.append_column(_WAVE, _lists([row.wave for row in rows if row.wave is not None], np.int16))
    stamp = json.dumps({"schema": SCHEMA_VERSION, **header, **sums}, sort_keys=True)
    table = table.replace_schema_metadata({"audiolib": stamp})
    lists = [name for name in table.column_names if name in _ENCODING]
    with atomic_path(path) as temporary:
        pq.write_table(
            table,
            temporary,
            row_group_size=ROWS_PER_GROUP,
            compression="zstd",
            compression_level=1,
            use_dictionary=False,
            write_statistics=False,
            column_encoding={f"{name}.list.element": _ENCODING[name] for name in lists},
            write_page_checksum=True,
        )
    return ShardInfo(file=path.name, sha256=sha256_file(path), **sums)


_ENCODING = {"log_mel": "BYTE_STREAM_SPLIT", "wave": "DELTA_BINARY_PACKED"}


def _lists(values: list[np.ndarray], kind: type[np.generic]) -> pa.ListArray:
    offsets = np.cumsum([0, *(value.size for value in values)], dtype=np.int64)
    if offsets[-1] > np.iinfo(np.int32).max:  # Larger ones would wrap around without a word.
        raise AudiolibError(f"{len(values)} clips are too long for one shard; set features.clips_per_shard lower")
    flat = np.concatenate(values) if values else np.empty(0, kind)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat))


def finished_shard(path: Path, header: dict[str, Any]) -> ShardInfo | None:
    """The entry of a shard that an interrupted run left behind; null if absent, damaged or of other settings."""
    try:
        stamp = json.loads(pq.read_metadata(path).metadata[b"audiolib"])
        _read_table(path)
    except (OSError, pa.ArrowException, KeyError, ValueError, AudiolibError):
        return None
    if any(stamp.get(key) != value for key, value in header.items()):
        return None
    sums = {key: stamp[key] for key in ("split", "clips", "frames", "total", "squares")}
    return ShardInfo(file=path.name, sha256=sha256_file(path), **sums)


def _read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns, page_checksum_verification=True, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


_MEND = "delete data/features and run `dvc repro features`"
_MOST_OPEN = 64  # Files of a folder; a process may often have 1,024, and AudioSet has four times as many shards.


def _unreadable(path: Path, error: Exception) -> AudiolibError:
    """What the system refuses (its errors have a number) says nothing against the shard."""
    if getattr(error, "errno", None):
        return AudiolibError(f"cannot read shard {path}: {os.strerror(error.errno)}")
    return AudiolibError(f"shard {path} is damaged ({' '.join(str(error).split())}); {_MEND}")


class ShardFolder:
    """A finished features folder: its index, and its clips split by split.

    Raises:
        AudiolibError: no index, another schema version, or (when reading) a shard whose bytes are not those written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = read_sealed(folder / "index.json")
        self.stats = read_sealed(folder / "stats.json")
        if self.index["schema"] != SCHEMA_VERSION:
            raise AudiolibError(
                f"{folder} has shards of schema {self.index['schema']}, this version reads {SCHEMA_VERSION}; {_MEND}"
            )
        self.classes: list[str] = self.index["classes"]
        self.multi_label: bool = self.index["multi_label"]
        self.frontend: dict[str, Any] = self.index["frontend"]
        self.waveform: bool = self.index["waveform"]
        self.shards = [ShardInfo(**entry) for entry in self.index["shards"]]
        self._open: dict[str, pq.ParquetFile] = {}
        self._verified = mmap(-1, len(self.shards) or 1)  # Shared with the forked processes of every epoch.

    def bytes_per_frame(self, waveform: bool) -> float:
        """Bytes of log-mel, and of sound if wanted, that a frame takes in memory."""
        sound = 2 * self.frontend["sample_rate"] * self.frontend["hop_ms"] / 1000 if waveform else 0
        return 2 * self.frontend["mel_bins"] + sound

    def facts(self, split: str, waveform: bool) -> Facts:
        """What is known of every clip of a split without its log-mel.

        Raises:
            AudiolibError: a shard is missing or damaged, or the sound is asked for and these shards hold none.
        """
        self._check_sound(waveform)
        tables = []
        for shard in self.shards:
            if shard.split == split:
                table = _read_table(self._path(shard), ["id", "label", "frames"])
                if len(table) != shard.clips:
                    raise AudiolibError(f"shard {self.folder / shard.file} has not the clips of index.json; {_MEND}")
                tables.append(table)
        return Facts.of(pa.concat_tables(tables), [len(table) for table in tables])

    def group(self, shard: ShardInfo, number: int, waveform: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Log-mel, and sound if wanted, of one row group; a shard is verified when its first group is read."""
        columns = ["log_mel"] + (["wave"] if waveform else [])
        try:
            table = self._opened(shard).read_row_group(number, columns, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(self.folder / shard.file, error) from error
        mels = [mel.reshape(-1, self.frontend["mel_bins"]) for mel in _arrays(table, "log_mel")]
        return mels, _arrays(table, "wave") if waveform else []

    def _opened(self, shard: ShardInfo) -> pq.ParquetFile:
        """Of many shards those read last stay open."""
        file = self._open.pop(shard.file, None)
        if file is None:
            path = self._path(shard) if self._verified[place := self.shards.index(shard)] else self._verify(shard)
            file, self._verified[place] = pq.ParquetFile(path, page_checksum_verification=True), 1
            if len(self._open) == _MOST_OPEN:
                self._open.pop(next(iter(self._open))).close()
        self._open[shard.file] = file
        return file

    def rows(self, split: str, waveform: bool = False) -> Iterator[Row]:
        """Every clip of a split in the order of the shards; each file is verified before its first row is given."""
        self._check_sound(waveform)
        columns = ["id", "label", "log_mel"] + (["wave"] if waveform else [])
        for shard in [shard for shard in self.shards if shard.split == split]:
            table = _read_table(self._verify(shard), columns)
            mels = [mel.reshape(-1, self.frontend["mel_bins"]) for mel in _arrays(table, "log_mel")]
            waves = _arrays(table, "wave") if waveform else [None] * len(mels)
            names, labels = table["id"].to_pylist(), table["label"].to_pylist()
            for name, label, mel, wave in zip(names, labels, mels, waves, strict=True):
                yield Row(name, tuple(label), mel, wave)

    def _check_sound(self, waveform: bool) -> None:
        if waveform and not self.waveform:
            raise AudiolibError(
                f"{self.folder} has no sound beside the log-mel, which hops other than {self.frontend['hop_ms']:g} ms "
                "need; set features.waveform to true"
            )

    def _path(self, shard: ShardInfo) -> Path:
        path = self.folder / shard.file
        if not path.exists():
            raise AudiolibError(f"shard {path} is missing; {_MEND}")
        return path

    def _verify(self, shard: ShardInfo) -> Path:
        path = self._path(shard)
        if sha256_file(path) != shard.sha256:
            raise AudiolibError(f"shard {path} is damaged (its sha256 is not that of index.json); {_MEND}")
        return path


def _arrays(table: pa.Table, name: str) -> list[np.ndarray]:
    column = table.column(name).combine_chunks()
    values, offsets = column.values.to_numpy(), column.offsets.to_numpy()
    return [values[first:last] for first, last in pairwise(offsets)]


def column_bytes(folder: Path) -> dict[str, int]:
    """Compressed bytes of each column over all shards of a folder."""
    held: dict[str, int] = {}
    for path in sorted(folder.glob("part-*.parquet")):
        shard = pq.read_metadata(path)
        groups = [shard.row_group(number) for number in range(shard.num_row_groups)]
        for column in (group.column(place) for group in groups for place in range(group.num_columns)):
            name = column.path_in_schema.split(".")[0]
            held[name] = held.get(name, 0) + column.total_compressed_size
    return held
