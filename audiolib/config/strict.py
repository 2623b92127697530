"""Strict YAML sections: unknown keys and wrong types are refused with the key's full path."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from audiolib.errors import AudiolibError

T = TypeVar("T")


class Section(BaseModel):
    """Base of every section: frozen, no unknown keys, no silent conversion of text to numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping.

    Raises:
        AudiolibError: the file is missing, is not YAML, or is not a mapping.
    """
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        near = sorted(p.stem for p in path.parent.glob("*.yaml"))
        hint = f"; {path.parent.name} can be: {', '.join(near)}" if near else ""
        raise AudiolibError(f"{path} does not exist{hint}") from error
    except OSError as error:
        raise AudiolibError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = " ".join(str(error).split())
        raise AudiolibError(f"{path} is not valid YAML: {where}") from error
    if not isinstance(value, dict):
        raise AudiolibError(f"{path} must hold keys and values, not {type(value).__name__}")
    return value


# The sections of params.yaml; `audiolib.config.project.Params` gives each its type.
SECTIONS = ("model", "data", "seed", "download", "features", "train", "evaluate", "report")


def read_section(root: Path, name: str, kind: type[T] | Any) -> T:
    """Read one section of params.yaml below `root`; a top-level key that no stage knows is refused, too.

    Raises:
        AudiolibError: the file or the section is missing, or a key is unknown or of the wrong type.
    """
    params = read_yaml(root / "params.yaml")
    unknown = sorted(set(params) - set(SECTIONS))
    if unknown:
        raise AudiolibError(f"unknown key params.yaml.{unknown[0]}; the sections are: {', '.join(SECTIONS)}")
    if name not in params:
        raise AudiolibError(f"missing key params.yaml.{name}")
    return validate(kind, params[name], f"params.yaml.{name}")


def read_preset(root: Path, group: str, kind: type[T] | Any) -> T:
    """Read the preset that `model`, `data` or `evaluate` in params.yaml names: `configs/<group>/<name>.yaml`."""
    name = read_section(root, group, str)
    return validate(kind, read_yaml(root / "configs" / group / f"{name}.yaml"), f"configs/{group}/{name}.yaml")


def resolved(root: Path) -> dict[str, Any]:
    """params.yaml and the presets that it selects, as plain values."""
    params = read_yaml(root / "params.yaml")
    groups = ("model", "data", "evaluate")
    presets = {group: read_yaml(root / "configs" / group / f"{params[group]}.yaml") for group in groups}
    return {"params": params, **presets}


def validate(kind: type[T] | Any, value: Any, where: str) -> T:
    """Check `value` against a section type; `where` is the path of keys that leads to it.

    Raises:
        AudiolibError: one line that names the first wrong key with its full path, and how many more there are.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise AudiolibError(_one_line(error, where)) from error


def _one_line(error: ValidationError, where: str) -> str:
    problems = error.errors(include_url=False)
    first = problems[0]
    # pydantic puts the tag of a union into the location; only keys that the user wrote are shown.
    keys = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("function-", "tagged-")))
    path = f"{where}.{keys}" if keys else where
    if first["type"] == "extra_forbidden":
        text = f"unknown key {path}"
    elif first["type"] == "missing":
        text = f"missing key {path}"
    else:
        # A rule over a whole section has the section as its input, which would fill the screen.
        got = "" if isinstance(first["input"], dict) else f", got {first['input']!r}"
        text = f"{path}: {first['msg'].removeprefix('Value error, ')}{got}"
    more = len(problems) - 1
    return f"{text} (and {more} more)" if more else text
