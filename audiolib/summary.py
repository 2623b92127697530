"""The table of README.md: what the studies have found, one line a model, from the kept rows of docs/results.

python -m audiolib.summary
"""

import statistics

import polars as pl

from audiolib.errors import run_main
from audiolib.evidence import read_evidence
from audiolib.files import write_text
from audiolib.results import AXES
from audiolib.study import ROOT, read_study
from audiolib.study_home import at_home, home_of, training_cost

# Study and run; a run is told with its start.
SHOWN = (
    ("flexi", "ast-p8", "AST/8"),
    ("flexi", "ast-p16", "AST/16"),
    ("flexi", "ast-p32", "AST/32"),
    ("flexi", "flexi", "FlexiAST, from AST/8"),
    ("elastic", "ast 0.96 s", "AST/16, 0.96 s, 10 ms"),
    ("elastic", "ast 20 ms", "AST/16, 0.96 s, 20 ms"),
    ("elastic", "elastic", "ElasticAST"),
    ("aum", "ast", "AST/16, 22 epochs"),
    ("aum", "aum", "Audio Mamba, 22 epochs"),
    ("coarse", "single", "AST/16, single-phase"),
    ("coarse", "frame_shift three", "AST/16, coarse to fine"),
    ("compare", "ast-p16", "AST/16, 40 epochs"),
    ("compare", "flexi", "FlexiAST, from AST/8"),
    ("compare", "elastic", "ElasticAST"),
    ("compare", "aum", "Audio Mamba, 22 epochs"),
    ("compare", "any", "any: FlexiAST in ElasticAST's packs"),
)
BEGIN, END = "<!-- python -m audiolib.summary -->", "<!-- end -->"


def render() -> str:
    """The table as Markdown, one for each corpus that has rows."""
    parts = []
    corpora = {corpus for study, *_ in SHOWN for corpus in read_evidence(study)["corpus"]}
    for corpus in sorted(corpora):
        lines = [_line(study, run, label, corpus) for study, run, label in SHOWN]
        titles = ["model", "seeds", "accuracy at home", "mean over patch sizes", "over lengths", "over hops"]
        titles += ["GMAC a clip", "TMAC of training", "study"]
        rules = ["---", *["---:"] * (len(titles) - 2), "---"]
        table = [titles, rules, *[line for line in lines if line]]
        parts += [f"`{corpus}`:", "\n".join(f"| {' | '.join(line)} |" for line in table)]
    return "\n\n".join(parts)


def _line(study_name: str, run_name: str, label: str, corpus: str) -> list[str]:
    study, rows = read_study(study_name), read_evidence(study_name).filter(pl.col("corpus") == corpus)
    run = study.run(run_name)
    own, home = rows.filter(pl.col("model") == run_name), home_of(run, corpus)
    accuracy = own.filter(pl.col("metric") == "accuracy")
    if accuracy.is_empty():
        return []
    place = vars(home)
    here = at_home(rows, run, corpus)
    means = []
    for columns in AXES.values():
        rest = [(pl.col(c) - value).abs() < 1e-6 for c, value in place.items() if c not in columns]
        line = accuracy.filter(rest)
        several = line.select(columns).n_unique() > 1
        means.append(_spread(line.group_by("seed").agg(pl.col("value").mean())["value"].to_list()) if several else "")
    cost = training_cost(study, rows, run, "train_gmac")
    return [
        label,
        str(here["seed"].n_unique()),
        _spread(here["value"].to_list()),
        *means,
        f"{here['gmac'].mean():.3f}",
        "" if cost is None else f"{cost / 1000:.1f}",
        f"[{study_name}](docs/results/{study_name}.md)",
    ]


def _spread(shares: list[float]) -> str:
    values = [100 * share for share in shares]
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def main() -> None:
    """`python -m audiolib.summary`: write the table into README.md."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    before, rest = readme.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    write_text(ROOT / "README.md", f"{before}{BEGIN}\n\n{render()}\n\n{END}{after}")


if __name__ == "__main__":
    run_main(main)
