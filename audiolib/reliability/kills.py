"""Kill a training, start it again, and compare every byte with a training that nobody killed."""

import csv
import random
import signal
import subprocess
import sys
from pathlib import Path

from audiolib.files import sha256_file
from audiolib.progress import track
from audiolib.reliability.finding import Finding
from audiolib.reliability.victim import PLACES

KILLS = 25


def measure(features: Path, folder: Path) -> list[Finding]:
    """25 kills, spread over the places of `victim.PLACES`, each after a random number of calls."""
    _train(features, folder / "whole", "nowhere", 0)
    wanted = _bytes(folder / "whole")
    draw, kept, wrong = random.Random(0), 0, []
    names = [list(PLACES)[number % len(PLACES)] for number in range(KILLS)]
    for number, place in track(enumerate(names), "kills", total=KILLS, unit="kill"):
        own = folder / f"kill-{number}"
        # The hand-over happens once, validation twice an epoch, the rest at least once a step.
        count = {"at the hand-over of phases": 2, "in validation": draw.randint(1, 12)}.get(place, draw.randint(1, 34))
        died = _train(features, own, place, count)
        _train(features, own, "nowhere", 0)
        if died == -signal.SIGKILL and _bytes(own) == wanted:
            kept += 1
        else:
            wrong.append(f"{place} {count}")
    detail = "weights, averages, last weights, moments, history; " + (", ".join(wrong) or "at " + "; ".join(PLACES))
    return [Finding("a training killed with SIGKILL and started again ends with the same bytes", KILLS, kept, detail)]


def _train(features: Path, folder: Path, place: str, count: int) -> int:
    command = [sys.executable, "-m", "audiolib.reliability.victim", str(features), str(folder), place, str(count)]
    return subprocess.run(command, capture_output=True, check=False).returncode


def _bytes(folder: Path) -> dict[str, str]:
    """Hashes of all weights and of the kept checkpoints' tensors, and what each epoch found but the time it took."""
    found = {str(path.relative_to(folder)): sha256_file(path) for path in sorted(folder.rglob("*.safetensors"))}
    for path in folder.rglob("history.csv"):
        rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        found["history"] = str([{key: value for key, value in row.items() if key != "seconds"} for row in rows])
    return found
