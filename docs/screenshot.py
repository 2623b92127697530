"""The picture of the MLflow UI in README.md: a study's runs over one another, in headless Chromium.

    python -m audiolib.study_record flexi
    python docs/screenshot.py "audiolib studies" [OUT.png]

Without a name of an experiment, the recorded passes through the pipeline.
"""

import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from PIL import Image

PORT = 5078
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ASSISTANT = 1112  # Where the panel of MLflow's own assistant begins, which opens by itself.
SWITCHES = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--disable-quic"]


def main() -> None:
    """Serve the runs, wait for the page to be drawn, keep the picture."""
    project = Path.cwd()
    experiment = ["--experiment", sys.argv[1]] if len(sys.argv) > 1 else []
    out = Path(sys.argv[2] if len(sys.argv) > 2 else "docs/mlflow.png").resolve()
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None or not (project / "mlflow.db").exists():
        sys.exit(f"this needs one of {', '.join(BROWSERS)}, and {project / 'mlflow.db'}")
    command = [sys.executable, "-m", "audiolib.ui", "--port", str(PORT), *experiment]
    server = subprocess.Popen(command, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        page = next(word for line in server.stderr or () for word in line.split() if "/#/" in word)
        _wait(f"http://127.0.0.1:{PORT}/health")
        with tempfile.TemporaryDirectory() as profile:
            words = [f"--user-data-dir={profile}", "--window-size=1500,900", f"--screenshot={out}"]
            subprocess.run([browser, *SWITCHES, *words, "--virtual-time-budget=60000", page], check=True)
        with Image.open(out) as whole:
            whole.crop((0, 0, ASSISTANT, whole.height)).save(out)
    finally:
        server.terminate()
        server.wait(timeout=20)
    print(out)


def _wait(address: str) -> None:
    for _ in range(120):
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    sys.exit(f"{address} did not answer within a minute")


if __name__ == "__main__":
    main()
