"""Measure every trained model at every patch size and clip length: `python -m stages.evaluate`."""

from audiolib.config.corpus import DataPreset
from audiolib.config.evaluation import EvaluateSection
from audiolib.config.strict import read_preset, read_section
from audiolib.errors import run_main
from audiolib.evaluate import Trained, grid_of, run_columns, sweep, trained_name
from audiolib.files import fresh_folder
from audiolib.results import table, write_outcome
from audiolib.tracking import log_outcome, resolved
from stages import DATA, ROOT


def main() -> None:
    section = read_section(ROOT, "evaluate", EvaluateSection)
    preset = read_preset(ROOT, "data", DataPreset)
    settings, stages = resolved(ROOT), ("pretrain", "finetune")
    trained = [Trained(DATA / stage, stage, trained_name(settings["model"], stage)) for stage in stages]
    grid = grid_of(section, preset.eval_seconds, settings)
    outcome = sweep(trained, DATA / "features", grid, run_columns(settings))
    rows = table(outcome.rows)
    write_outcome(fresh_folder(DATA / "evaluate"), rows, outcome.predictions, settings)
    log_outcome(ROOT, rows, [DATA / stage / "history.csv" for stage in stages])


if __name__ == "__main__":
    run_main(main)
