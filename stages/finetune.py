"""Train on at full resolution by the preset's `finetune`, from what `pretrain` left: `python -m stages.finetune`."""

from audiolib.errors import run_main
from audiolib.launch import train_stage
from audiolib.tracking import telling_failure
from stages import DATA, ROOT


@telling_failure(ROOT)
def main() -> None:
    train_stage(ROOT, "finetune", features=DATA / "features", start=DATA / "pretrain", out=DATA / "finetune")


if __name__ == "__main__":
    run_main(main, __doc__)
