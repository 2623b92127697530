"""A self-contained page with charts, tables and sounds, and the same as Markdown with PNG files."""

import base64
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from audiolib.charts import LIBRARY
from audiolib.files import disk_errors, write_text

_TEMPLATE = Path(__file__).with_name("page.html.jinja")


@dataclass(frozen=True)
class Table:
    """A table that its reader can sort.

    Attributes:
        columns: titles; one that ends with a star holds text, all others numbers.
        rows: values; `formats` says how numbers are shown.
        formats: a format for each column.
    """

    columns: list[str]
    rows: list[list[Any]]
    formats: list[str]

    def shown(self, row: list[Any]) -> list[str]:
        """A row as it is read."""
        pairs = zip(row, self.formats, strict=True)
        return ["" if value is None else format(value, form) for value, form in pairs]


@dataclass(frozen=True)
class Mistake:
    """A clip that was taken for another class: spectrogram as PNG and sound as wav, both as base64 text."""

    id: str
    actual: str
    predicted: str
    probability: float
    picture: str
    sound: str | None


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Attributes:
        title: its heading.
        text: what is to be seen.
        charts: for the page, as HTML.
        figures: for Markdown, by file name.
        wide: one chart a line.
        table: below the charts; `folded` tables open at a click.
        pictures: names of the figures that the page shows as they are.
        mistakes: clips to look at and listen to.
        code: verbatim text.
    """

    title: str
    text: str
    charts: list[str] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)
    wide: bool = False
    table: Table | None = None
    folded: bool = False
    pictures: list[str] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)
    code: str | None = None


@dataclass(frozen=True)
class Page:
    """A report: tiles are numbers to remember, each with its text."""

    title: str
    subtitle: str
    tiles: list[tuple[str, str]]
    sections: list[Section]


def write(page: Page, out: Path) -> None:
    """Leave `report.html`, `report.md` and the PNG files of all figures in a folder."""
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    shown: dict[str, str] = {}
    for section in page.sections:
        for name, figure in section.figures.items():
            with disk_errors(out):
                figure.savefig(out / f"{name}.png", dpi=110, metadata={"Software": None})
        for name in section.pictures:
            shown[name] = base64.b64encode((out / f"{name}.png").read_bytes()).decode()
    template = jinja2.Environment(autoescape=True).from_string(_TEMPLATE.read_text(encoding="utf-8"))
    write_text(out / "report.html", template.render(page=page, pictures=shown, library=LIBRARY()))
    write_text(out / "report.md", _markdown(page))


def _markdown(page: Page) -> str:
    parts = [f"# {page.title}", page.subtitle, "\n".join(f"- **{value}** {text}" for value, text in page.tiles)]
    for section in page.sections:
        parts += [f"## {section.title}", section.text]
        parts += [f"![{name}]({name}.png)" for name in section.figures]
        if section.table is not None:
            parts.append(markdown_table(section.table))
        if section.mistakes:
            lines = [f"- {m.id}: {m.actual}, taken for {m.predicted} ({m.probability:.0%})" for m in section.mistakes]
            parts.append("\n".join(lines))
        if section.code is not None:
            parts.append(f"```\n{section.code.strip()}\n```")
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(table: Table) -> str:
    """A table as Markdown; numbers stand right."""
    titles = [title.removesuffix("*") for title in table.columns]
    rules = ["---" if title.endswith("*") else "---:" for title in table.columns]
    lines = [titles, rules, *(table.shown(row) for row in table.rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
