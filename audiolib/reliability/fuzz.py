"""Random tables, parameters, archives, sounds and published lists: the properties of tests/test_fuzz.py, many times."""

import os
import re
import subprocess
import sys
from pathlib import Path

from audiolib.reliability.finding import Finding

INPUTS = 2000
ROOT = Path(__file__).resolve().parent.parent.parent


def measure(features: Path, folder: Path) -> list[Finding]:
    """Others each time; what fails is kept by hypothesis, so that the next test run tries it first."""
    del features, folder
    environment = {**os.environ, "AUDIOLIB_FUZZ_EXAMPLES": str(INPUTS)}
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "--tb=no", "tests/test_fuzz.py"]
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False).stdout
    passed, failed = (int((re.findall(rf"(\d+) {word}", said) or ["0"])[-1]) for word in ("passed", "failed"))
    detail = " ".join(re.findall(r"^FAILED \S+", said, re.MULTILINE)) or (
        f"{passed} kinds of input, {INPUTS:,} each: clip tables, params.yaml, archives, wav files, lists of "
        "AudioSet, VGGSound and EPIC-Sounds"
    )
    promise = "random input gives a result or one line, never a traceback"
    return [Finding(promise, (passed + failed) * INPUTS, passed * INPUTS, detail)]
