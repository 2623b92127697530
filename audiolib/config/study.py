"""What a study trains and measures: one file of `configs/study`."""

from typing import Annotated, Any

from pydantic import Field, PositiveFloat, model_validator

from audiolib.config.strict import Section
from audiolib.config.training import PatchSizes, Seed
from audiolib.errors import AudiolibError


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

    It is measured along three lines, the rest being its own patch size, the corpus' clip length and the hop trained at;
    with `matrix` at every patch size x clip length, too.
    """

    question: str
    corpora: Annotated[list[str], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    patch_sizes: PatchSizes
    seconds: list[PositiveFloat] = Field(default_factory=list)
    hops_ms: list[PositiveFloat] = Field(default_factory=list)
    matrix: bool = False
    runs: Annotated[list[StudyRun], Field(min_length=1)]

    @model_validator(mode="after")
    def _starts_are_earlier(self) -> "Study":
        for place, run in enumerate(self.runs):
            if run.start is not None and run.start not in [earlier.name for earlier in self.runs[:place]]:
                raise ValueError(f"{run.name} starts from {run.start}, which no earlier run makes")
        return self

    def run(self, name: str) -> StudyRun:
        """The run of that name.

        Raises:
            AudiolibError: there is none.
        """
        for run in self.runs:
            if run.name == name:
                return run
        raise AudiolibError(f"no run {name}; the study has {', '.join(run.name for run in self.runs)}")
