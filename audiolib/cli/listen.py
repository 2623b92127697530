"""`audiolib predict` and `audiolib embed`: sound files in, classes or vectors out."""

import argparse
import atexit
import csv
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiolib.errors import AudiolibError
from audiolib.files import SOUND_SUFFIXES, files_below, is_sound
from audiolib.progress import say, track

if TYPE_CHECKING:
    from audiolib.inference import Heard, Listener

Run = Callable[[argparse.Namespace], None]


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sounds", nargs="+", metavar="FILE|FOLDER|-", help="sound files, folders of them, or - for stdin"
    )
    parser.add_argument(
        "--model", required=True, type=Path, metavar="DIR", help="a trained model's folder, or hub:user/name"
    )
    parser.add_argument("--patch", type=patch_size, metavar="N|FxT", help="patch size, square or bands x frames")
    parser.add_argument("--hop-ms", type=float, metavar="MS", help="time resolution")
    parser.add_argument("--window", type=float, metavar="S", help="seconds that are looked at together")
    parser.add_argument("--stride", type=float, metavar="S", help="seconds between windows; default: no overlap")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument(
        "--scan", default="auto", choices=["auto", "cpp", "triton", "mamba_ssm", "naive"],
        help="how an Audio Mamba scans; naive needs no C++ compiler",
    )  # fmt: skip
    parser.add_argument("--parquet", type=_parquet, metavar="OUT", help="write a Parquet file instead of printing")


def predict_command(parser: argparse.ArgumentParser) -> Run:
    """`audiolib predict FILE... --model DIR`."""
    _common(parser)
    parser.add_argument("--top-k", type=positive, default=3, metavar="N", help="classes to name (%(default)s)")
    parser.add_argument(
        "--budget-ms", type=float, metavar="MS",
        help="take the patch and hop that did best within so many milliseconds a clip where the model was evaluated",
    )  # fmt: skip
    parser.add_argument(
        "--stream", type=float, metavar="S",
        help="say every so many seconds what the sound so far is; for an Audio Mamba that looks only back",
    )  # fmt: skip
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a line")
    form.add_argument("--csv", action="store_true", help="one line a class")

    def run(asked: argparse.Namespace) -> None:
        patch, hop = asked.patch, asked.hop_ms
        if asked.parquet is not None and (asked.json or asked.csv):
            raise AudiolibError("--parquet writes a file instead of printing; leave --json and --csv out")
        if asked.budget_ms is not None:
            if patch is not None or hop is not None:
                raise AudiolibError("--budget-ms chooses the patch and the hop; leave --patch and --hop-ms out")
            patch, hop = _within(asked.model, asked.budget_ms, asked.window)
        listener = _listener(asked, patch, hop)
        count = min(asked.top_k, len(listener.classes))
        bad, windows = _hear(asked, listener, embed=False) if asked.stream is None else _follow(asked, listener)
        from audiolib.inference import top

        rows = (_row(asked, heard, top(heard.values, listener.classes, count)) for heard in windows)
        if asked.parquet is not None:
            _write_parquet(asked.parquet, list(_each_class(rows)))
        elif asked.csv:
            _write_csv(_each_class(rows))
        else:
            for row in rows:
                print(json.dumps(row, ensure_ascii=False) if asked.json else _line(asked, row), flush=True)
        _finish(bad)

    return run


def embed_command(parser: argparse.ArgumentParser) -> Run:
    """`audiolib embed FILE... --model DIR`."""
    _common(parser)

    def run(asked: argparse.Namespace) -> None:
        bad, windows = _hear(asked, _listener(asked, asked.patch, asked.hop_ms), embed=True)
        rows = ({**_times(asked, heard), "embedding": heard.values.tolist()} for heard in windows)
        if asked.parquet is not None:
            _write_parquet(asked.parquet, list(rows))
        else:
            for row in rows:
                print(json.dumps(row, ensure_ascii=False), flush=True)
        _finish(bad)

    return run


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive whole number")
    return int(text)


def patch_size(text: str) -> tuple[int, int]:
    """`12`, or `16x8` for 16 bands x 8 frames."""
    parts = text.split("x")
    if len(parts) > 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no patch size; write 12, or 16x8 for 16 bands x 8 frames")
    return int(parts[0]), int(parts[-1])


def _listener(asked: argparse.Namespace, patch: tuple[int, int] | None, hop: float | None) -> "Listener":
    from audiolib.inference import Listener

    return Listener(asked.model, patch=patch, hop_ms=hop, device=asked.device, scan=asked.scan)


