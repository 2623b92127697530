"""Result rows: numbers are born tidy, one metric of one cell a row, and become matrices only to be shown."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from audiolib.errors import AudiolibError
from audiolib.files import atomic_path, write_json, write_text
from audiolib.origin import origin

if TYPE_CHECKING:
    from audiolib.evaluate import Outcome

SCHEMA = {
    "run": pl.String,
    "model": pl.String,
    "stage": pl.String,
    "corpus": pl.String,
    "split": pl.String,
    "fold": pl.Int32,
    "seed": pl.Int64,
    "patch_f": pl.Int32,
    "patch_t": pl.Int32,
    "seconds": pl.Float64,
    "hop_ms": pl.Float64,
    "metric": pl.String,
    "value": pl.Float64,
    "ci_low": pl.Float64,
    "ci_high": pl.Float64,
    "n": pl.Int64,
    "gmac": pl.Float64,
    "ms": pl.Float64,
    "tokens": pl.Float64,
    "mib": pl.Float64,
}
# How well each clip was done in each cell.
SCORES = {
    "stage": pl.String,
    "patch_f": pl.Int32,
    "patch_t": pl.Int32,
    "seconds": pl.Float64,
    "hop_ms": pl.Float64,
    "id": pl.String,
    "score": pl.Float32,
}
PREDICTIONS = {
    "stage": pl.String,
    "id": pl.String,
    "actual": pl.String,
    "predicted": pl.String,
    "p_actual": pl.Float64,
    "p_predicted": pl.Float64,
}


def table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Rows as a table; an absent column is null, an unknown one a mistake."""
    unknown = sorted({key for row in rows for key in row} - set(SCHEMA))
    if unknown:
        raise ValueError(f"not a result column: {unknown[0]}")
    return pl.DataFrame([{key: row.get(key) for key in SCHEMA} for row in rows], schema=SCHEMA)


def write_rows(folder: Path, rows: pl.DataFrame) -> None:
    """`rows.parquet` for programs and `rows.csv` for people."""
    with atomic_path(folder / "rows.parquet") as temporary:
        rows.write_parquet(temporary)
    write_text(folder / "rows.csv", rows.write_csv(float_precision=6))


def read_rows(folder: Path) -> pl.DataFrame:
    """The rows that `write_rows` left."""
    path = folder / "rows.parquet"
    if not path.exists():
        raise AudiolibError(
            f"{folder} has no rows.parquet; name a folder that `dvc repro evaluate` left, as data/evaluate"
        )
    return pl.read_parquet(path)


# Patch names, lengths in seconds, and values[patch][length] with null where a cell is missing.
Matrix = tuple[list[str], list[float], list[list[float | None]]]


def matrix(rows: pl.DataFrame) -> Matrix:
    """Patch x length values of one metric of one model at one hop."""
    sizes = sorted(set(rows.select("patch_f", "patch_t").rows()), key=lambda size: (size[0] * size[1], size))
    lengths = sorted(set(rows["seconds"]))
    cells = {(f, t, s): value for f, t, s, value in rows.select("patch_f", "patch_t", "seconds", "value").rows()}
    return [patch_name(*size) for size in sizes], lengths, [[cells.get((*size, s)) for s in lengths] for size in sizes]


def patch_name(bands: int, frames: int) -> str:
    """`p16` for 16 x 16, `p16x8` for 16 bands by 8 frames."""
    return f"p{bands}" if bands == frames else f"p{bands}x{frames}"


def as_size(value: Any) -> tuple[int, int]:
    """A patch size as params.yaml writes it: 16, or [16, 8] for bands x frames."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


@dataclass(frozen=True)
class Home:
    """Where a run's models are at home: clip length, and the patch size and hop that each stage was trained at."""

    patch: dict[str, tuple[int, int]]
    seconds: float
    hop_ms: dict[str, float]


