"""Check the whole of params.yaml with its presets before the first stage: `python -m audiolib.config.project [folder]`.

A stage reads and checks only its own sections; this finds a mistake in a late section before an hour of training.
"""

import sys
from pathlib import Path

from audiolib.config.corpus import DataPreset, DownloadSection, FeaturesSection
from audiolib.config.evaluation import EvaluatePreset, ReportSection
from audiolib.config.strict import Section, read_preset, read_yaml, validate
from audiolib.config.training import ModelPreset, Seed, TrainSection
from audiolib.errors import run_main


class Params(Section):
    """params.yaml."""

    model: str
    data: str
    seed: Seed
    download: DownloadSection
    features: FeaturesSection
    train: TrainSection
    evaluate: str
    report: ReportSection


def check(root: Path) -> Params:
    """Check params.yaml below `root`, and the presets that it names.

    Raises:
        AudiolibError: a file is missing or a key is unknown, absent or of the wrong type.
    """
    params: Params = validate(Params, read_yaml(root / "params.yaml"), "params.yaml")
    read_preset(root, "model", ModelPreset)
    read_preset(root, "data", DataPreset)
    read_preset(root, "evaluate", EvaluatePreset)
    return params


if __name__ == "__main__":
    run_main(lambda: check(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
