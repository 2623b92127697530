"""A training on the Ray cluster of RAY_ADDRESS: `python -m audiolib.reliability.driver FEATURES FOLDER EPOCHS`."""

import sys
from pathlib import Path

from audiolib.files import write_json
from audiolib.launch import run
from audiolib.reliability.material import small_job
from audiolib.tracking import separate_run


def main() -> None:
    """Train with one or two workers, whatever there is, and log to a database of its own."""
    features, folder, epochs = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    record = separate_run(folder)
    write_json(folder / "run.json", vars(record))
    run(small_job(features, folder, workers=(1, 2), epochs=epochs), record.epoch)


if __name__ == "__main__":
    main()
