"""`python -m audiolib.bench [name ...] [--rounds N] [--device cuda] [--keep]`; the names are files here."""

import argparse
from pathlib import Path

from audiolib.bench import (
    coarse,
    features,
    flexible,
    length,
    listening,
    loading,
    packing,
    precision,
    scale,
    scan,
    scan_gpu,
    storage,
    sweep,
)
from audiolib.bench.kept import keep
from audiolib.bench.timing import Result
from audiolib.errors import run_main
from audiolib.predict import pick_device

BENCHMARKS = {
    "coarse": coarse.measure,
    "features": features.measure,
    "flexible": flexible.measure,
    "packing": packing.measure,
    "loading": loading.measure,
    "precision": precision.measure,
    "scan": scan.measure,
    "length": length.measure,
    "listening": listening.measure,
    "scale": scale.measure,
    "sweep": sweep.measure,
    "scan_gpu": scan_gpu.measure,
}
NAMES = [*BENCHMARKS, "storage"]


def main() -> None:
    """Run benchmarks, print their table, and with --keep add its rows to docs/results/bench.csv."""
    parser = argparse.ArgumentParser(description="Benchmarks of audiolib, each against its peers in one run.")
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"of {', '.join(NAMES)}; all unless told (scan_gpu on a GPU)"
    )
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds (15)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--features", type=Path, default=Path("data/features"), help="folder that storage looks at")
    parser.add_argument("--keep", action="store_true", help="keep the rows in docs/results")
    asked = parser.parse_args()
    unknown = sorted(set(asked.names) - set(NAMES))
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}; choose among: {', '.join(NAMES)}")
    device = pick_device(asked.device)
    for name in asked.names or [name for name in NAMES if name != "scan_gpu" or device.type == "cuda"]:
        results = storage.measure(asked.features) if name == "storage" else BENCHMARKS[name](device, asked.rounds)
        print(f"\n{name}\n{_table(results)}", flush=True)
        if asked.keep:
            keep(results, f"python -m audiolib.bench {name}")


def _table(results: list[Result]) -> str:
    lines = [("op", "case", "impl", "median", "20 % to 80 %", "unit", "ratio", "mode")]
    for r in results:
        ratio = "" if r.ratio is None else f"{r.ratio:.3f}"
        lines.append((r.op, r.case, r.impl, f"{r.median:.4g}", f"{r.p20:.4g} to {r.p80:.4g}", r.unit, ratio, r.mode))
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    padded = [[word.ljust(width) for word, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("  ".join(words).rstrip() for words in padded)


if __name__ == "__main__":
    run_main(main)
