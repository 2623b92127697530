"""How a model is trained: the presets in `configs/model/` and the `train` section of params.yaml."""

from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from audiolib.config.strict import Section


def _size_pair(size: object) -> object:
    if isinstance(size, int) and not isinstance(size, bool):
        return (size, size)
    return _tuple(size)


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


# A patch in params: 16 for a square, [16, 8] for 16 mel bands x 8 frames.
PatchSize = Annotated[tuple[PositiveInt, PositiveInt], BeforeValidator(_size_pair)]
PatchSizes = Annotated[list[PatchSize], Field(min_length=1)]


Seed = Annotated[int, Field(ge=0)]
Precision = Literal["auto", "float32", "bfloat16"]


def _range(value: object) -> object:
    pair = (value, value) if isinstance(value, int) else value
    numbers = isinstance(pair, list | tuple) and len(pair) == 2 and all(type(number) is int for number in pair)
    if not numbers or not 1 <= pair[0] <= pair[1]:
        raise ValueError("must be a positive integer, or [fewest, most]")
    return tuple(pair)


# A number of workers, or as many as there are from the fewest to the most.
Workers = Annotated[tuple[int, int], BeforeValidator(_range)]


class Phase(Section):
    """One stretch of training at one temporal compression (papers.md 3.1); optimiser and schedule start anew."""

    compression: Annotated[float, Field(ge=1)]
    method: Literal["none", "frame_shift", "avg_pool", "max_pool", "patchify"]
    epochs: PositiveInt
    lr: PositiveFloat

    @model_validator(mode="after")
    def _method_fits(self) -> "Phase":
        if (self.compression == 1) != (self.method == "none"):
            raise ValueError("method 'none' goes with compression 1, any other method with more")
        if self.method != "frame_shift" and self.compression != int(self.compression):
            raise ValueError(f"{self.method} needs a whole compression; only frame_shift takes a fraction")
        return self


class Augment(Section):
    """Training-time changes of the log-mel; a width or rate of 0 turns one off (papers.md 1.1)."""

    freq_mask: NonNegativeInt
    time_mask: NonNegativeInt
    mixup: Annotated[float, Field(ge=0, le=1)]
    roll: NonNegativeInt
    noise: NonNegativeFloat


class Steps(Section):
    """The papers' schedule (papers.md 1.3): times `factor` at epoch `start` and every `every` epochs after it."""

    start: PositiveInt
    every: PositiveInt
    factor: Annotated[float, Field(gt=0, le=1)]


class Distill(Section):
    """Knowledge flexification (papers.md 2.1): the fixed-patch model that a stage starts from is also its teacher."""

    weight: Annotated[float, Field(gt=0, le=1)]
    temperature: PositiveFloat


class Averaging(Section):
    """Averaged weights are what is validated and kept: over steps (`ema`, its decay) or over the last epochs."""

    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    last_epochs: PositiveInt | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "Averaging":
        if (self.ema is None) == (self.last_epochs is None):
            raise ValueError("set either ema (a decay) or last_epochs (a number)")
        return self


class Packing(Section):
    """Training on packs of clips of their own length, at drawn resolutions (ElasticAST; papers.md 5.1, 5.3).

    `tokens` is the budget of a step, shared by the workers. Clips are cut at `longest_seconds`, and at random down to
    `shortest_seconds` if that is not null. `hops_ms` and `pools` (frames max-pooled into one) are drawn for each clip.
    """

    tokens: PositiveInt
    packer: Literal["best_fit", "next_fit"]
    window: PositiveInt
    longest_seconds: PositiveFloat
    shortest_seconds: PositiveFloat | None
    hops_ms: Annotated[list[PositiveFloat], Field(min_length=1)]
    pools: Annotated[list[PositiveInt], Field(min_length=1)]


class Recipe(Section):
    """One training stage: `pretrain` or `finetune` of a model preset.

    A step takes `batch_size` clips of one length, or a pack of clips of their own length. With `balanced` sampling an
    epoch draws as many clips as there are with replacement, those of rare classes more often (papers.md 1.1).
    `label_smoothing` is for clips of one class; where a clip may have several it changes nothing.
    """

    phases: list[Phase]
    patch_sizes: PatchSizes
    patch_probabilities: list[PositiveFloat] | None = None
    valid_patch_sizes: PatchSizes
    batch_size: PositiveInt | None = None
    packing: Packing | None = None
    sampling: Literal["all", "balanced"] = "all"
    optimizer: Literal["adamw", "adam"]
    weight_decay: NonNegativeFloat
    betas: Annotated[tuple[float, float], BeforeValidator(_tuple)]
    schedule: Literal["cosine", "steps", "constant"]
    steps: Steps | None = None
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    augment: Augment
    distill: Distill | None = None
    averaging: Averaging | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.patch_probabilities is not None and len(self.patch_probabilities) != len(self.patch_sizes):
            raise ValueError("patch_probabilities needs one value per entry of patch_sizes")
        if (self.batch_size is None) == (self.packing is None):
            raise ValueError("set either batch_size (clips of one length) or packing")
        if (self.schedule == "steps") != (self.steps is not None):
            raise ValueError("schedule 'steps' and steps: {start, every, factor} go together")
        return self


class Resize(Section):
    """How the stored patch kernel becomes another size; part of a checkpoint (papers.md 2.1)."""

    method: Literal["pseudo_inverse", "interpolate"] = "pseudo_inverse"
    mode: Literal["bilinear", "bicubic"] = "bilinear"
    antialias: bool = False


class Architecture(Section):
    """`architecture` of a model preset: a registered name and what deviates from its defaults."""

    name: str
    patch: PatchSize = (16, 16)
    layout: Literal["grid", "axes"] | None = None
    positions: Literal["stretch", "centre", "index"] | None = None
    border: Literal["pad", "crop", "overlap"] = "pad"
    resize: Resize = Resize()
    pool: Literal["attention", "mean"] | None = None
    prefix_tokens: Literal[0, 1, 2] | None = None
    directions: Literal["fo-fo", "fo-bi", "bi-bi"] | None = None
    class_token: Literal["head", "mid", "end", "double", "mean"] | None = None
    order: Literal["frequency", "time"] | None = None
    token_dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    attention_scale: PositiveFloat | None = None


class ModelPreset(Section):
    """One file of `configs/model`."""

    architecture: Architecture
    pretrain: Recipe
    finetune: Recipe

    @model_validator(mode="after")
    def _trained_at_home(self) -> "ModelPreset":
        """A model is at home at `architecture.patch`: there it is judged, listens and is registered."""
        patch = self.architecture.patch
        for stage in ("pretrain", "finetune"):
            if patch not in getattr(self, stage).patch_sizes:
                raise ValueError(
                    f"{stage}.patch_sizes must hold architecture.patch, {list(patch)}, where the model is at home; set "
                    "architecture.patch to a size that it is trained at"
                )
        return self


class TrainSection(Section):
    """`train` in params.yaml: what holds for both training stages, whatever the model."""

    num_workers: Workers
    max_failures: NonNegativeInt
    accumulate: PositiveInt
    compile: bool
    deterministic: bool
    device: Literal["auto", "cpu", "cuda"]
    precision: Precision
    attention: Literal["auto", "grouped", "varlen", "flex", "naive"]
    scan: Literal["auto", "cpp", "triton", "mamba_ssm", "naive"]
    loader_processes: NonNegativeInt | None
    memory_mib: PositiveInt
    checkpoint_seconds: PositiveFloat
    keep_checkpoints: PositiveInt
    start: str | None
