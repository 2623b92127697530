"""The report of one run, and that of a comparison of several: what stands on the page."""

import base64
import io
import wave
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import yaml

from audiolib import charts, figures, page, tables
from audiolib.compare import Comparison, compare, summaries
from audiolib.page import Mistake, Page, Section, Table
from audiolib.pareto import front
from audiolib.published import single
from audiolib.record import Record, read_record
from audiolib.results import PREDICTIONS, as_size
from audiolib.shards import Row, ShardFolder


@dataclass(frozen=True)
class Sources:
    """Folders that the report of a run is made from."""

    features: Path
    evaluate: Path


def render(sources: Sources, out: Path, *, classes_shown: int, mistakes_shown: int) -> None:
    """Write the report of one run: `report.html`, `report.md` and PNG files.

    Args:
        sources: its results and its clips.
        out: folder to write to.
        classes_shown: how many classes' spectrograms.
        mistakes_shown: how many of the worst mistakes.
    """
    record = read_record(sources.evaluate, "this run")
    found = compare([record], [stage for stage in ("pretrain", "finetune") if stage in record.rows["stage"]])
    shards = ShardFolder(sources.features)
    params, preset = record.settings["params"], record.settings["model"]
    sections = [
        *_matrix_sections(found, _trained(record)),
        *_published(found),
        _training([(record, "training")]),
        *_errors(
            pl.read_csv(sources.evaluate / "predictions.csv", schema=PREDICTIONS), shards, found.split, mistakes_shown
        ),
        _sounds(shards, classes_shown),
        tables.all_cells(found),
        _origin(found),
    ]
    subtitle = f"{found.clips} {found.split} clips, seed {params['seed']}, {preset['architecture']['name']}"
    page.write(Page(f"{params['model']} on {params['data']}", subtitle, _tiles(found), sections), out)


def render_comparison(found: Comparison, out: Path) -> None:
    """Write the report of several runs: `report.html`, `report.md`, PNG files, and `cells.csv`."""
    seeds = sorted({record.seed for record, _ in found.passes})
    folds = sorted({record.fold for record, _ in found.passes if record.fold is not None})
    histories = [(record, _named(record, list(own.values())[-1])) for record, own in found.passes]
    sections = [
        tables.side_by_side(found),
        tables.pairs(found),
        *_matrix_sections(found, {}),
        *_published(found),
        _training([entry for entry in histories if entry[0].history]),
        tables.all_cells(found),
        _origin(found),
    ]
    parts = [f"{len(found.passes)} runs", f"seeds {', '.join(map(str, seeds))}"]
    parts += [f"test folds {', '.join(map(str, folds))}"] if folds else []
    subtitle = ", ".join([*parts, f"{found.clips} {found.split} clips"])
    title = f"{', '.join(found.labels)} on {found.corpus}"
    page.write(Page(title, subtitle, _tiles(found), sections), out)
    found.cells().write_csv(out / "cells.csv", float_precision=6)


def _named(record: Record, label: str) -> str:
    return f"{label}, seed {record.seed}" + ("" if record.fold is None else f", fold {record.fold}")


def _tiles(found: Comparison) -> list[tuple[str, str]]:
    """The numbers to remember: at home, and over foreign patch sizes."""
    told = {"home": f"{found.metric} at its own shape", "patch_mean": "mean over all patch sizes"}
    rows = summaries(found)
    shown = [(row, name) for row in rows for name in told if row[name] is not None]  # No size may be shared by all.
    return [(f"{100 * row[name]:.1f} %", f"{row['label']}: {told[name]}") for row, name in shown]


def _matrix_sections(found: Comparison, trained: dict[str, list[float]]) -> list[Section]:
    heat = [charts.element(charts.heat_map(found, label), f"heat-{n}") for n, label in enumerate(found.labels)]
    scatter, choices = charts.pareto(found)
    axes = [axis for axis in ("patch", "length", "hop") if _varies(found, axis)]
    drawn = [charts.element(charts.lines(found, axis, trained.get(axis, [])), f"line-{axis}") for axis in axes]
    return [
        Section(
            "Patch size x clip length",
            f"{found.metric.capitalize()} in per cent, at the hop that each model was trained at. All models see the "
            "same clips, cut to each length; a shorter clip is padded, or kept as it is for a model trained so. "
            "Patches of a size that a model does not store come from its resized kernel.",
            heat,
            {"matrix": figures.heat_maps(found)},
        ),
        Section(
            "One axis at a time",
            "Bands are the 95 % interval over clips of a single seed, or one standard deviation over several."
            + (" Dotted lines mark what the last stage was trained at." if trained else ""),
            drawn,
            {axis: figures.curve(found, axis, trained.get(axis, [])) for axis in axes},
        ),
        Section(
            f"{found.metric.capitalize()} and cost",
            "Every cell of every model. The dotted front is what nothing beats: the command audiolib pick chooses from "
            "it. Milliseconds are those of a clip in a batch on the machine of the run; memory that of one clip.",
            [charts.element(scatter, "pareto", choices)],
            {"cost": figures.pareto(found, "gmac")},
            wide=True,
            table=tables.cells_table(found, front(found.cells(), "ms")),
        ),
    ]


