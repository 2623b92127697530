"""What a training begins with: fresh weights, an earlier model, weights of another library, or its own checkpoints."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from audiolib.checkpoint import Checkpoints
from audiolib.convert import from_timm_vit, is_timm_vit
from audiolib.errors import AudiolibError
from audiolib.files import sha256_file
from audiolib.job import Job, fingerprint
from audiolib.models import Classifier, create_model
from audiolib.models.classifier import ClassifierConfig
from audiolib.models.spectrogram_transformer import TransformerConfig
from audiolib.models.transfer import transfer
from audiolib.objective import Teacher
from audiolib.precision import PRECISIONS, settle
from audiolib.pretrained import load, load_card
from audiolib.progress import say
from audiolib.shards import ShardFolder


def first_model(job: Job, shards: ShardFolder, frames: int) -> Classifier:
    """The job's architecture, filled from `job.start` where there is one.

    Whatever the start's patch size, clip length and hop, its kernel and positions are resized to those of the job; its
    head is kept when it has the same classes (papers.md 2.1, "flexification").

    Raises:
        AudiolibError: the start is no model folder and no safetensors file, or of another width.
    """
    settings = {key: value for key, value in job.architecture.items() if key != "name"}
    classes, bands = len(shards.classes), int(shards.frontend["mel_bins"])
    model = create_model(
        job.architecture["name"], classes, seed=job.seed, mel_bins=bands, frames=frames, **settings
    )  # fmt: skip
    if job.start is None:
        return model
    if job.start.is_dir():
        source, card = load(job.start), load_card(job.start)
        state, spacing = dict(source.state_dict()), source.embed.spacing
        # By `index` the n-th position is the n-th patch's at any hop.
        hop = 1.0 if source.config.positions == "index" else shards.frontend["hop_ms"] / card.frontend["hop_ms"]
        scores = _scale(source.config) / _scale(model.config)
        if card.classes != shards.classes:
            state = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    else:
        state, spacing, hop = read_vit(job.start), None, 1.0
        scores = _scale(model.config, own=False) / _scale(model.config)
    try:
        told = transfer(state, model, spacing, hop=hop, scores=scores)
    except ValueError as error:
        raise AudiolibError(f"cannot start from {job.start}: {error}") from error
    say(f"{job.stage}: starting from {job.start}: {told}")
    return model


def _scale(config: ClassifierConfig, *, own: bool = True) -> float:
    """The factor of a model's attention scores; weights that were trained with another one mean others by theirs.

    Not its `own` one is that of timm's transformers.
    """
    if not isinstance(config, TransformerConfig):
        return 1.0
    plain = config.attention_scale is None or not own
    return (config.width / config.heads) ** -0.5 if plain else config.attention_scale


def teacher(job: Job, device: torch.device) -> Teacher:
    """The model that `distill` learns from: that of `job.start`, at its own patch size and normalisation.

    Raises:
        AudiolibError: there is no start, it is not a model that was trained on these classes and such log-mel at full
            resolution, or noise would hide the padding from it.
    """
    if job.start is None or not job.start.is_dir():
        raise AudiolibError(
            f"{job.stage}.distill needs a trained model to learn from, and {job.stage} starts from none"
        )
    model = load(job.start, str(device), attention=job.settings.attention, scan=job.settings.scan)
    card, shards = load_card(job.start), ShardFolder(job.features)
    if card.classes != shards.classes:
        raise AudiolibError(f"{job.stage}.distill: {job.start} knows other classes than {job.features}")
    if card.heard(shards.frontend) != shards.frontend:
        raise AudiolibError(f"{job.stage}.distill: {job.start} was trained on other log-mel than {job.features} has")
    if card.compression != 1 and card.method != "patchify":
        raise AudiolibError(f"{job.stage}.distill: {job.start} knows coarse log-mel alone; let its last phase be fine")
    if card.fill and job.recipe.augment.noise:
        raise AudiolibError(f"{job.stage}.distill: {job.start} knows padding by its value, which augment.noise hides")
    own, theirs = shards.stats, card.frontend
    shift = (own["mean"] - theirs["mean"]) / (2 * theirs["std"])
    return Teacher(model, card.patch, own["std"] / theirs["std"], shift, card.fill)


def read_vit(path: Path) -> dict[str, Any]:
    """The weights of a timm vision transformer in a safetensors file, under this library's names.

    Raises:
        AudiolibError: no such file, not safetensors, or other names.
    """
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise AudiolibError(f"cannot read weights from {path}: {' '.join(str(error).split())}") from error
    if not is_timm_vit(state):
        raise AudiolibError(f"{path} is no timm vision transformer: it has no patch_embed.proj.weight and pos_embed")
    return from_timm_vit(state)


def start_digest(start: Path | None) -> str | None:
    """A hash of what a training starts from: a file of weights, or a card, which names the hash of its weights."""
    if start is None:
        return None
    try:
        return sha256_file(start / "config.json" if start.is_dir() else start)
    except OSError as error:
        raise AudiolibError(f"cannot start from {start}: {error.strerror}") from error


def settled(job: Job, device: torch.device, *, first: bool) -> Job:
    """A job with the precision that its workers train in: of `auto` the one that an unfinished training has, which goes
    on in float32 wherever it is taken up, and in bfloat16 where the hardware has it.

    Args:
        job: the training; of several workers all call this.
        device: where this worker computes.
        first: whether it is the worker that decides from where all continue.
    """
    both = [replace(job, settings=job.settings.model_copy(update={"precision": kind})) for kind in PRECISIONS]
    begun = None
    if first and job.settings.precision == "auto":
        kept = {age: one for one in both if (age := checkpoints_of(one).newest_age()) is not None}
        begun = kept[min(kept)].settings.precision if kept else None
    return both[PRECISIONS.index(settle(job.settings.precision, device, begun))]


def checkpoints_of(job: Job) -> Checkpoints:
    """Where a training leaves what it continues from."""
    runs = job.scratch / "checkpoints" / job.stage
    return Checkpoints(runs, fingerprint(job, start_digest(job.start)), job.settings.keep_checkpoints)
