"""Measure every trained model at every patch size and clip length: `python -m stages.evaluate`."""

from audiolib.config.corpus import DataPreset
from audiolib.config.evaluation import EvaluateSection
from audiolib.config.strict import read_preset, read_section
from audiolib.errors import run_main
from audiolib.evaluate import Trained, sweep
from audiolib.files import fresh_folder
from audiolib.results import table, write_outcome
from audiolib.tracking import log_outcome, resolved
from stages import DATA, ROOT


def main() -> None:
    section = read_section(ROOT, "evaluate", EvaluateSection)
    preset = read_preset(ROOT, "data", DataPreset)
    trained = [Trained(DATA / stage, stage) for stage in ("pretrain", "finetune")]
    settings = resolved(ROOT)
    outcome = sweep(trained, DATA / "features", section, preset.eval_seconds, settings)
    rows = table(outcome.rows)
    write_outcome(fresh_folder(DATA / "evaluate"), rows, outcome.predictions, settings)
    log_outcome(ROOT, rows, [DATA / stage / "history.csv" for stage in ("pretrain", "finetune")])


if __name__ == "__main__":
    run_main(main)
