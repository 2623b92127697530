"""Measure every trained model at every shape of a preset in configs/evaluate: `python -m stages.evaluate`."""

from audiolib.config.corpus import DataPreset
from audiolib.config.evaluation import EvaluatePreset
from audiolib.config.strict import read_preset
from audiolib.errors import run_main
from audiolib.evaluate import sweep
from audiolib.files import fresh_folder
from audiolib.grid import Trained, grid_of, run_columns, trained_name
from audiolib.results import write_outcome
from audiolib.tracking import log_outcome, resolved
from stages import DATA, ROOT


def main() -> None:
    section = read_preset(ROOT, "evaluate", EvaluatePreset)
    preset = read_preset(ROOT, "data", DataPreset)
    settings, stages = resolved(ROOT), ("pretrain", "finetune")
    trained = [Trained(DATA / stage, stage, trained_name(settings["model"], stage)) for stage in stages]
    grid = grid_of(section, preset.eval_seconds, settings)
    outcome = sweep(trained, DATA / "features", grid, run_columns(settings))
    histories = [DATA / stage / "history.csv" for stage in stages]
    write_outcome(fresh_folder(DATA / "evaluate"), outcome, settings, histories)
    log_outcome(ROOT, DATA / "evaluate", DATA / "features", DATA / "finetune")


if __name__ == "__main__":
    run_main(main)
