"""`make ui`: the MLflow UI on the recorded runs, opened in the browser where the models' curves lie over one another.

python -m audiolib.ui [--port N] [--experiment NAME]
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import webbrowser
from pathlib import Path

from audiolib.errors import AudiolibError, run_main
from audiolib.files import project_folder
from audiolib.progress import say
from audiolib.registry import experiment_id, quiet_mlflow, to_overlay, tracking_uri


def serve(root: Path, port: int, experiment: str | None = None) -> int:
    """Run the server until it is stopped; returns its exit status. A server of MLFLOW_TRACKING_URI runs already.

    Args:
        root: the project.
        port: where, on this machine only.
        experiment: which runs; null = those of the pipeline.

    Raises:
        AudiolibError: MLFLOW_TRACKING_URI does not answer, or the port is taken.
    """
    quiet_mlflow()
    uri = tracking_uri(root)
    runs = _view(uri, experiment)
    if uri.startswith("http"):
        _show(f"{uri.rstrip('/')}/#/{runs}")
        return 0
    with socket.socket() as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind(("127.0.0.1", port))
        except OSError as error:
            raise AudiolibError(f"port {port} is taken; choose another: python -m audiolib.ui --port N") from error
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--port", str(port), "--workers", "1"]
    server = subprocess.Popen(command, start_new_session=True)
    for number in (signal.SIGTERM, signal.SIGINT):  # It has processes of its own, which it may leave behind.
        signal.signal(number, lambda *_: os.killpg(server.pid, signal.SIGTERM))
    if _answers(server, f"http://127.0.0.1:{port}/health"):
        _show(f"http://127.0.0.1:{port}/#/{runs}")
    return server.wait()


def _view(uri: str, experiment: str | None) -> str:
    """The page of the UI: accuracy over patch sizes, a line a model; else the runs as charts; else the start."""
    number = experiment_id(uri, experiment)
    if number is None:
        return ""
    curve, runs = to_overlay(uri, number)
    if not runs:
        return f"experiments/{number}/runs?compareRunsMode=CHART"
    told = {"runs": runs, "metric": curve, "experiments": [number], "plot_metric_keys": [curve], "show_point": True,
            "plot_layout": {"autosize": True, "xaxis": {}, "yaxis": {}}, "line_smoothness": 1, "deselected_curves": [],
            "last_linear_y_axis_range": []}  # fmt: skip
    query = {key: json.dumps(value, separators=(",", ":")) for key, value in told.items()}
    return "metric?" + urllib.parse.urlencode({**query, "x_axis": "step", "y_axis_scale": "linear"})


def _show(page: str) -> None:
    """Say where models lie side by side, and go there; in a terminal's text a browser would hide what a server says."""
    say(f"models side by side: {page}")
    if sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")):
        webbrowser.open(page)


def _answers(server: "subprocess.Popen[bytes]", address: str) -> bool:
    """Whether it comes up; a server that has ended does not."""
    while server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=2):
                return True
        except OSError:
            time.sleep(0.5)
    return False


def main() -> None:
    """Serve the project that this folder is in."""
    parser = argparse.ArgumentParser(description="The MLflow UI on the recorded runs, models side by side.")
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--experiment", help="'audiolib studies' has what study_record keeps there")
    asked = parser.parse_args()
    sys.exit(serve(project_folder(), asked.port, asked.experiment))


if __name__ == "__main__":
    run_main(main)