def _published(found: Comparison) -> list[Section]:
    """What the papers report on this corpus as single numbers; their curves are drawn with ours."""
    rows = single(found.corpus, found.metric)
    if rows.is_empty():
        return []
    lines = [list(row) for row in rows.select("model", "value", "deviation", "source").rows()]
    columns = ["model*", found.metric, "over seeds", "source*"]
    text = f"On the test clips of {found.corpus}, or the part of them that its authors still could download."
    return [Section("What the papers report", text, table=Table(columns, lines, ["s", ".3f", ".3f", "s"]))]


def _varies(found: Comparison, axis: str) -> bool:
    line = found.line(axis)
    return line.group_by("label").len()["len"].max() > 1


def _trained(record: Record) -> dict[str, list[float]]:
    """What the last stage was trained at, along each axis."""
    recipe = record.settings["model"]["finetune"]
    packing = recipe.get("packing")
    return {
        "patch": [float(as_size(size)[1]) for size in recipe["patch_sizes"]],
        "length": [record.home.seconds],
        "hop": packing["hops_ms"] if packing else [record.home.hop_ms["finetune"]],
    }


def _training(records: list[tuple[Record, str]]) -> Section:
    return Section(
        "Accuracy over the compute of training",
        "What each epoch reached on the validation clips, over the multiply-accumulates of all clips trained on so "
        "far, forward alone; squares are epochs at a coarse time resolution.",
        [charts.element(charts.training(records), "training")] if records else [],
        {"training": figures.training(records[0][0].history)} if len(records) == 1 else {},
        wide=True,
    )


def _errors(predictions: pl.DataFrame, shards: ShardFolder, split: str, count: int) -> list[Section]:
    """What is taken for what, and the mistakes that the last model was surest of; none for several labels a clip."""
    final = predictions.filter(pl.col("stage") == "finetune")
    if final.is_empty():
        return []
    wrong = final.filter(pl.col("actual") != pl.col("predicted")).sort("p_predicted", descending=True).head(count)
    clips = {row.id: row for row in shards.rows(split, shards.waveform) if row.id in set(wrong["id"])}
    mistakes = [
        Mistake(
            said["id"],
            said["actual"],
            said["predicted"],
            said["p_predicted"],
            figures.png(figures.spectrograms({"": clips[said["id"]].log_mel}, shards.frontend["hop_ms"])),
            _sound(clips[said["id"]], int(shards.frontend["sample_rate"])),
        )
        for said in wrong.rows(named=True)
    ]
    confusion = Section(
        "What is taken for what",
        "The last model at its own patch size, length and hop. Row: true class; column: what was said.",
        [charts.element(charts.confusion(final, shards.classes), "confusion")],
        {"confusion": figures.confusions(final, shards.classes)},
        wide=True,
    )
    if not mistakes:
        return [confusion]
    text = f"The {len(mistakes)} mistakes that the model was surest of."
    return [confusion, Section("The worst mistakes", text, mistakes=mistakes)]


def _sound(row: Row, rate: int) -> str | None:
    if row.wave is None:
        return None
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(row.wave.astype("<i2").tobytes())
    return base64.b64encode(out.getvalue()).decode()


def _sounds(shards: ShardFolder, count: int) -> Section:
    wanted, examples = sorted(shards.classes)[:count], {}
    for row in shards.rows("train"):
        for name in {shards.classes[number] for number in row.label} & set(wanted):
            examples.setdefault(name, row.log_mel)
        if len(examples) == len(wanted):
            break
    shown = figures.spectrograms(dict(sorted(examples.items())), shards.frontend["hop_ms"])
    text = "The first training clip of each class, as log-mel."
    return Section("What it hears", text, figures={"spectrograms": shown}, pictures=["spectrograms"])


def _origin(found: Comparison) -> Section:
    lines, alone = [], len(found.passes) == 1
    for record, _ in found.passes:
        params, made = record.settings["params"], record.origin
        words = [f"-S {key}={params[key]}" for key in ("model", "data", "evaluate", "seed")]
        words += [] if record.fold is None else [f"-S configs/data/{params['data']}.yaml:source.fold={record.fold}"]
        checkout = "" if made["commit"] == "unknown" else f"git checkout {made['commit'].rstrip('+')} && "
        lines += [
            f"# {record.name}: commit {made['commit']}, {made['date']}, {made['machine']}",
            f"{checkout}dvc exp run {' '.join(words)}",
            "",
            yaml.safe_dump(record.settings, sort_keys=False) if alone else "",
        ]
    return Section(
        "Where this comes from",
        "Code version, machine, and a command with the settings that are changed most. Others that differ from the "
        f"commit's are to be added: {'all are below' if alone else 'run.json of each has all'}.",
        code="\n".join(lines),
    )
