"""The page that shows a run: `python -m stages.report`."""

from audiolib.config.evaluation import ReportSection
from audiolib.config.strict import read_section
from audiolib.errors import run_main
from audiolib.files import fresh_folder
from audiolib.report import Sources, render
from audiolib.tracking import log_files, resolved
from stages import DATA, ROOT


def main() -> None:
    section = read_section(ROOT, "report", ReportSection)
    stages = {name: DATA / name for name in ("pretrain", "finetune")}
    sources = Sources(DATA / "features", DATA / "evaluate", stages, resolved(ROOT))
    out = fresh_folder(DATA / "report")
    render(sources, out, section.classes_shown)
    log_files(ROOT, sorted(out.iterdir()), "report")


if __name__ == "__main__":
    run_main(main)