def _within(model: Path, budget: float, window: float | None) -> tuple[tuple[int, int], float]:
    """The patch and hop of the best cell within a budget, from the results beside a model or in its folder.

    Only cells of the length that its windows will have count, or of the measured one that is nearest to it; for whole
    files of any length the longest, which cost most.
    """
    import polars as pl

    from audiolib.pareto import pick
    from audiolib.pretrained import load_card, located
    from audiolib.results import main_metric, own_rows, read_rows

    model = located(model)
    places = [model, model.resolve().parent / "evaluate"]
    folder = next((place for place in places if (place / "rows.parquet").exists()), None)
    if folder is None:
        raise AudiolibError(f"--budget-ms needs results: neither {places[0]} nor {places[1]} has rows.parquet")
    rows = read_rows(folder)
    own = own_rows(rows, model)
    own = own.filter(pl.col("metric") == main_metric(own))
    card = load_card(model)
    if window is None:
        window = card.seconds if card.padded else own["seconds"].max()
    apart = (pl.col("seconds") - window).abs()
    chosen = pick(own.filter(apart == apart.min()), max_ms=budget)
    best = chosen.row(0, named=True)
    shape = f"patch {best['patch_f']} x {best['patch_t']}, hop {best['hop_ms']:g} ms"
    say(f"{shape}: {best['value']:.3f} in {best['ms']:.2f} ms where it was evaluated")
    return (best["patch_f"], best["patch_t"]), best["hop_ms"]


def _hear(
    asked: argparse.Namespace, listener: "Listener", *, embed: bool
) -> tuple[list[tuple[str, str]], Iterator["Heard"]]:
    """A list that fills with bad files, and what is heard: windows if any were asked for, else whole files."""
    from audiolib.inference import whole_files

    bad: list[tuple[str, str]] = []
    paths = _files(asked.sounds)
    windows = listener.listen(
        track(paths, "listening", total=len(paths), unit="file"),
        window=asked.window,
        stride=asked.stride,
        embed=embed,
        bad=lambda path, reason: bad.append((path, reason)),
    )
    whole = asked.window is None and asked.stride is None
    # A file that turned out bad after some windows has no answer: their mean would pass for one of the whole file.
    good = (heard for heard in whole_files(windows) if heard.path not in dict(bad))
    return bad, good if whole else windows


def _follow(asked: argparse.Namespace, listener: "Listener") -> tuple[list[tuple[str, str]], Iterator["Heard"]]:
    """As `_hear`, for files that are followed from their beginning."""
    from audiolib.follow import follow

    if asked.window is not None or asked.stride is not None:
        raise AudiolibError("--stream hears a sound from its beginning; leave --window and --stride out")
    bad: list[tuple[str, str]] = []
    paths = _files(asked.sounds)
    told = (heard for path in paths for heard in follow(listener, path, asked.stream, lambda *why: bad.append(why)))
    return bad, told


def _files(sounds: list[str]) -> list[Path]:
    found: list[Path] = []
    for name in sounds:
        path = Path(name)
        if not name:
            raise AudiolibError("a sound file or folder has no name: an empty word was given")
        if name == "-":
            with tempfile.NamedTemporaryFile(prefix="stdin-", delete=False) as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
            atexit.register(Path(file.name).unlink, missing_ok=True)
            found.append(Path(file.name))
        elif path.is_dir():
            inside = list(filter(is_sound, files_below(path)))
            if not inside:
                raise AudiolibError(f"{path} has no sound files ({', '.join(SOUND_SUFFIXES)})")
            found += inside
        else:
            found.append(path)
    return found


def _times(asked: argparse.Namespace, heard: "Heard") -> dict[str, Any]:
    name = "-" if "-" in asked.sounds and Path(heard.path).name.startswith("stdin-") else heard.path
    return {"file": name, "start": round(heard.start, 3), "end": round(heard.end, 3)}


def _row(asked: argparse.Namespace, heard: "Heard", best: list[tuple[str, float]]) -> dict[str, Any]:
    return {**_times(asked, heard), "classes": [{"class": name, "probability": round(p, 6)} for name, p in best]}


def _each_class(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        for rank, entry in enumerate(row["classes"], start=1):
            yield {"file": row["file"], "start": row["start"], "end": row["end"], "rank": rank, **entry}


def _line(asked: argparse.Namespace, row: dict[str, Any]) -> str:
    whole = asked.window is None and asked.stride is None and asked.stream is None
    when = "" if whole else f"\t{row['start']:.2f}-{row['end']:.2f}"
    return f"{row['file']}{when}\t" + "\t".join(f"{e['class']} {e['probability']:.3f}" for e in row["classes"])


def _write_csv(rows: Iterable[dict[str, Any]]) -> None:
    out = csv.DictWriter(sys.stdout, ["file", "start", "end", "rank", "class", "probability"], lineterminator="\n")
    out.writeheader()
    out.writerows(rows)


def _parquet(text: str) -> Path:
    """A file that can be written, asked before hours of listening rather than after."""
    path = Path(text)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder, or in none; name a file")
    return path


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import polars as pl

    from audiolib.files import atomic_path

    with atomic_path(path) as temporary:
        empty = {"file": pl.String, "start": pl.Float64, "end": pl.Float64}
        pl.DataFrame(rows, schema=None if rows else empty).write_parquet(temporary)


def _finish(bad: list[tuple[str, str]]) -> None:
    for path, reason in bad:
        print(f"error: {path}: {reason}", file=sys.stderr)
    if bad:
        sys.exit(1)
