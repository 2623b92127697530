"""Trained models on sound files: real-time factor and memory for minutes to an hour of sound, and many short files
against the audio-classification pipeline of transformers with the same AST.
"""

import os
import tempfile
import time
import wave
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import torch

from audiolib.bench.timing import Result, race
from audiolib.convert import write_hugging_face
from audiolib.follow import follow
from audiolib.frontend import decode
from audiolib.inference import Listener, whole_files
from audiolib.models import create_model
from audiolib.pretrained import Card, save_pretrained

RATE, CLASSES = 16000, [f"class {number}" for number in range(10)]
FRONTEND = {"sample_rate": RATE, "mel_bins": 128, "window_ms": 25.0, "hop_ms": 10.0, "mean": -5.0, "std": 4.0}
MINUTES = (1, 10, 60)
FILES, CHUNK, FRAMES = 10_000, 500, 98
Classify = Callable[[list[Path], int], list[dict[str, float]]]
FOLLOWS = {"directions": "fo-fo", "order": "time", "class_token": "end", "positions": "centre", "border": "pad"}


def measure(device: torch.device, rounds: int) -> list[Result]:
    """Both, on the CPU; 10,000 files are as many rounds as it takes."""
    del device, rounds
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        return [*_long(folder), *_many(folder)]


def _long(folder: Path) -> list[Result]:
    found, random = [], np.random.default_rng(0)
    for minutes in MINUTES:
        _write(folder / f"{minutes}.wav", random, 60 * minutes)
    models = {"ast_nano": 1000, "flexi_nano": 1000, "elastic_nano": 3000, "aum_nano": 1000, "aum_nano, streamed": 3000}
    for name, frames in models.items():
        saved = _saved(folder / name, name.split(",")[0], frames, FOLLOWS if "streamed" in name else {})
        for minutes in MINUTES:
            taken, peak = _alone(lambda saved=saved, minutes=minutes: _hear(saved, folder / f"{minutes}.wav"))
            speed, case = 60 * minutes / taken, f"{minutes} min of sound"
            found.append(Result("listening", name, case, "speed", speed, speed, speed, "x real time"))
            found.append(Result("listening", name, case, "peak memory", peak, peak, peak, "MiB"))
    return found


def _write(path: Path, random: np.random.Generator, seconds: int) -> None:
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        for _ in range(seconds):
            out.writeframes((random.standard_normal(RATE) * 3000).astype("<i2").tobytes())


def _saved(folder: Path, kind: str, frames: int, changes: dict[str, str]) -> Path:
    model = create_model(kind, len(CLASSES), seed=1, frames=frames, **changes)
    card = Card(CLASSES, False, FRONTEND, (16, 16), frames, 1, "none", padded=kind != "elastic_nano")
    save_pretrained(model, card, folder)
    return folder


def _hear(model: Path, sound: Path) -> None:
    """All of a file: in windows of the model's own length, or as a stream that is told of every minute."""
    listener = Listener(model)
    if "streamed" in model.name:
        said = list(follow(listener, sound, 60.0, _refuse))
    else:
        said = list(whole_files(listener.listen([sound])))
    if not all(np.isfinite(heard.values).all() for heard in said):
        raise AssertionError(f"{model.name} has said something that is no number")


def _refuse(path: str, reason: str) -> None:
    raise AssertionError(f"{path}: {reason}")


def _alone(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds and MiB of a process of its own, with the interpreter and torch, model loaded in it."""
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # A forked process has lost the threads of its parent.
        work()
        os._exit(0)
    _, status, used = os.wait4(child, 0)
    if status:
        raise AssertionError("a model failed")
    return time.perf_counter() - started, used.ru_maxrss / 1024


def _many(folder: Path) -> list[Result]:
    random, files = np.random.default_rng(1), [folder / f"short-{number:05d}.wav" for number in range(FILES)]
    for path in files:
        _write(path, random, 1)
    model = create_model("ast_nano", len(CLASSES), seed=1, frames=FRAMES, prefix_tokens=2, border="crop")
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    save_pretrained(model, Card(CLASSES, False, FRONTEND, (16, 16), FRAMES, 1, "none"), folder / "many")
    write_hugging_face(folder / "many", folder / "theirs")
    listener, theirs = Listener(folder / "many"), _pipeline(folder / "theirs")
    coarse = Listener(folder / "many", patch=(32, 32))  # What a flexible model is for.
    _same(listener, theirs, files[:20])
    turns: dict[str, Iterator[int]] = defaultdict(count)

    def chunk(name: str) -> list[Path]:
        first = next(turns[name]) * CHUNK % FILES
        return files[first : first + CHUNK]

    candidates = {
        "transformers, one by one": lambda: theirs(chunk("one by one"), 1),
        "transformers, 64 at a time": lambda: theirs(chunk("64 at a time"), 64),
        "audiolib": lambda: list(listener.listen(chunk("audiolib"), window=1.0)),
        "audiolib, patch 32": lambda: list(coarse.listen(chunk("patch 32"), window=1.0)),
    }
    mode, case = f"AST, 6 blocks of 192, {torch.get_num_threads()} threads", f"{FILES:,} files of 1 s"
    found: list[Result] = []
    for r in race("many files", case, mode, candidates, FILES // CHUNK, torch.device("cpu")):
        rates = [1000 * CHUNK / taken for taken in (r.median, r.p80, r.p20)]
        found.append(Result(r.op, r.impl, case, mode, *rates, "files/s", None if r.ratio is None else 1 / r.ratio))
    return found


def _pipeline(model: Path) -> Classify:
    """Theirs, with the same weights; files are read for it, so that it needs no ffmpeg."""
    from transformers import pipeline

    run = pipeline("audio-classification", model=str(model), device="cpu")

    def classify(files: list[Path], batch: int) -> list[dict[str, float]]:
        sounds = ({"raw": decode(path, RATE, 0.0, None), "sampling_rate": RATE} for path in files)
        answers = run(sounds, batch_size=batch, top_k=len(CLASSES))
        return [{entry["label"]: entry["score"] for entry in answer} for answer in answers]

    return classify


def _same(listener: Listener, theirs: Classify, files: list[Path]) -> None:
    for heard, other in zip(listener.listen(files, window=1.0), theirs(files, 64), strict=True):
        wanted = [other[name] for name in CLASSES]
        if not np.allclose(heard.values, wanted, atol=1e-4):
            raise AssertionError(f"{heard.path}: the two do not agree")
