"""A page to try a model on: drop a sound, move patch size and hop, see what it says, when, and what that costs."""

import copy
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audiolib.errors import AudiolibError
from audiolib.figures import Figure, heard_over_time
from audiolib.frontend import BadClip, decode, duration, log_mel
from audiolib.inference import Heard, Listener, top, whole_files

if TYPE_CHECKING:
    from gradio import Blocks

# Seconds of a sound that are drawn.
LONGEST = 60.0
SIZES = (4, 48)
HOPS_MS = (5, 40)
INTRODUCTION = """## {name}
{kind}, {classes} classes. Its patch size is {patch}, its hop {hop:g} ms; others cost more or less, and are as good
as it was trained for."""


def hear(
    listener: Listener, path: str, patch: int, hop_ms: float, window: float
) -> tuple[dict[str, float], Figure, str]:
    """Classes of a whole file, the picture of what was said when, and the cost in words.

    Args:
        listener: the model.
        path: of a sound file.
        patch: size of square patches; the model's own number of bands stands for its own patch.
        hop_ms: time resolution.
        window: seconds that are looked at together; windows overlap by half.

    Raises:
        AudiolibError: the file cannot be read.
    """
    own = copy.copy(listener)
    own.patch, own.hop_ms = listener.patch if patch == listener.patch[0] else (patch, patch), hop_ms
    started = time.perf_counter()
    said = list(own.listen([path], window=window, stride=window / 2))
    spent = time.perf_counter() - started
    (whole,) = whole_files(said)
    best = dict(top(whole.values, own.classes, 5))
    return best, _picture(own, path, window, said, list(best)), _cost(own, window, spent, len(said), whole.end)


def _picture(own: Listener, path: str, window: float, said: list[Heard], names: list[str]) -> Figure:
    _, frontend = own.shape(window)
    try:
        sound = decode(Path(path), own.sample_rate, 0.0, min(duration(Path(path)), LONGEST))
    except BadClip as error:
        raise AudiolibError(f"{path}: {error}") from error
    sound = np.pad(sound, (0, max(0, frontend.window_samples - len(sound))))
    mel = log_mel(sound, frontend)
    drawn = [heard for heard in said if heard.start < LONGEST]
    lines = {name: [float(heard.values[own.classes.index(name)]) for heard in drawn] for name in names}
    return heard_over_time(mel, frontend.hop_ms, [(heard.start + heard.end) / 2 for heard in drawn], lines)


def _cost(own: Listener, window: float, spent: float, windows: int, seconds: float) -> str:
    view, _ = own.shape(window)
    tokens, macs = own.model.tokens(view.seen, own.patch), own.model.macs(view.seen, own.patch)
    return (
        f"{tokens} tokens and {macs / 1e9:.3f} GMAC a window; {windows} windows of {window:g} s in "
        f"{1000 * spent:.0f} ms, {seconds / spent:.0f} x real time"
    )


def page(model: Path | str) -> "Blocks":
    """The page of a model, to be launched.

    Raises:
        AudiolibError: not a model folder, or gradio is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise AudiolibError("the demo needs gradio: pip install -e '.[demo]' in audiolib's folder") from error
    listener = Listener(model)
    hop = listener.card.frontend["hop_ms"] * (1 if listener.card.method == "patchify" else listener.card.compression)

    def run(path: str | None, *settings: Any) -> tuple[Any, ...]:
        if path is None:
            return None, None, "Drop a sound first."
        try:
            return hear(listener, path, *settings)
        except AudiolibError as error:
            raise gradio.Error(str(error), print_exception=False) from error

    told = {"name": Path(str(model)).name, "kind": type(listener.model).__name__, "classes": len(listener.classes)}
    with gradio.Blocks(title="audiolib", analytics_enabled=False) as blocks:
        gradio.Markdown(INTRODUCTION.format(**told, patch=f"{listener.patch[0]} x {listener.patch[1]}", hop=hop))
        with gradio.Row():
            with gradio.Column(scale=1):
                sound = gradio.Audio(type="filepath", label="sound")
                patch = gradio.Slider(*_reach(SIZES, listener.patch[0]), step=1, label="patch size")
                hop_ms = gradio.Slider(*_reach(HOPS_MS, hop), step=1, label="hop (ms)")
                longest = round(min(listener.own_seconds, 10.0), 2)
                window = gradio.Slider(0.2, max(10.0, longest), value=longest, step=0.02, label="window (s)")
            with gradio.Column(scale=2):
                label = gradio.Label(num_top_classes=5, label="whole sound")
                plot = gradio.Plot(label="spectrogram and what was said when", show_label=False)
                cost = gradio.Markdown()
        settings = [sound, patch, hop_ms, window]
        for changed in (sound.change, patch.release, hop_ms.release, window.release):
            changed(run, settings, [label, plot, cost], api_name="hear" if changed == sound.change else False)
    return blocks


def _reach(reach: tuple[int, int], own: float) -> tuple[float, float, float]:
    """Ends of a slider that holds a model's own value, and that value."""
    return min(reach[0], own), max(reach[1], own), own
