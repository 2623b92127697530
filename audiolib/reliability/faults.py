"""What a machine does to a training: a disk that is full or read-only, rights taken away, a clock that runs backwards.

Each trial has a disk of its own, which needs mounts; a namespace allows them to everyone, so that `measure` starts this
file in one: `python -m audiolib.reliability.faults FEATURES FOLDER`.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from audiolib.errors import AudiolibError, run_main
from audiolib.progress import track
from audiolib.reliability.finding import Finding
from audiolib.reliability.kills import a_moment, bytes_of, train
from audiolib.reliability.victim import FILLER

TRIALS = 10
# Root may write anything, unless told not to.
_AS_USER = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")


@dataclass(frozen=True)
class Trial:
    """One training on a disk of its own, and what it has to end with."""

    features: Path
    disk: Path
    moment: tuple[str, str]
    wanted: dict[str, str]

    def ends_the_same(self) -> bool:
        """Started once more, it ends with the bytes of the training that nothing happened to."""
        return train(self.features, self.disk).returncode == 0 and bytes_of(self.disk) == self.wanted


def measure(features: Path, folder: Path) -> list[Finding]:
    """Ten trials of each fault, each at another moment of the training.

    Raises:
        AudiolibError: this system allows no namespaces.
    """
    own = folder / "faults"
    own.mkdir()
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-m", "audiolib.reliability.faults"]
    done = subprocess.run([*command, str(features), str(own)], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise AudiolibError("faults: the trials need Linux with user namespaces and `setpriv`; what failed is above")
    return [Finding(**finding) for finding in json.loads(done.stdout)]


def main() -> None:
    """All trials; what they found as JSON on standard output."""
    features, folder = Path(sys.argv[1]), Path(sys.argv[2])
    train(features, folder / "whole")
    wanted = bytes_of(folder / "whole")
    findings = [
        _repeat(promise, held, features, folder / str(number), wanted)
        for number, (promise, held) in enumerate(PROMISES.items())
    ]
    print(json.dumps([vars(finding) for finding in findings]))


def _repeat(
    promise: str, held: Callable[[Trial], bool], features: Path, folder: Path, wanted: dict[str, str]
) -> Finding:
    draw, wrong = random.Random(promise), []
    for number in track(range(TRIALS), promise.partition(":")[0], total=TRIALS, unit="trial"):
        trial = Trial(features, folder / str(number), a_moment(draw, number), wanted)
        trial.disk.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", str(trial.disk)], check=True)
        if not held(trial):
            wrong.append(" ".join(trial.moment))
        _unmount(trial.disk)
    return Finding(promise, TRIALS, TRIALS - len(wrong), ", ".join(wrong) or "each at another moment of a training")


def _refused(trial: Trial, harm: str, words: str, mend: Callable[[Path], object]) -> bool:
    done = train(trial.features, trial.disk, harm, *trial.moment, through=_AS_USER)
    said = done.stderr.splitlines() or [""]
    mend(trial.disk)
    if done.returncode == 0:  # An old checkpoint that is removed makes room for the next one.
        return bytes_of(trial.disk) == trial.wanted
    told = done.returncode == 1 and said[-1].startswith("error: ") and words in said[-1]
    return told and "Traceback" not in done.stderr and trial.ends_the_same()


def _unmount(disk: Path) -> None:
    subprocess.run(["umount", str(disk)], check=True)


def _allowed(disk: Path) -> None:
    for place in [disk, *(path for path in disk.rglob("*") if path.is_dir())]:
        place.chmod(0o755)


def _clock(trial: Trial) -> bool:
    """Killed while its clock ran backwards; what it wrote is of tomorrow when it goes on."""
    died = train(trial.features, trial.disk, "clock", *trial.moment).returncode
    tomorrow = time.time() + 86400
    for path in trial.disk.rglob("*"):
        os.utime(path, (tomorrow, tomorrow))
    return died == -signal.SIGKILL and trial.ends_the_same()


def _two(trial: Trial) -> bool:
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: train(trial.features, trial.disk), range(2)))
    waited = sum("another process is at the same training" in done.stderr for done in both)
    return [done.returncode for done in both] == [0, 0] and waited == 1 and bytes_of(trial.disk) == trial.wanted


_MENDED = "one line says so, and the same command ends with the same bytes when that is mended"
PROMISES: dict[str, Callable[[Trial], bool]] = {
    f"a disk gets full: {_MENDED}": partial(
        _refused, harm="full", words="no space left on the disk", mend=lambda disk: (disk / FILLER).unlink()
    ),
    f"a disk turns read-only: {_MENDED}": partial(
        _refused, harm="read-only", words="Read-only file system", mend=_unmount
    ),
    f"a folder may not be written any more: {_MENDED}": partial(
        _refused, harm="forbidden", words="Permission denied", mend=_allowed
    ),
    "a clock runs backwards: a training that is killed meanwhile goes on and ends with the same bytes": _clock,
    "two trainings start at once in one folder: one waits and says so, and both end with the same bytes": _two,
}

if __name__ == "__main__":
    run_main(main)
