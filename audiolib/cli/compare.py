"""`audiolib compare` and `audiolib pick`: what recorded runs tell together."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from audiolib.errors import AudiolibError
from audiolib.progress import say

if TYPE_CHECKING:
    from audiolib.compare import Comparison

Run = Callable[[argparse.Namespace], None]


def _which(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="*", metavar="RUN",
        help="DVC experiments, ids of MLflow runs, or folders of an evaluation; none = all runs in MLflow, the "
        "newest of each model, corpus, seed and fold, and the evaluation that lies here",
    )  # fmt: skip
    parser.add_argument("--data", metavar="NAME", help="only runs on this corpus; needed where there are several")
    parser.add_argument("--pretrain", action="store_true", help="show what the pretrain stages ended with, too")


def compare_command(parser: argparse.ArgumentParser) -> Run:
    """`audiolib compare [RUN...] [--data NAME] [--out FOLDER]`."""
    _which(parser)
    parser.add_argument("--out", type=Path, default=Path("data/compare"), help="folder of the report (%(default)s)")

    def run(asked: argparse.Namespace) -> None:
        found = _comparison(asked)
        from audiolib.page import markdown_table
        from audiolib.report import render_comparison
        from audiolib.tables import ranking

        render_comparison(found, asked.out)
        print(markdown_table(ranking(found)))
        say(f"the page, its tables and pictures: {asked.out / 'report.html'}")

    return run


def pick_command(parser: argparse.ArgumentParser) -> Run:
    """`audiolib pick [RUN...] --max-ms 5 --min-accuracy 0.95`."""
    _which(parser)
    parser.add_argument("--max-ms", type=float, help="milliseconds of a clip, measured in a batch")
    parser.add_argument("--max-gmac", type=float, help="10^9 multiply-accumulates of a clip")
    parser.add_argument("--max-mib", type=float, help="MiB of tensors of a clip, beside the weights")
    parser.add_argument("--min-accuracy", type=float, help="share of clips, or mAP where a clip has several labels")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="how many to show (%(default)s)")

    def run(asked: argparse.Namespace) -> None:
        limits = {"max_ms": asked.max_ms, "max_gmac": asked.max_gmac, "max_mib": asked.max_mib}
        if asked.min_accuracy is None and all(limit is None for limit in limits.values()):
            raise AudiolibError("say what is wanted: --max-ms, --max-gmac, --max-mib or --min-accuracy")
        found = _comparison(asked)
        from audiolib.page import markdown_table
        from audiolib.pareto import pick
        from audiolib.tables import LOW_HIGH, cells_table

        chosen = pick(found.cells(), **limits, min_score=asked.min_accuracy)
        print(markdown_table(cells_table(found, chosen.head(asked.top))))
        say(LOW_HIGH)
        best = chosen.row(0, named=True)
        names = [r.name for r, own in found.passes if best["label"] in own.values()]
        say(
            f"use {best['label']} with patch {best['patch_f']} x {best['patch_t']}, {best['seconds']:g} s at a hop of "
            f"{best['hop_ms']:g} ms; measured on {best['n']} clips in {', '.join(names)}"
        )

    return run


def _comparison(asked: argparse.Namespace) -> "Comparison":
    from audiolib.compare import compare, with_record
    from audiolib.files import project_folder
    from audiolib.record import read_record
    from audiolib.registry import recorded

    folders = [Path(run) for run in asked.runs if Path(run).is_dir()]
    others = [run for run in asked.runs if not Path(run).is_dir()]
    records = [read_record(folder) for folder in folders]
    if others or not folders:
        root = project_folder()
        records += [read_record(folder, name) for name, folder in recorded(root, others, asked.data)]
        here = root / "data/evaluate"
        if not asked.runs and (here / "run.json").exists():  # DVC may have taken it from its cache, without MLflow.
            records = with_record(records, read_record(here), asked.data)
    return compare(records, ["pretrain", "finetune"] if asked.pretrain else None)
