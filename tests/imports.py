"""Which files of the project a module needs: its imports, theirs, and so on, read from the syntax trees, and the files
of the library that these name: C++, tables, templates.

`python -m tests.imports` writes them into dvc.yaml.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("audiolib", "stages")
# What is not Python, by its name; py.typed is for type checkers.
OTHERS = {path.name: path for path in ROOT.glob("audiolib/**/*.*") if path.suffix not in (".py", ".pyc", ".typed")}


def file_of(module: str) -> Path | None:
    """The file of a dotted module name of this project."""
    path = ROOT.joinpath(*module.split("."))
    if path.with_suffix(".py").exists():
        return path.with_suffix(".py")
    return path / "__init__.py" if (path / "__init__.py").exists() else None


def imported(path: Path) -> set[str]:
    """Every module of the project that a file imports, at its top or inside a function; not for types only."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return {name for name in found if name.split(".")[0] in PACKAGES}


def named(path: Path) -> set[Path]:
    """Every file of `OTHERS` whose name stands in a Python file."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {OTHERS[node.value] for node in nodes if isinstance(node, ast.Constant) and node.value in OTHERS}


def closure(path: Path) -> set[Path]:
    """A file and all project files that it needs, with the packages they lie in."""
    done: set[Path] = set()
    todo = [path]
    while todo:
        current = todo.pop()
        if current in done:
            continue
        done.add(current)
        todo.extend(package for package in _packages(current))
        todo.extend(found for name in imported(current) if (found := file_of(name)))
    return done.union(*map(named, done))


def _packages(path: Path) -> list[Path]:
    """The `__init__.py` of every package above a file: Python runs them first."""
    found = []
    for folder in path.parents:
        if folder == ROOT:
            break
        found.append(folder / "__init__.py")
    return found


def is_folder(dep: str) -> bool:
    """Whether an entry of `deps` is a whole folder of the library."""
    return dep.startswith("audiolib/") and "." not in dep


def write_deps(pipeline: Path) -> None:
    """Bring the code among every stage's `deps` in dvc.yaml up to date; data and whole folders stay."""
    text = pipeline.read_text(encoding="utf-8")
    for stage in re.findall(r"cmd: python -m stages\.(\w+)", text):
        block = re.search(rf"cmd: python -m stages\.{stage}\n    deps:\n((?:      - .*\n)+)", text)
        assert block, f"{stage} has no deps"
        deps = [line.strip("- ") for line in block[1].splitlines()]
        folders = tuple(f"{dep}/" for dep in deps if is_folder(dep))
        others = [f"      - {dep}" for dep in deps if is_folder(dep) or not dep.startswith(PACKAGES)]
        needed = {str(path.relative_to(ROOT)) for path in closure(ROOT / "stages" / f"{stage}.py")}
        code = [path for path in needed if not path.startswith(folders)]
        code.sort(key=lambda path: (not path.startswith("stages"), path))
        lines = [f"      - {path}" for path in code] + others
        text = text.replace(block[0], block[0].replace(block[1], "\n".join(lines) + "\n"))
    pipeline.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_deps(ROOT / "dvc.yaml")
