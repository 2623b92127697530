"""Training: phases of epochs of steps, in plain PyTorch; a killed run continues bit for bit.

What a step does depends on (seed, step) alone, so a checkpoint is weights, moments and counters: no generator's state.
"""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, distributed, nn

from audiolib.averaging import Average
from audiolib.batches import Batch
from audiolib.checkpoint import optimizer_tensors, part, restore_optimizer
from audiolib.dataset import read_training
from audiolib.epochs import Planner
from audiolib.errors import AudiolibError
from audiolib.finish import write_result
from audiolib.job import Job, Progress, check_settings, compiled, make_deterministic
from audiolib.kernels import segment_attention, selective_scan
from audiolib.loader import steps
from audiolib.metrics import accuracy, mean_average_precision
from audiolib.objective import Objective
from audiolib.optim import lr_factor, make_optimizer
from audiolib.phases import draw_patch, phase_patch
from audiolib.predict import own_cores, pick_device, shared_scores
from audiolib.progress import say
from audiolib.shards import ShardFolder
from audiolib.start import checkpoints_of, first_model, settled, teacher
from audiolib.views import needs_sound

if TYPE_CHECKING:
    from audiolib.config.training import Phase

_CHECK_EVERY = 10  # Steps between looks at the loss: each look makes a GPU wait.


def fit(job: Job, on_epoch: Callable[[dict[str, Any]], None] | None = None) -> None:
    """Run all phases of a job and leave its model folder in `job.out`; called once in every worker process.

    Args:
        job: what to train.
        on_epoch: called on the first worker with each finished epoch's row.

    Raises:
        AudiolibError: the loss is no longer a number, or a step has fewer clips than workers.
    """
    Trainer(job, on_epoch).run()


