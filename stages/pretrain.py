"""Train through the coarse phases of the preset's `pretrain`: `python -m stages.pretrain`."""

from audiolib.errors import run_main
from audiolib.launch import train_stage
from audiolib.tracking import telling_failure
from stages import DATA, ROOT


@telling_failure(ROOT)
def main() -> None:
    train_stage(ROOT, "pretrain", features=DATA / "features", start=None, out=DATA / "pretrain")


if __name__ == "__main__":
    run_main(main, __doc__)
