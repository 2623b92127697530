"""What a study trains and measures: one file of `configs/study`."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat

from audiolib.config.strict import Section
from audiolib.config.training import PatchSizes, Seed


class StudyRun(Section):
    """One model of a study: the `finetune` recipe of a preset, with changes.

    `seconds` is the clip length trained at, the corpus' own unless told. `start` names an earlier run of the study
    whose weights this one begins with (same corpus, same seed).
    """

    name: str
    preset: str
    architecture: dict[str, Any] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)
    seconds: PositiveFloat | None = None
    start: str | None = None


class Study(Section):
    """Every run is trained on every corpus with every seed, and measured once on the test split.

    It is measured along three lines, the rest being patch 16, the corpus' clip length and the hop trained at; with
    `matrix` at every patch size x clip length, too.
    """

    question: str
    corpora: Annotated[list[str], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    precision: Literal["float32", "bfloat16"]
    patch_sizes: PatchSizes
    seconds: list[PositiveFloat] = Field(default_factory=list)
    hops_ms: list[PositiveFloat] = Field(default_factory=list)
    matrix: bool = False
    runs: Annotated[list[StudyRun], Field(min_length=1)]
