"""What is measured and shown: the presets in `configs/evaluate/`, and the `report` section of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from audiolib.config.strict import Section
from audiolib.config.training import PatchSize


class EvaluatePreset(Section):
    """One file of `configs/evaluate`.

    `cells` says which combinations of the lists are measured: `product` is all, `matrix` every patch size x length and
    a line of hops, `axes` three lines through the model's own shape, which is always there.
    """

    split: Literal["valid", "test"]
    cells: Literal["axes", "matrix", "product"]
    patch_sizes: list[PatchSize]
    seconds: list[PositiveFloat] | None
    hops_ms: list[PositiveFloat]
    batch_frames: PositiveInt


class ReportSection(Section):
    """`report` in params.yaml."""

    classes_shown: Annotated[int, Field(ge=1)]
    mistakes_shown: Annotated[int, Field(ge=0)]
