"""Where a number comes from: commit, date, command and machine, without any host's name."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def origin(command: str) -> dict[str, str]:
    """The columns that every kept row ends with."""
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    return {"commit": _commit(), "date": date, "command": command, "machine": _machine()}


def _commit() -> str:
    """The commit, with a plus sign if the library or its presets have changes beyond it; else `unknown`."""
    changed = "+" if git("status", "--porcelain", "audiolib", "configs") else ""
    return f"{commit}{changed}" if (commit := git("rev-parse", "--short", "HEAD")) else "unknown"


def git(*words: str) -> str:
    """What git says of this repository; nothing where there is no git, or no repository."""
    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""


def _machine() -> str:
    """Threads, cores, processor with its widest vectors, and accelerator; no host's name.

    One model name may stand for processors of which one is twice as fast: the vectors tell them apart.
    """
    import torch  # Here: what only reads results starts without it.

    processor, info = platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), processor)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    vectors = torch.backends.cpu.get_cpu_capability()
    return f"{torch.get_num_threads()} of {os.cpu_count()} cores, {processor} ({vectors}), {gpu}"
