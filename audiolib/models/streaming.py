"""A sound as it comes: logits of all that was heard so far, each frame computed once (Audio Mamba, forward only)."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from audiolib.errors import AudiolibError
from audiolib.models.audio_mamba import AudioMamba
from audiolib.models.mamba import Carried
from audiolib.models.positions import Places


class Stream:
    """Feeds one clip to a model chunk by chunk; `logits()` equals what the model says of the whole so far.

    Up to the length of the stored positions: a longer clip is squeezed onto them, a stream stays at the last one. The
    model is switched to `eval()`.

    Args:
        model: `directions: fo-fo`, `order: time`, `class_token: end` or `mean`, and no overlap of patches.
        hop: frames of the stored positions that one frame of the stream lasts (`Batch.stretch`).

    Raises:
        AudiolibError: a model that must see the end of a clip before its beginning.
    """

    def __init__(self, model: AudioMamba, hop: float = 1.0) -> None:
        config = model.config
        fits = config.directions == "fo-fo" and config.order == "time" and config.class_token in ("end", "mean")
        if not fits or config.stride is not None or config.border != "pad" or config.positions != "centre":
            raise AudiolibError(
                "a stream needs a model with directions: fo-fo, order: time, class_token: end or mean, positions: "
                "centre, border: pad and no stride; others look at the whole clip"
            )
        self.model, self.hop, self.device = model.eval(), hop, model.head.weight.device
        self.frames = 0  # that became tokens
        self.rest = torch.zeros(0, config.mel_bins, device=self.device)
        self.carried: list[Carried | None] = [None] * config.depth
        self.sum = torch.zeros(1, config.width, device=self.device)
        self.tokens = 0

    @torch.inference_mode()
    def feed(self, mel: Tensor) -> None:
        """Hear (t, f) further frames of normalised log-mel, any number of them."""
        self.rest = torch.cat([self.rest, mel.to(self.device)])
        size = self.model.config.patch[1]
        whole = len(self.rest) // size * size
        if whole:
            out, self.carried = self._run(self._embed(self.rest[:whole]), self.carried)
            self.sum, self.tokens = self.sum + out.sum(0), self.tokens + len(out)
            self.rest, self.frames = self.rest[whole:], self.frames + whole

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """(c,) for all frames so far; the stream can go on afterwards.

        Raises:
            AudiolibError: nothing was heard yet.
        """
        model, carried, total, count = self.model, self.carried, self.sum, self.tokens
        if not count and not len(self.rest):
            raise AudiolibError("the stream has heard nothing yet")
        if len(self.rest):  # A patch that is not full yet is completed with the mean, as at a clip's end.
            size = model.config.patch[1]
            out, carried = self._run(self._embed(pad(self.rest, (0, 0, 0, size - len(self.rest)))), carried)
            total, count = total + out.sum(0), count + len(out)
        if model.config.class_token == "mean":
            return model.head(total / count)[0]
        token, _ = self._run(model.prefix + model.prefix_positions, carried)
        return model.head(token)[0]

    def _embed(self, mel: Tensor) -> Tensor:
        """Tokens of whole patches, at their true places in the stream."""
        embed, patch = self.model.embed, self.model.config.patch
        rows, columns = embed.starts(embed.mel_bins, 0, patch), embed.starts(len(mel), 1, patch)
        kernel = embed.kernel(patch).transpose(1, 2).reshape(len(embed.bias), -1)
        tokens = torch.nn.functional.linear(embed.cut(mel, (len(mel),), rows, [columns], patch), kernel, embed.bias)
        moved = tuple(self.frames + start for start in columns)
        # A stream has no end to squeeze it by: beyond the stored positions the last one goes on.
        return tokens + embed.positions(Places(rows, patch[0], embed.mel_bins), [Places(moved, patch[1], 1, self.hop)])

    def _run(self, x: Tensor, carried: list[Carried | None]) -> tuple[Tensor, list[Carried | None]]:
        residual, left = x.float(), []
        for block, before in zip(self.model.blocks, carried, strict=True):
            out, after = block.mixer.step(block.norm(residual), before)
            residual = residual + out
            left.append(after)
        return self.model.norm(residual), left
