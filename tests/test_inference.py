"""Models on sound files: against a plain loop, over any input, and through the command line."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from audiolib.batches import pack
from audiolib.errors import AudiolibError
from audiolib.follow import follow
from audiolib.frontend import Frontend, decode, log_mel
from audiolib.inference import Listener, top, whole_files, window_starts
from audiolib.models import create_model
from audiolib.pretrained import Card, load, save_pretrained

CLASSES = ["bell", "dog", "rain", "a, b"]


FRONTEND = {"sample_rate": 16000, "mel_bins": 128, "window_ms": 25.0, "hop_ms": 10.0, "mean": -7.0, "std": 4.0}


def saved(folder: Path, name: str = "elastic_nano", **changes) -> Path:
    """A model folder with random weights, large enough in the head that its answers differ."""
    small = {"width": 48, "depth": 1, **({} if name.startswith("aum") else {"heads": 2})}
    model = create_model(name, len(CLASSES), seed=1, frames=100, **small)
    torch.nn.init.normal_(model.head.weight, std=1.0, generator=torch.Generator().manual_seed(0))
    padded = not name.startswith("elastic")
    values = {"classes": CLASSES, "multi_label": False, "frontend": FRONTEND, "patch": (16, 16), "frames": 100}
    card = Card(**{**values, "compression": 1, "method": "none", "padded": padded, **changes})
    save_pretrained(model, card, folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("model") / "m")


def sound(path: Path, seconds: float, rate: int = 16000, channels: int = 1, pitch: float = 440.0) -> Path:
    """A gliding tone with a click in it."""
    t = np.arange(int(seconds * rate)) / rate
    wave = 0.3 * np.sin(2 * np.pi * (pitch * t + 60 * t**2))
    wave[len(wave) // 2 : len(wave) // 2 + 20] += 0.5
    soundfile.write(path, np.repeat(wave[:, None], channels, 1), rate)
    return path


def by_hand(folder: Path, path: Path, start: float, end: float, hop: float = 10.0, patch=(16, 16)) -> np.ndarray:
    mel = log_mel(decode(path, 16000, start, end), Frontend(16000, 128, 25.0, hop))
    x = torch.from_numpy((mel - np.float32(-7.0)) * np.float32(0.125))
    with torch.inference_mode():
        return load(folder)(pack([x], stretch=[hop / 10]), patch).softmax(1)[0].numpy()


@pytest.mark.parametrize("shape", [{}, {"patch": (12, 12)}, {"hop_ms": 14.0}, {"patch": (16, 8), "hop_ms": 25.0}])
def test_windows_are_what_a_plain_loop_finds(folder, tmp_path, shape):
    files = [sound(tmp_path / f"{n}.wav", seconds) for n, seconds in enumerate((0.4, 1.3, 2.05))]
    found = list(Listener(folder, **shape).listen(files, window=0.5, stride=0.3))
    assert [(h.path, round(h.start, 2), round(h.end, 2)) for h in found[:5]] == [
        (str(files[0]), 0, 0.4), (str(files[1]), 0, 0.5), (str(files[1]), 0.3, 0.8), (str(files[1]), 0.6, 1.1),
        (str(files[1]), 0.8, 1.3),
    ]  # fmt: skip
    for heard in found:
        hop = shape.get("hop_ms", 10.0)
        alone = by_hand(folder, Path(heard.path), heard.start, heard.end, hop, shape.get("patch", (16, 16)))
        assert np.allclose(heard.values, alone, atol=2e-5)
    assert sum(found[1].values) == pytest.approx(1, abs=1e-5)


def test_a_model_trained_on_padded_clips_sees_its_own_length(tmp_path):
    listener = Listener(saved(tmp_path / "m", "flexi_nano"))
    assert listener.own_seconds == 1.0
    long = sound(tmp_path / "long.wav", 2.5)
    windows = list(listener.listen([long]))
    assert [(round(h.start, 2), round(h.end, 2)) for h in windows] == [(0, 1), (1, 2), (1.5, 2.5)]
    (whole,) = whole_files(windows)
    assert np.allclose(whole.values, np.mean([h.values for h in windows], axis=0)) and whole.end == 2.5
    short = sound(tmp_path / "short.wav", 0.005)  # Shorter than one analysis window.
    assert np.isfinite(next(iter(listener.listen([short]))).values).all()


def test_coarse_models_and_several_labels(tmp_path):
    pooled = Listener(saved(tmp_path / "p", "flexi_nano", compression=2, method="avg_pool"))
    path = sound(tmp_path / "a.wav", 1.0)
    assert np.isfinite(next(iter(pooled.listen([path]))).values).all()
    several = Listener(saved(tmp_path / "s", multi_label=True))
    values = next(iter(several.listen([path]))).values
    assert abs(values.sum() - 1) > 1e-3 and ((values > 0) & (values < 1)).all()


def test_rate_and_channels_do_not_matter(folder, tmp_path):
    plain = sound(tmp_path / "a.wav", 1.0)
    stereo = sound(tmp_path / "b.wav", 1.0, rate=44100, channels=2)
    one, other = (h.values for h in Listener(folder).listen([plain, stereo]))
    assert np.allclose(one, other, atol=0.05)


def test_files_are_read_one_by_one_and_in_pieces(folder, tmp_path, monkeypatch):
    read = []

    def noted(path, rate, start, end):
        read.append((path.name, end - start))
        return decode(path, rate, start, end)

    monkeypatch.setattr("audiolib.inference.decode", noted)
    monkeypatch.setattr("audiolib.inference.BATCH_FRAMES", 400)
    files = [sound(tmp_path / f"{n}.wav", 30.0) for n in range(2)]
    windows = Listener(folder).listen(files, window=1.0)
    next(windows)
    assert len(read) <= 6 and max(length for _, length in read) <= 1.0 + 1e-9
    assert sum(1 for _ in windows) == 59


def test_embeddings_are_what_the_head_sees(folder, tmp_path):
    path, listener = sound(tmp_path / "a.wav", 1.0), Listener(folder)
    (said,) = listener.listen([path])
    (vector,) = listener.listen([path], embed=True)
    assert vector.values.shape == (48,)
    assert np.allclose(listener.probabilities(torch.from_numpy(vector.values)[None])[0], said.values, atol=1e-5)


@given(st.floats(0.01, 500), st.floats(0.05, 30), st.floats(0.05, 30))
def test_windows_cover_a_file(total, window, stride):
    starts = window_starts(total, window, stride)
    assert starts[0] == 0 and starts == sorted(starts)
    assert starts[-1] + window >= total - 1e-6 and (total <= window or math.isclose(starts[-1] + window, total))
    assert all(later - earlier <= stride + 1e-9 for earlier, later in pairwise(starts))


def test_bad_files_are_told_or_raised(folder, tmp_path):
    good, empty, text = sound(tmp_path / "a.wav", 1.0), tmp_path / "empty.wav", tmp_path / "t.wav"
    empty.write_bytes(b"")
    text.write_text("no sound")
    told = []
    found = list(
        Listener(folder).listen([empty, good, text, tmp_path / "no.wav"], bad=lambda p, r: told.append((p, r)))
    )
    assert [h.path for h in found] == [str(good)] and [Path(p).name for p, _ in told] == [
        "empty.wav",
        "t.wav",
        "no.wav",
    ]
    with pytest.raises(AudiolibError, match=r"empty.wav: the file is empty"):
        list(Listener(folder).listen([empty]))
    with pytest.raises(AudiolibError, match="positive numbers of seconds"):
        list(Listener(folder).listen([good], window=0))


def test_top_is_sorted():
    assert top(np.array([0.1, 0.5, 0.2, 0.2]), CLASSES, 3) == [("dog", 0.5), ("rain", 0.2), ("a, b", 0.2)]


FOLLOWS = {"directions": "fo-fo", "order": "time", "class_token": "end", "positions": "centre", "border": "pad"}


FOLLOWED = [
    (16000, 23.3, 5.0, 10),
    (16000, 0.4, 1.0, 10),
    (44100, 21.0, 7.0, 10),
    (16000, 12.2, 4.0, 20),
    (16000, 24.0, 4.5, 36),  # Longer than a window: samples between two windows are not heard.
]


@pytest.mark.parametrize("rate, seconds, every, hop", FOLLOWED)
def test_a_followed_file_is_what_the_model_says_of_its_beginning(tmp_path, rate, seconds, every, hop):
    listener = Listener(streaming_model(tmp_path / "m"), hop_ms=hop)
    path = sound(tmp_path / "a.wav", seconds, rate=rate)
    told = list(follow(listener, path, every, pytest.fail))
    assert [round(h.end, 1) for h in told] == [*np.arange(every, seconds - 0.1, every), seconds]
    for heard in (told[0], told[-1]):
        mel = log_mel(decode(path, 16000, 0, None), Frontend(16000, 128, 25.0, hop))
        mel = mel[: round(heard.end * 1000 / hop)]  # Frames that begin before then.
        batch = pack([torch.from_numpy(listener.normalised(mel))], stretch=[hop / 10])
        with torch.inference_mode():
            whole = listener.model(batch).softmax(1)[0].numpy()
        assert np.allclose(heard.values, whole, atol=1e-4 if rate == 16000 else 1e-3)
    if len(told) > 1:
        assert not np.allclose(told[0].values, told[-1].values, atol=1e-3)


def streaming_model(folder: Path) -> Path:
    """Its positions reach over 25 s: beyond them a whole clip squeezes them, which a stream cannot."""
    model = create_model("aum_nano", len(CLASSES), seed=1, frames=2500, width=48, depth=1, **FOLLOWS)
    torch.nn.init.normal_(model.head.weight, std=1.0, generator=torch.Generator().manual_seed(0))
    save_pretrained(model, Card(CLASSES, False, FRONTEND, (16, 16), 2500, 1, "none"), folder)
    return folder


def test_a_file_that_is_named_twice_is_told_twice(folder, tmp_path):
    path = sound(tmp_path / "a.wav", 1.3)
    windows = list(Listener(folder).listen([path, path], window=0.5))
    assert len(windows) == 6 and [heard.end for heard in whole_files(windows)] == [1.3, 1.3]
