"""The page that shows a run: `python -m stages.report`."""

from audiolib.config.evaluation import ReportSection
from audiolib.config.strict import read_section
from audiolib.errors import run_main
from audiolib.files import fresh_folder
from audiolib.record import read_record
from audiolib.report import Sources, render
from audiolib.tracking import log_files, log_record, telling_failure
from stages import DATA, ROOT


@telling_failure(ROOT)
def main() -> None:
    section = read_section(ROOT, "report", ReportSection)
    sources = Sources(DATA / "features", DATA / "evaluate")
    read_record(sources.evaluate)  # Before what an earlier run left is given up.
    out = fresh_folder(DATA / "report")
    shown = {"classes_shown": section.classes_shown, "mistakes_shown": section.mistakes_shown}
    render(sources, out, **shown)
    log_record(ROOT, DATA / "evaluate", DATA / "features")
    log_files(ROOT, sorted(out.iterdir()), "report")


if __name__ == "__main__":
    run_main(main, __doc__)
