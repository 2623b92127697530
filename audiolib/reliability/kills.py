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
    train(features, folder / "whole")
    wanted = bytes_of(folder / "whole")
    draw, kept, wrong = random.Random(0), 0, []
    for number in track(range(KILLS), "kills", total=KILLS, unit="kill"):
        own, moment = folder / f"kill-{number}", a_moment(draw, number)
        died = train(features, own, "kill", *moment).returncode
        train(features, own)
        if died == -signal.SIGKILL and bytes_of(own) == wanted:
            kept += 1
        else:
            wrong.append(" ".join(moment))
    detail = "weights, averages, last weights, moments, history; " + (", ".join(wrong) or "at " + "; ".join(PLACES))
    return [Finding("a training killed with SIGKILL and started again ends with the same bytes", KILLS, kept, detail)]


def a_moment(draw: random.Random, number: int) -> tuple[str, str]:
    """One of the places, in turn, and at which of its calls."""
    place = list(PLACES)[number % len(PLACES)]
    # The hand-over happens once, validation twice an epoch, the rest at least once a step.
    often = {"at the hand-over of phases": (2, 2), "in validation": (1, 12)}
    return place, str(draw.randint(*often.get(place, (1, 34))))


def train(
    features: Path, folder: Path, *harm: str, through: tuple[str, ...] = ()
) -> "subprocess.CompletedProcess[str]":
    """Run the victim; `through` is a program that starts it."""
    command = [*through, sys.executable, "-m", "audiolib.reliability.victim", str(features), str(folder), *harm]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def bytes_of(folder: Path) -> dict[str, str]:
    """Hashes of all weights and of the kept checkpoints' tensors, and what each epoch found but the time it took."""
    found = {str(path.relative_to(folder)): sha256_file(path) for path in sorted(folder.rglob("*.safetensors"))}
    for path in folder.rglob("history.csv"):
        rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        found["history"] = str([{key: value for key, value in row.items() if key != "seconds"} for row in rows])
    return found
