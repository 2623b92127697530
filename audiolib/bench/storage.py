"""What the sound beside the log-mel costs on disk: `python -m audiolib.bench storage --features data/features`."""

from pathlib import Path

from audiolib.bench.timing import Result
from audiolib.errors import AudiolibError
from audiolib.shards import column_bytes


def measure(features: Path) -> list[Result]:
    """Compressed bytes of both columns of a features folder.

    Raises:
        AudiolibError: no shards, or shards without sound.
    """
    held = column_bytes(features)
    if "log_mel" not in held or "wave" not in held:
        raise AudiolibError(f"{features} has no shards with sound; run `dvc repro features`, features.waveform: true")
    factor = (held["log_mel"] + held["wave"]) / held["log_mel"]
    size = f"{held['log_mel'] / 2**20:.1f} MiB of log-mel"
    return [Result("storage", "log-mel and sound", "over log-mel alone", size, factor, factor, factor, "x")]
