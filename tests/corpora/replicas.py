"""Small archives in the layouts of the upstream corpora, with generated sounds."""

import csv
import io
import json
import tarfile
import wave
import zipfile
from pathlib import Path

import numpy as np


def wav_bytes(seconds: float = 0.3, rate: int = 16000, hertz: float = 440.0) -> bytes:
    """A 16-bit mono tone."""
    out = io.BytesIO()
    tone = np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)
    with wave.open(out, "wb") as sound:
        sound.setparams((1, 2, rate, tone.size, "NONE", ""))
        sound.writeframes((tone * 9000).astype("<i2").tobytes())
    return out.getvalue()


def tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as bundle:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            bundle.addfile(info, io.BytesIO(content))
    return path


def fsdd(path: Path) -> Path:
    names = [f"{d}_{who}_{i}.wav" for d in range(10) for who in ("ann", "bob") for i in range(12)]
    files = {f"free-spoken-digit-dataset/recordings/{name}": wav_bytes(rate=8000) for name in names}
    return tar(path, {"free-spoken-digit-dataset/README.md": b"text", **files})


def speech_commands_test(path: Path) -> Path:
    speakers = [f"{i:08x}" for i in range(0x1000, 0x1014)]
    files = {
        f"./{word}/{who}_nohash_{n}.wav": wav_bytes(1) for word in ("yes", "no") for who in speakers for n in (0, 1)
    }
    files |= {f"./_unknown_/bird_{who}_nohash_0.wav.wav": wav_bytes(1) for who in speakers}
    files |= {f"./_silence_/{n}.wav": wav_bytes(1) for n in range(20)}
    return tar(path, {"./LICENSE": b"text", **files})


def speech_commands_full(path: Path) -> Path:
    speakers = [f"{i:08x}" for i in range(6)]
    names = [f"{word}/{who}_nohash_0.wav" for word in ("yes", "no", "bed") for who in speakers]
    files = {f"./{name}": wav_bytes(1) for name in names}
    files["./_background_noise_/hum.wav"] = wav_bytes(1)
    files["./validation_list.txt"] = "\n".join(n for n in names if speakers[4] in n).encode()
    files["./testing_list.txt"] = "\n".join(n for n in names if speakers[5] in n).encode()
    return tar(path, files)


def esc50(path: Path) -> Path:
    lines, files = ["filename,fold,target,category,esc10,src_file,take"], {}
    for fold in range(1, 6):
        for target, name in enumerate(("dog", "rain")):
            for source in range(6):
                file = f"{fold}-{1000 * fold + 10 * target + source}-A-{target}.wav"
                lines.append(f"{file},{fold},{target},{name},False,{1000 * fold + 10 * target + source},A")
                files[f"ESC-50-master/audio/{file}"] = wav_bytes(0.2, 44100)
    files["ESC-50-master/meta/esc50.csv"] = "\n".join(lines).encode()
    with zipfile.ZipFile(path, "w") as bundle:
        for name, content in files.items():
            bundle.writestr(name, content)
    return path


def audioset(root: Path) -> Path:
    """Three segment lists with their comments, the ontology, and clips under three of the usual names."""
    mids = {"/m/09x0r": "Speech", "/m/04rlf": "Music", "/t/dd00088": "Gasp", "/m/0bt9lr": "Dog"}
    names = list(mids)
    root.mkdir()
    (root / "ontology.json").write_text(json.dumps([{"id": mid, "name": name} for mid, name in mids.items()]))
    lists = {"balanced_train": range(60), "unbalanced_train": range(100, 160), "eval": range(200, 220)}
    for part, numbers in lists.items():
        rows = [
            f'{_ytid(i)}, {30 * (i % 4):.3f}, {30 * (i % 4) + 10:.3f}, "{names[i % 4]},{names[(i + 1) % 4]}"'
            for i in numbers
        ]
        head = [
            "# Segments csv created Sun Mar  5 10:54:31 2017",
            "# num_ytids=1",
            "# YTID, start_seconds, end_seconds, positive_labels",
        ]
        (root / f"{part}_segments.csv").write_text("\n".join([*head, *rows]) + "\n")
        (root / "clips" / part).mkdir(parents=True)
        for i in numbers:
            name = (f"{_ytid(i)}.wav", f"Y{_ytid(i)}.wav", f"{_ytid(i)}_{30000 * (i % 4)}.wav")[i % 3]
            (root / "clips" / part / name).write_bytes(wav_bytes())
    return root


def _ytid(number: int) -> str:
    return f"-a_{number:08d}"


def vggsound(root: Path) -> Path:
    (root / "video").mkdir(parents=True)
    classes = ("playing harp", "people eating, noisily")
    rows = [(f"v-{i:08d}_", i % 7 * 10, classes[i % 2], "train" if i % 5 else "test") for i in range(80)]
    with (root / "vggsound.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows(rows)
    for video, start, _, _ in rows:
        (root / "video" / f"{video}_{start:06d}.wav").write_bytes(wav_bytes())
    return root


def voxceleb1(root: Path) -> Path:
    lines = []
    for speaker in ("id10001", "id10002"):
        for video, part in (("1zcIwhmdeo4", 1), ("7gWzIy6yIIk", 2), ("8mDV7ZV1e2o", 3)):
            for number in (1, 2):
                name = f"{speaker}/{video}/{number:05d}.wav"
                lines.append(f"{part} {name}")
                (root / "wav" / name).parent.mkdir(parents=True, exist_ok=True)
                (root / "wav" / name).write_bytes(wav_bytes())
    (root / "iden_split.txt").write_text("\n".join(lines) + "\n")
    return root


def epic_sounds(root: Path) -> Path:
    head = (
        "annotation_id,participant_id,video_id,start_timestamp,stop_timestamp,start_sample,stop_sample,"
        "description,class,class_id"
    )
    classes = ("rustle", "metal-only collision")
    root.mkdir()
    for part, videos in (("train", range(1, 13)), ("validation", range(20, 23))):
        rows = [head]
        for video in videos:
            name = f"P{video:02d}_101"
            (root / name[:3]).mkdir(exist_ok=True)
            (root / name[:3] / f"{name}.wav").write_bytes(wav_bytes(2.5, 24000))
            for i in range(4):
                times = f"00:00:{i * 0.5:06.3f},00:00:{i * 0.5 + 0.4:06.3f}"
                rows.append(f'{name}_{i},{name[:3]},{name},{times},0,0,"a, b",{classes[i % 2]},{i % 2}')
        (root / f"EPIC_Sounds_{part}.csv").write_text("\n".join(rows) + "\n")
    return root
