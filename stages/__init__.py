"""The pipeline's steps, in order: download, features, pretrain, finetune, evaluate, report.

Each reads its section of params.yaml, calls one function of `audiolib`, and leaves files in `data/<its name>`. All run
alone, from any folder: `python -m stages.finetune`.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