def home(settings: dict[str, Any]) -> Home:
    """The home of a pipeline pass, from its params and presets."""
    own = settings["data"]["source"].get("frontend") or settings["params"]["features"]  # Some corpora have their own.
    stored, hops, patches = float(own["hop_ms"]), {}, {}
    bands, frames = as_size(settings["model"]["architecture"].get("patch", 16))
    for stage in ("pretrain", "finetune"):
        patches[stage], hops[stage] = ended_at(settings["model"][stage]["phases"], (bands, frames), stored)
    return Home(patches, float(settings["data"]["seconds"]), hops)


def ended_at(phases: list[dict[str, Any]], patch: tuple[int, int], hop_ms: float) -> tuple[tuple[int, int], float]:
    """Patch size, in frames, and hop of the last phase: `patchify` makes patches coarser, all else frames.

    Args:
        phases: of a training; none is like one at full resolution.
        patch: size at full resolution.
        hop_ms: of the stored log-mel.
    """
    last = (phases or [{"compression": 1, "method": "none"}])[-1]
    if last["method"] == "patchify":
        return (patch[0], round(patch[1] * last["compression"])), hop_ms
    return patch, hop_ms * last["compression"]


def main_metric(rows: pl.DataFrame) -> str:
    """What a run is judged by: accuracy, or mAP where a clip has several labels."""
    return "accuracy" if "accuracy" in rows["metric"] else "map"


def own_rows(rows: pl.DataFrame, model: Path) -> pl.DataFrame:
    """The rows of the model in a folder: of the stage that it is named after, else the only one, else `finetune`.

    Raises:
        AudiolibError: there are none.
    """
    stages, name = rows["stage"].unique().to_list(), model.resolve().name
    stage = name if name in stages else stages[0] if len(stages) == 1 else "finetune"
    if stage not in stages:
        raise AudiolibError(f"there are no results of {model}: they are of {', '.join(sorted(stages)) or 'nothing'}")
    return rows.filter(pl.col("stage") == stage)


def at_own_hop(rows: pl.DataFrame, own: Home) -> pl.DataFrame:
    """Rows of each stage at the hop it was trained at: the patch x length matrix without the line of hops."""
    wanted = [(pl.col("stage") == stage) & ((pl.col("hop_ms") - hop).abs() < 1e-6) for stage, hop in own.hop_ms.items()]
    return rows.filter(pl.any_horizontal(wanted))


def at_own_patch(rows: pl.DataFrame, own: Home) -> pl.DataFrame:
    """Rows of each stage at the patch size it was trained at."""
    wanted = [
        (pl.col("stage") == stage) & (pl.col("patch_f") == bands) & (pl.col("patch_t") == frames)
        for stage, (bands, frames) in own.patch.items()
    ]
    return rows.filter(pl.any_horizontal(wanted))


def at_home(rows: pl.DataFrame, axis: str, own: Home) -> pl.DataFrame:
    """The rows of the main metric along `patch`, `length` or `hop`, the other two being at home."""
    chosen = rows.filter(pl.col("metric") == main_metric(rows))
    if axis != "hop":
        chosen = at_own_hop(chosen, own)
    if axis != "length":
        chosen = chosen.filter(pl.col("seconds") == own.seconds)
    if axis != "patch":
        chosen = at_own_patch(chosen, own)
    return chosen.sort("stage", *AXES[axis])


AXES = {"patch": ["patch_t", "patch_f"], "length": ["seconds"], "hop": ["hop_ms"]}


def along(rows: pl.DataFrame, axis: str) -> pl.DataFrame:
    """Accuracy rows of one model along `patch`, `length` or `hop`, the rest being where most of its rows are."""
    found = rows.filter(pl.col("metric") == "accuracy")
    for name in (name for other, names in AXES.items() if other != axis for name in names):
        found = found.filter(pl.col(name) == found[name].mode().sort().first())
    return found.sort(AXES[axis])


