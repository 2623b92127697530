"""The tables of README.md: what the studies have found, one line a model, from the kept rows of docs/results.

python -m audiolib.summary
"""

import statistics

import polars as pl

from audiolib.config.study import StudyRun
from audiolib.errors import run_main
from audiolib.evidence import read_evidence
from audiolib.files import write_text
from audiolib.results import AXES, measured_axes
from audiolib.study import ROOT, read_study
from audiolib.study_home import at_home, epochs_of, home_of, training_cost

# Of each study the runs that are told, and how; of `compare` all are.
SHOWN = {
    "compare": {
        "ast-p8": "AST/8",
        "ast-p8 coarse to fine": "AST/8, coarse to fine",
        "ast-p16": "AST/16",
        "ast-p16 coarse to fine": "AST/16, coarse to fine",
        "ast-p32": "AST/32",
        "ast-p32 coarse to fine": "AST/32, coarse to fine",
        "flexi": "FlexiAST, from AST/8",
        "flexi coarse to fine": "FlexiAST, coarse to fine",
        "elastic": "ElasticAST",
        "elastic coarse to fine": "ElasticAST, coarse to fine",
        "aum": "Audio Mamba",
        "aum coarse to fine": "Audio Mamba, coarse to fine",
        "aum in packs": "Audio Mamba in packs",
        "any": "any: FlexiAST in ElasticAST's packs",
        "any aum": "any aum: the same with Audio Mamba",
    },
    "flexi": {
        "ast-p8": "AST/8",
        "ast-p16": "AST/16",
        "ast-p32": "AST/32",
        "flexi": "FlexiAST, from AST/8",
        "flexi dense": "FlexiAST, ten sizes drawn",
    },
    "elastic": {
        "ast 0.96 s": "AST/16, 0.96 s, 10 ms",
        "ast 20 ms": "AST/16, 0.96 s, 20 ms",
        "elastic": "ElasticAST",
    },
    "coarse": {
        "single": "AST/16, single-phase",
        "avg_pool two": "AST/16, average pooling in two phases",
        "frame_shift three": "AST/16, frame shift in three phases",
    },
    "aum": {"ast": "AST/16", "aum": "Audio Mamba"},
}
_MANY = {"patch": "patch sizes", "length": "lengths", "hop": "hops"}
BEGIN, END = "<!-- python -m audiolib.summary -->", "<!-- end -->"


def render() -> str:
    """The tables as Markdown, one for each study and corpus that has rows."""
    parts = []
    for study, labels in SHOWN.items():
        kept = read_evidence(study).filter(pl.col("model").is_in(list(labels)))
        for corpus in sorted(kept["corpus"].unique()):
            rows = kept.filter(pl.col("corpus") == corpus)
            parts += [f"[{study}](docs/results/{study}.md) on `{corpus}`:", _table(study, labels, rows, corpus)]
    return "\n\n".join(parts)


def _table(name: str, labels: dict[str, str], rows: pl.DataFrame, corpus: str) -> str:
    """A line a model; of the means, those that the study has measured."""
    study, axes = read_study(name), measured_axes(rows)
    lines, points = [], dict.fromkeys(axes, 0)
    for run_name, label in labels.items():
        run = study.run(run_name)
        here = at_home(rows, run, corpus)
        if here.is_empty():
            continue
        means = []
        for axis in axes:
            line = _line(rows, run, corpus, axis)
            points[axis] = max(points[axis], line.select(AXES[axis]).n_unique())
            means.append(_spread(line.group_by("seed").agg(pl.col("value").mean())["value"].to_list()))
        cost = training_cost(study, rows, run, "train_gmac")
        seeds, home = str(here["seed"].n_unique()), _spread(here["value"].to_list())
        costs = [f"{here['gmac'].mean():.3f}", "" if cost is None else f"{cost / 1000:.1f}"]
        lines.append([label, epochs_of(study, run, corpus), seeds, home, *means, *costs])
    titles = ["model", "epochs", "seeds", "accuracy at home", *(f"over {points[axis]} {_MANY[axis]}" for axis in axes)]
    titles += ["GMAC a clip", "TMAC of training, forward"]
    rules = ["---", *["---:"] * (len(titles) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [titles, rules, *lines])


def _line(rows: pl.DataFrame, run: StudyRun, corpus: str, axis: str) -> pl.DataFrame:
    """Accuracy of a run along an axis, the rest as at its home."""
    place = vars(home_of(run, corpus))
    rest = [(pl.col(c) - value).abs() < 1e-6 for c, value in place.items() if c not in AXES[axis]]
    return rows.filter(pl.col("model") == run.name, pl.col("metric") == "accuracy", *rest)


def _spread(shares: list[float]) -> str:
    values = [100 * share for share in shares]
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def main() -> None:
    """`python -m audiolib.summary`: write the tables into README.md."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    before, rest = readme.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    write_text(ROOT / "README.md", f"{before}{BEGIN}\n\n{render()}\n\n{END}{after}")


if __name__ == "__main__":
    run_main(main, __doc__)
