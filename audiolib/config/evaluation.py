"""What is measured and shown: the `evaluate` and `report` sections of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from audiolib.config.strict import Section
from audiolib.config.training import PatchSizes


class EvaluateSection(Section):
    """`evaluate` in params.yaml; the clip lengths of the sweep are `eval_seconds` of the data preset."""

    split: Literal["valid", "test"]
    patch_sizes: PatchSizes
    hops_ms: Annotated[list[PositiveFloat], Field(min_length=1)]
    batch_frames: PositiveInt


class ReportSection(Section):
    """`report` in params.yaml."""

    classes_shown: Annotated[int, Field(ge=1)]
