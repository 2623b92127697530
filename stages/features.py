"""Every clip to log-mel, in Parquet shards: `python -m stages.features`."""

from audiolib.config.corpus import FeaturesSection
from audiolib.config.strict import read_section
from audiolib.corpora.clips import read_clips
from audiolib.errors import run_main
from audiolib.features import extract
from audiolib.files import fresh_folder, scratch_folder
from stages import DATA, ROOT


def main() -> None:
    section = read_section(ROOT, "features", FeaturesSection)
    read_clips(DATA / "download" / "clips.parquet")  # Before what an earlier run left is given up.
    extract(DATA / "download", section, fresh_folder(DATA / "features"), scratch_folder(ROOT))


if __name__ == "__main__":
    run_main(main, __doc__)
