"""`python -m audiolib.reliability [name ...]`: the trials are files here; what they find is kept in docs/results."""

import argparse
import tempfile
from pathlib import Path

from audiolib.errors import run_main
from audiolib.progress import say
from audiolib.reliability import faults, fuzz, kills, order, rot, stores, workers, worlds
from audiolib.reliability.material import make_features
from audiolib.reliability.pages import keep

TRIALS = {
    "faults": faults.measure,
    "fuzz": fuzz.measure,
    "kills": kills.measure,
    "order": order.measure,
    "rot": rot.measure,
    "stores": stores.measure,
    "workers": workers.measure,
    "worlds": worlds.measure,
}


def main() -> None:
    """Run trials, keep what they find in reliability.csv, and write reliability.md from all that is kept."""
    parser = argparse.ArgumentParser(description="Try what may go wrong, many times.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(TRIALS)}; all unless told")
    names = parser.parse_args().names or list(TRIALS)
    if unknown := sorted(set(names) - set(TRIALS)):
        parser.error(f"unknown trial {unknown[0]!r}; choose among: {', '.join(TRIALS)}")
    with tempfile.TemporaryDirectory() as temporary:
        features = make_features(Path(temporary))
        for name in names:
            for finding in TRIALS[name](features, Path(temporary)):
                say(f"{finding.held} of {finding.tried}: {finding.promise} ({finding.detail})")
                keep(name, finding)


if __name__ == "__main__":
    run_main(main)
