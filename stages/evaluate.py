"""Measure every trained model at every shape of a preset in configs/evaluate: `python -m stages.evaluate`."""

from audiolib.config.corpus import DataPreset
from audiolib.config.evaluation import EvaluatePreset
from audiolib.config.strict import read_preset, read_section, resolved
from audiolib.config.training import TrainSection
from audiolib.errors import run_main
from audiolib.evaluate import sweep
from audiolib.files import fresh_folder
from audiolib.grid import Trained, grid_of, run_columns, trained_name
from audiolib.results import write_outcome
from audiolib.tracking import attach, log_outcome, telling_failure
from stages import DATA, ROOT


@telling_failure(ROOT)
def main() -> None:
    section = read_preset(ROOT, "evaluate", EvaluatePreset)
    preset = read_preset(ROOT, "data", DataPreset)
    settings, stages = resolved(ROOT), ("pretrain", "finetune")
    trained = [Trained(DATA / stage, stage, trained_name(settings["model"], stage)) for stage in stages]
    grid = grid_of(section, preset.eval_seconds, settings)
    attach(ROOT)  # An MLflow server that does not answer is better known before hours of work than after.
    train = read_section(ROOT, "train", TrainSection)
    kernels = {"attention": train.attention, "scan": train.scan}
    outcome = sweep(trained, DATA / "features", grid, run_columns(settings), train.device, kernels=kernels)
    histories = [DATA / stage / "history.csv" for stage in stages]
    write_outcome(fresh_folder(DATA / "evaluate"), outcome, settings, histories)
    log_outcome(ROOT, DATA / "evaluate", DATA / "features", DATA / "finetune")
    outcome.written()


if __name__ == "__main__":
    run_main(main, __doc__)
