"""Fetch the corpus and list its clips: `python -m stages.download`."""

from audiolib.config.corpus import DataPreset, DownloadSection
from audiolib.config.strict import read_preset, read_section
from audiolib.corpora.prepare import prepare
from audiolib.errors import run_main
from audiolib.files import fresh_folder, scratch_folder
from stages import DATA, ROOT


def main() -> None:
    preset = read_preset(ROOT, "data", DataPreset)
    section = read_section(ROOT, "download", DownloadSection)
    prepare(preset.source, section, fresh_folder(DATA / "download"), scratch_folder(ROOT) / "archives")


if __name__ == "__main__":
    run_main(main, __doc__)
