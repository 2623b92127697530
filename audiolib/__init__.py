"""Flexible audio spectrogram classifiers: any patch size, clip length and time resolution.

Letters used for shapes everywhere in this package
    l  samples of a waveform         n  tokens of a pack
    t  frames of one clip            d  width of the model
    s  frames of a pack              h  attention heads
    f  mel bands                     k  width of one head
    m  clips in a pack               c  classes
    e  inner width, j  state size    p_f, p_t  patch height (bands) and width (frames)
Capitals A B C D and delta belong to the state-space model only.

Reading order, from a wav file to a result matrix
    corpora/    which clips there are        frontend.py  wav -> log-mel
    shards.py   log-mel on disk              batches.py   clips laid end to end
    views.py    how a clip is shown          packing.py   which clips share a pack
    loader.py   shards -> batches            models/      batch -> logits
    epochs.py   the plan of an epoch         phases.py    patch draws, losses
    train.py    the loop                     launch.py    one process or many
    evaluate.py patch x length x hop sweep   results.py   tidy rows
    tracking.py rows -> MLflow               report.py    rows -> report.html
    inference.py  a trained model for sound files
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audiolib.batches import pack
    from audiolib.frontend import Frontend, decode, log_mel
    from audiolib.inference import Listener
    from audiolib.models import create_model, list_models
    from audiolib.pretrained import load

__version__ = "0.1.0"
__all__ = ["Frontend", "Listener", "create_model", "decode", "list_models", "load", "log_mel", "pack"]
_HOMES = {
    "Frontend": "audiolib.frontend",
    "Listener": "audiolib.inference",
    "create_model": "audiolib.models",
    "decode": "audiolib.frontend",
    "list_models": "audiolib.models",
    "load": "audiolib.pretrained",
    "log_mel": "audiolib.frontend",
    "pack": "audiolib.batches",
}


def __getattr__(name: str) -> Any:
    """Import torch only when a model is asked for, so that `import audiolib` stays quick."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'audiolib' has no attribute {name!r}")


def __dir__() -> list[str]:
    """So that completion shows what there is."""
    return [*__all__, "__version__"]