def plane(rows: pl.DataFrame) -> pl.DataFrame:
    """Accuracy of one model over patch x length at the hop where most of its rows are: mean and `spread` over seeds."""
    found = rows.filter(pl.col("metric") == "accuracy")
    found = found.filter(pl.col("hop_ms") == found["hop_ms"].mode().sort().first())
    return found.group_by("patch_f", "patch_t", "seconds").agg(pl.col("value").mean(), spread=pl.col("value").std())


def measured_axes(rows: pl.DataFrame) -> list[str]:
    """The axes along which a study has more than one value."""
    found = rows.filter(pl.col("metric") == "accuracy")
    models = [found.filter(pl.col("model") == name) for name in found["model"].unique()]
    return [axis for axis, names in AXES.items() if any(len(along(own, axis).unique(names)) > 1 for own in models)]


def summary(rows: pl.DataFrame, own: Home) -> dict[str, dict[str, Any]]:
    """For each stage: the main metric at home, by patch, length and hop; the mean over patches; worst over best."""
    metric, found = main_metric(rows), {}
    for stage in rows["stage"].unique(maintain_order=True):
        mine = rows.filter(pl.col("stage") == stage)
        by_patch = {patch_name(r["patch_f"], r["patch_t"]): r["value"] for r in _line(mine, "patch", own)}
        values = list(by_patch.values())
        found[stage] = {
            metric: by_patch.get(patch_name(*own.patch[stage])),
            "by_patch": by_patch,
            "by_length": {f"{r['seconds']:g}s": r["value"] for r in _line(mine, "length", own)},
            "by_hop": {f"{r['hop_ms']:g}ms": r["value"] for r in _line(mine, "hop", own)},
            "patch_mean": sum(values) / len(values) if values else None,
            "patch_worst_over_best": min(values) / max(values) if values and max(values) else None,
        }
    return found


def _line(rows: pl.DataFrame, axis: str, own: Home) -> list[dict[str, Any]]:
    return at_home(rows, axis, own).rows(named=True)


def write_outcome(folder: Path, outcome: "Outcome", settings: dict[str, Any], histories: list[Path]) -> pl.DataFrame:
    """All files of an evaluation: its record (`record.RECORD`), predictions, curves, the summary for `dvc metrics`.

    Args:
        folder: where to.
        outcome: what the sweep has found.
        settings: params and presets of the pass.
        histories: `history.csv` of each training stage, in order.
    """
    own, rows = home(settings), table(outcome.rows)
    write_rows(folder, rows)
    said = pl.DataFrame(outcome.predictions, schema=PREDICTIONS)
    write_text(folder / "predictions.csv", said.write_csv(float_precision=4))
    final = said.filter(pl.col("stage") == "finetune")  # A row is a clip: `dvc plots` counts rows.
    write_text(folder / "confusion.csv", final.select("id", "actual", "predicted").write_csv())
    scores = pl.concat(outcome.scores).select(pl.col(name).cast(kind) for name, kind in SCORES.items())
    with atomic_path(folder / "scores.parquet") as temporary:
        scores.write_parquet(temporary)
    lines = [path.read_text(encoding="utf-8").splitlines(keepends=True) for path in histories]
    write_text(folder / "history.csv", "".join(_joined(lines)))
    write_json(folder / "run.json", {"settings": settings, "origin": origin("dvc repro")})
    for axis, columns in AXES.items():
        line = at_home(rows, axis, own).select(*columns, "stage", "value")
        write_text(
            folder / f"by_{axis}.csv", line.pivot("stage", index=columns, values="value").write_csv(float_precision=6)
        )
    write_json(folder / "metrics.json", summary(rows, own))
    return rows


def _joined(files: list[list[str]]) -> list[str]:
    """Lines of CSV files with one header; a stage without training left an empty one."""
    filled = [lines for lines in files if lines]
    return [line for number, lines in enumerate(filled) for line in lines[min(number, 1) :]]
