"""A model folder for others: weights, config, what it was measured at, and a model card made of these."""

import shutil
from pathlib import Path

import polars as pl

from audiolib.files import disk_errors, new_folder, write_text
from audiolib.models import plain_config
from audiolib.page import Table, markdown_table
from audiolib.pretrained import FILES, Card, load, load_card, located
from audiolib.record import Record, read_record
from audiolib.results import AXES, at_home, own_rows

_TITLES = {"patch": "Patch size", "length": "Clip length", "hop": "Hop"}


def share(model: Path, results: Path, out: Path) -> None:
    """Write a folder that can be uploaded as it is, with `README.md` as its card.

    Args:
        model: a trained model's folder.
        results: the record of its evaluation (`data/evaluate`).
        out: a new folder.

    Raises:
        AudiolibError: not these folders, results of another stage, or `out` is not empty.
    """
    model = located(model)
    new_folder(out)
    network, card, record = load(model), load_card(model), read_record(results)
    rows = own_rows(record.rows, model)
    kind = str(plain_config(network)["kind"])
    told = (kind, sum(parameter.numel() for parameter in network.parameters()))
    page = render(out.resolve().name, told, card, record, rows)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copyfile(model / name, out / name)
        rows.write_parquet(out / "rows.parquet")
    write_text(out / "README.md", page)


def render(name: str, told: tuple[str, int], card: Card, record: Record, rows: pl.DataFrame) -> str:
    """The card as Markdown, with the fields that the Hugging Face hub reads at its top.

    Args:
        name: of the model.
        told: its kind and number of parameters.
        card: what it was made for.
        record: of its evaluation.
        rows: those of the model.
    """
    seconds = card.frames * card.frontend["hop_ms"] / 1000
    made, params = record.origin, record.settings["params"]
    length = f"clips of {seconds:g} s" if card.padded else f"clips of any length up to {seconds:g} s"
    parts = [
        f"---\nlibrary_name: audiolib\npipeline_tag: audio-classification\ntags: [audio, {told[0]}]\n---",
        f"# {name}",
        f"{told[0]}, {told[1] / 1e6:.2f} million parameters, {len(card.classes)} classes"
        f"{' of which a clip may have several' if card.multi_label else ''}: {', '.join(card.classes)}. Trained on "
        f"{length} of `{params['data']}` at {card.frontend['sample_rate'] / 1000:g} kHz, patches of {card.patch[0]} "
        f"bands x {card.patch[1]} frames; other patch sizes, lengths and hops are chosen when it is used.",
        "With audiolib, flexible spectrogram classifiers, installed from a clone of its repository (what PyPI calls "
        "audiolib is another project):",
        f"```bash\naudiolib predict recording.wav --model {name}\n"
        f"audiolib predict recording.wav --model {name} --patch 12 --hop-ms 14\n"
        f"audiolib predict recording.wav --model {name} --budget-ms 2\n```",
        f"## Measured on {rows['n'][0]} {rows['split'][0]} clips of {rows['corpus'][0]}",
        "Each axis with the others where the model is at home; 95 % intervals over clips; costs of one clip.",
    ]
    for axis, columns in AXES.items():
        line = at_home(rows, axis, record.home)
        if len(line) > 1:
            parts.append(markdown_table(_table(line, axis, columns)))
    parts.append(
        f"Seed {record.seed}, commit {made['commit']}, {made['date']}, {made['machine']}. One run: what other seeds "
        "give may differ by more than the intervals."
    )
    return "\n\n".join(parts) + "\n"


def _table(line: pl.DataFrame, axis: str, columns: list[str]) -> Table:
    def place(row: dict[str, float]) -> str:
        if axis == "patch":
            return f"{row['patch_f']} x {row['patch_t']}"
        return f"{row[columns[0]]:g} {'s' if axis == 'length' else 'ms'}"

    values = ("value", "ci_low", "ci_high", "tokens", "gmac", "ms")
    rows = [[place(row), *(row[name] for name in values)] for row in line.rows(named=True)]
    titles = [f"{_TITLES[axis]}*", line["metric"][0], "from", "to", "tokens", "GMAC", "ms"]
    return Table(titles, rows, ["s", ".3f", ".3f", ".3f", ".0f", ".4f", ".2f"])
