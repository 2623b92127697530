"""Two processes open a fresh MLflow database in the same moment, as two experiments of a queue do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from audiolib.progress import track
from audiolib.reliability.finding import Finding

TRIALS = 20
ROOT = Path(__file__).resolve().parent.parent.parent
_OPEN = """
import sys
from pathlib import Path
from audiolib.tracking import attach
print(attach(Path(sys.argv[1])).run_id)
"""


def measure(features: Path, folder: Path) -> list[Finding]:
    """Each of 20 trials begins without a database; both processes must get the same run."""
    del features
    held, wrong = 0, ""
    for number in track(range(TRIALS), "databases", total=TRIALS, unit="trial"):
        place = folder / f"store-{number}"
        place.mkdir()
        shutil.copy(ROOT / "params.yaml", place)
        shutil.copytree(ROOT / "configs", place / "configs")
        environment = {**os.environ, "DVC_ROOT": str(place), "MLFLOW_TRACKING_URI": ""}
        both = [
            subprocess.Popen(
                [sys.executable, "-c", _OPEN, str(place)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        said = [process.communicate() for process in both]
        runs = {out.strip() for out, _ in said}
        if len(runs) == 1 and all(process.returncode == 0 for process in both):
            held += 1
        else:
            wrong = said[0][1][-200:] or said[1][1][-200:]
    return [Finding("two processes that open a fresh MLflow database at once get one run", TRIALS, held, wrong)]