class Trainer:
    """The state of one job in one process."""

    def __init__(self, job: Job, on_epoch: Callable[[dict[str, Any]], None] | None) -> None:
        self.job, self.on_epoch = job, on_epoch
        self.rank, self.world = (distributed.get_rank(), distributed.get_world_size()) if _parallel() else (0, 1)
        self.parts = job.settings.accumulate
        check_settings(job, self.world)
        if job.settings.deterministic:
            make_deterministic()
        self.device = pick_device(job.settings.device)
        self.job = job = settled(job, self.device, first=self.rank == 0)
        self.bf16 = job.settings.precision == "bfloat16"
        self.shards = ShardFolder(job.features)
        sound = needs_sound(job.recipe, self.shards.frontend["hop_ms"])
        self.train, self.valid = read_training(job.features, sound, job.settings.memory_mib)
        self.planner = Planner(job.recipe, self.train, job.seconds, job.draws)
        self.model = first_model(job, self.shards, self.planner.frames).to(self.device)
        self._choose_kernels()
        guide = teacher(job, self.device) if job.recipe.distill else None
        self.objective = Objective(job.recipe, self.shards.multi_label, guide)
        self.average = Average(job.recipe.averaging)
        self.parallel: nn.Module = nn.parallel.DistributedDataParallel(self.model) if _parallel() else self.model
        if job.settings.compile:
            self.parallel = compiled(self.parallel, job.recipe)
        self.checkpoints = checkpoints_of(job)
        self.progress = Progress()
        self.best_weights: dict[str, Tensor] = {}
        # Multiply-accumulates (forward, without a teacher's) and tokens of this worker since the last comparison.
        self.spent = torch.zeros(2, dtype=torch.int64, device=self.device)
        self.saved_at = self.started = time.monotonic()

    def run(self) -> None:
        """All phases from wherever the newest checkpoint stands, then the model folder."""
        tensors = self._resume()
        phases = self.job.recipe.phases
        while self.progress.phase < len(phases):
            self._run_phase(phases[self.progress.phase], tensors)
            tensors = None
        if self.rank == 0:
            write_result(self.job, self.model, self.best_weights, self.planner, self.shards, self.progress)
        if _parallel():
            distributed.barrier()  # A worker that is lost before this sends all of them back to a checkpoint.
        if self.rank == 0:
            self.checkpoints.clear()

    def _choose_kernels(self) -> None:
        """Implementations by name, chosen once for the whole training."""
        settings, kind = self.job.settings, torch.bfloat16 if self.bf16 else torch.float32
        attention, scan = settings.attention, settings.scan
        if attention == "auto":
            attention = segment_attention.choose(self.device, kind, equal=self.job.recipe.packing is None)
        if scan == "auto":
            scan = selective_scan.choose(self.device, torch.float32)
        used = self.model.use_kernels(attention=attention, scan=scan)
        self._say(f"{used}, {str(kind).removeprefix('torch.')} on {self.device}")

    def _say(self, text: str) -> None:
        if self.rank == 0:
            say(f"{self.job.stage}: {text}")

    def _resume(self) -> dict[str, Tensor] | None:
        found = self.checkpoints.agreed()
        if found is None:
            if keys := self.checkpoints.others():
                self._say(f"starts anew; the unfinished run that is kept differs in: {keys}")
            return None
        tensors = found.tensors
        self.progress = Progress(**found.state)
        self.model.load_state_dict(part(tensors, "model"))
        self.best_weights = part(tensors, "best")
        self.average.weights = {name: tensor.to(self.device) for name, tensor in part(tensors, "average").items()}
        self.average.count = self.progress.averaged
        self._say(f"continuing after step {self.progress.step}")
        return tensors

    def _run_phase(self, phase: "Phase", tensors: dict[str, Tensor] | None) -> None:
        optimizer = make_optimizer(self.model, self.job.recipe, phase.lr)
        if tensors is not None:
            restore_optimizer(optimizer, part(tensors, "optimizer"))
        progress = self.progress
        while progress.epoch < phase.epochs:
            self._run_epoch(phase, optimizer)
            self._finish_epoch(phase, optimizer)
        if progress.phase + 1 < len(self.job.recipe.phases):
            # The next phase takes over the last weights; the best ones are chosen in the last phase alone.
            progress.best, self.best_weights = -math.inf, {}
        progress.phase, progress.epoch = progress.phase + 1, 0
        self._save({})

    def _run_epoch(self, phase: "Phase", optimizer: torch.optim.Optimizer) -> None:
        recipe, progress = self.job.recipe, self.progress
        number = self.epochs_before() + progress.epoch
        epoch = self.planner.epoch(phase, number, self.model, self.rank, self.world, self.parts)
        progress.efficiency, per_epoch = self.planner.efficiency(epoch, self.model, phase), len(epoch.steps)
        self.model.train()
        losses: list[Tensor] = []
        # Of the last step, for the epoch's row, where a run continues after all steps of an epoch.
        self._set_rate(phase, optimizer, max(0, progress.batch - 1), per_epoch)
        for step in steps(epoch, progress.batch, self._processes()):
            self._set_rate(phase, optimizer, progress.batch, per_epoch)
            patch = draw_patch(recipe, phase, self.job.draws, progress.step)
            losses.append(self._step(step, patch, optimizer))
            lengths = [n for batch in step for n in batch.lengths]
            self.spent[0] += sum(self.model.macs(n, patch) for n in lengths)
            self.spent[1] += sum(self.model.trained_tokens(n, patch) for n in lengths)
            progress.batch, progress.step = progress.batch + 1, progress.step + 1
            if len(losses) == _CHECK_EVERY:
                self._check(losses)
                if time.monotonic() - self.saved_at > self.job.settings.checkpoint_seconds:
                    self._save(optimizer_tensors(optimizer))
        self._check(losses)

    def _set_rate(self, phase: "Phase", optimizer: torch.optim.Optimizer, batch: int, per_epoch: int) -> None:
        step = self.progress.epoch * per_epoch + batch
        factor = lr_factor(self.job.recipe, step, phase.epochs * per_epoch, per_epoch)
        for group in optimizer.param_groups:
            group["lr"] = phase.lr * factor

    def _processes(self) -> int:
        """Processes that make batches ahead: none where the same cores train the model."""
        asked = self.job.settings.loader_processes
        return asked if asked is not None else (0 if self.device.type == "cpu" else min(8, own_cores()))

    def _step(self, step: list[Batch], patch: tuple[int, int], optimizer: torch.optim.Optimizer) -> Tensor:
        """One step on this worker's parts of it; the workers add their gradients during the last part."""
        optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for number, batch in enumerate(step, start=1):
            alone = _parallel() and number < len(step)
            with self.parallel.no_sync() if alone else nullcontext():
                loss = self._loss(batch.to(self.device), patch) / len(step)
                loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        optimizer.step()
        self.average.after_step(self.model)
        return total

    def _loss(self, batch: Batch, patch: tuple[int, int]) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self.objective(self.parallel(batch, patch).float(), batch)

    def _check(self, losses: list[Tensor]) -> None:
        """Move the losses to the host; stop before a checkpoint could hold weights that are not numbers.

        Workers compare notes first: all of them stop, or none.
        """
        if not losses:
            return
        means = torch.stack(losses)
        if _parallel():
            distributed.all_reduce(means)
            distributed.all_reduce(self.spent)
            means /= self.world
        self.progress.macs += int(self.spent[0])
        self.progress.tokens += int(self.spent[1])
        self.spent.zero_()
        values = means.tolist()
        losses.clear()
        if not all(map(math.isfinite, values)):
            lr = self.job.recipe.phases[self.progress.phase].lr
            raise AudiolibError(
                f"{self.job.stage}: the loss became {values[-1]} within the {len(values)} steps before step "
                f"{self.progress.step}; lower the learning rate (lr is {lr:g}) or look at the features; nothing "
                "after the last checkpoint was kept"
            )
        self.progress.loss_sum += sum(values)

    def _finish_epoch(self, phase: "Phase", optimizer: torch.optim.Optimizer) -> None:
        progress = self.progress
        self.average.after_epoch(self.model, self._epochs_left(phase))
        with self.average.shown(self.model):
            score = self.validate(phase)
            # A mean of the last epochs is what they all make of it: none of them is chosen.
            if self.rank == 0 and (score >= progress.best or self.average.ends(self._epochs_left(phase))):
                progress.best = score
                self.best_weights = {n: t.detach().cpu().clone() for n, t in self.model.state_dict().items()}
        if self.rank == 0:
            row = {
                "stage": self.job.stage,
                "phase": progress.phase,
                "epoch": self.epochs_before() + progress.epoch,
                "step": progress.step,
                "compression": phase.compression,
                "method": phase.method,
                "lr": optimizer.param_groups[0]["lr"],
                "efficiency": progress.efficiency,
                "train_loss": progress.loss_sum / max(1, progress.batch),
                "valid_score": score,
                "gmac_cum": progress.gmac,
                "seconds": self._elapsed(),
            }
            progress.history.append(row)
            say(
                f"{self.job.stage} phase {progress.phase + 1}/{len(self.job.recipe.phases)} "
                f"epoch {progress.epoch + 1}/{phase.epochs}: loss {row['train_loss']:.3f}, valid {score:.3f}, "
                f"{row['seconds']:.0f} s, about {self._seconds_left():.0f} s left"
            )
        progress.epoch, progress.batch, progress.loss_sum = progress.epoch + 1, 0, 0.0
        self._save(optimizer_tensors(optimizer))
        if self.rank == 0 and self.on_epoch is not None:
            self.on_epoch(row)

    def validate(self, phase: "Phase") -> float:
        """Mean accuracy (mAP for multi-label corpora) over the validation patch sizes; workers share the clips."""
        metric = mean_average_precision if self.shards.multi_label else accuracy
        view = self.planner.valid_view(phase)
        sizes = [phase_patch(size, phase) for size in self.job.recipe.valid_patch_sizes]
        said = [shared_scores(self.model, self.valid, view, size, self.device, bf16=self.bf16) for size in sizes]
        return float(np.mean([metric(*pair) for pair in said]))

    def epochs_before(self) -> int:
        """Epochs of the phases that are behind us: epochs are numbered through a stage."""
        return sum(phase.epochs for phase in self.job.recipe.phases[: self.progress.phase])

    def _epochs_left(self, phase: "Phase") -> int:
        """Of the stage, after the one that has just ended."""
        later = self.job.recipe.phases[self.progress.phase + 1 :]
        return phase.epochs - self.progress.epoch - 1 + sum(other.epochs for other in later)

    def _elapsed(self) -> float:
        return self.progress.elapsed + time.monotonic() - self.started

    def _seconds_left(self) -> float:
        left = self.planner.gmac_left(self.progress.phase, self.progress.epoch + 1, self.model)
        return left * self._elapsed() / max(self.progress.gmac, 1e-9)

    def _save(self, moments: dict[str, Tensor]) -> None:
        self.saved_at = time.monotonic()
        if self.rank != 0:
            return
        own, average = self.model.state_dict(), self.average.weights
        named = {"model": own, "best": self.best_weights, "average": average, "optimizer": moments}
        tensors = {f"{group}/{name}": tensor for group, entries in named.items() for name, tensor in entries.items()}
        state = {**asdict(self.progress), "elapsed": self._elapsed(), "averaged": self.average.count}
        ends = self.epochs_before() + self.progress.epoch + self.progress.phase
        self.checkpoints.save(self.progress.step, tensors, state, ends)


def _parallel() -> bool:
    return distributed.is_available() and distributed.is_initialized()
