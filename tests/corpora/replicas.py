"""Small archives in the layouts of the upstream corpora, with generated sounds."""

import io
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
