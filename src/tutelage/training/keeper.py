"""What watches a training: progress, the best weights so far, divergence, and checkpoints that an interrupted training goes on from.

All that is decided follows from the losses logged so far, which a checkpoint holds, so an interrupted training decides the same.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from pydantic import JsonValue
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tutelage.errors import StoreError
from tutelage.training.divergence import Diverged, exploded, healthy, recent_loss
from tutelage.training.supervised_job import Job, SupervisedSettings

LOOKS = 20
"""So many times in a training the weights are copied as the last good ones, where no validation says which are best."""
WEIGHTS, KEPT, STATE = "weights.safetensors", "kept.safetensors", "trainer_state.json"


@dataclass(frozen=True)
class Kept:
    """Weights worth coming back to, and the step after which they were so."""

    step: int
    tensors: dict[str, Tensor]


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that training changes, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def copy_of(model: nn.Module) -> dict[str, Tensor]:
    """The trainable weights, copied to main memory."""
    return {name: parameter.detach().to("cpu", copy=True).contiguous() for name, parameter in trainable(model).items()}


def put_back(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Make the trainable weights these."""
    for name, parameter in trainable(model).items():
        parameter.data.copy_(tensors[name])


def losses(history: Sequence[dict[str, Any]], name: str = "loss") -> list[float]:
    """The losses logged, oldest first; `eval_loss` for the validation rows'."""
    return [float(entry[name]) for entry in history if name in entry]


def history_rows(history: Sequence[dict[str, Any]]) -> list[dict[str, JsonValue]]:
    """Steps and looks at the validation rows, in order, under the names of `HistoryRow`."""
    names = {"eval_loss": "validation_loss", "eval_runtime": "seconds", "rewards/accuracies": "reward_accuracy"}
    kept = ("step", "loss", "learning_rate", "grad_norm", "tokens", "tokens_computed", "seconds", *names)
    entries = [entry for entry in history if "loss" in entry or "eval_loss" in entry]
    return [{names.get(name, name): entry[name] for name in kept if name in entry} for entry in entries]


class Keeper(TrainerCallback):
    """Follows a training step by step.

    kept: the best weights by the validation rows; without any the last ones of which the step after them showed that they are good.
    """

    def __init__(self, job: Job, settings: SupervisedSettings, *, validates: bool) -> None:
        self.job, self.settings, self.validates = job, settings, validates
        self.kept: Kept | None = None
        self._unproven: Kept | None = None
        self.saved_at = monotonic()
        self.resumed_at = 0
        self._stage: Any = None
        self._state = TrainerState()
        self._tokens, self._computed = 0, 0
        self._clock = self._written_at = monotonic()
        self._writing = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Show the bar, as far as an interrupted training had come."""
        self.resumed_at = state.global_step
        self._stage = self.job.stage(state.max_steps).__enter__()
        for _ in range(state.global_step):
            self._stage.advance("from the checkpoint")
        self._copy_if_due(state, more["model"])
        self._state, self._clock = state, monotonic()
        self._write()

    def close(self) -> None:
        """Take the bar away and tell of all steps, however training ended."""
        if self._stage is None:
            return
        self._stage.__exit__(None, None, None)
        self._stage = None
        self._write()

    def count(self, tokens: int, computed: int) -> None:
        """A batch: the tokens of its rows, and those that went through the model for them."""
        self._tokens, self._computed = self._tokens + int(tokens), self._computed + int(computed)

    def spent(self) -> dict[str, float]:
        """What the step that ends now took, for its log."""
        spent = {"tokens": self._tokens, "tokens_computed": self._computed, "seconds": round(monotonic() - self._clock, 3)}
        self._tokens, self._computed = 0, 0
        return spent

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """After each step. Raises `Diverged`."""
        logs = more["logs"]
        if "loss" not in logs:
            return
        self._clock = monotonic()
        self._write_if_due()
        found = losses(state.log_history)
        if exploded(found) or not (args.fp16 or math.isfinite(logs.get("grad_norm", 0.0))):
            raise Diverged(f"training diverged at step {state.global_step}")
        self._stage.advance(f"loss {recent_loss(found):.3f}")
        if self.validates and self._looks_now(state):
            control.should_evaluate = True
        else:
            self._judge_copied(found)
            self._copy_if_due(state, more["model"])
            self._save_if_due(state, control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """After a look at the validation rows. Raises `Diverged` where their loss is no number."""
        self._clock = monotonic()
        found = losses(state.log_history, "eval_loss")
        if not math.isfinite(found[-1]):
            raise Diverged(f"the validation loss after step {state.global_step} is {found[-1]}")
        best = found.index(min(found))
        if best == len(found) - 1:
            self.kept = Kept(state.global_step, copy_of(more["model"]))
        patience = self.settings.early_stopping_patience
        if patience is not None and len(found) - 1 - best >= patience:
            control.should_training_stop = True
        else:
            self._save_if_due(state, control)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """A checkpoint's time is no step's."""
        self._clock = monotonic()

    def _write_if_due(self) -> None:
        """The history is written as a whole, for which no more than a twentieth of the time is taken."""
        if monotonic() - self._written_at >= 20 * self._writing:
            self._write()

    def _write(self) -> None:
        if self._state.is_world_process_zero:
            begun = monotonic()
            self.job.history(history_rows(self._state.log_history))
            self._written_at = monotonic()
            self._writing = self._written_at - begun

    def _looks_now(self, state: TrainerState) -> bool:
        every, last = self.settings.eval_steps, state.global_step >= state.max_steps
        return last or (state.global_step % every == 0 if every else float(state.epoch or 0).is_integer())

    def _judge_copied(self, found: Sequence[float]) -> None:
        """A step's loss is that of the weights before it: only the next step says whether those after a step are good."""
        if self._unproven is not None and healthy(found):
            self.kept = self._unproven
        self._unproven = None

    def _copy_if_due(self, state: TrainerState, model: nn.Module) -> None:
        step = state.global_step
        if step and not self.validates and step % max(1, state.max_steps // LOOKS) == 0:
            self._unproven = Kept(step, copy_of(model))

    def _save_if_due(self, state: TrainerState, control: TrainerControl) -> None:
        every, last = self.settings.save_steps, state.global_step >= state.max_steps
        by_time = monotonic() - self.saved_at >= 60 * self.settings.save_minutes
        control.should_save = self.job.stop.is_set() or (not last and (by_time or (every is not None and state.global_step % every == 0)))
        control.should_training_stop = control.should_training_stop or self.job.stop.is_set()


class Checkpoints:
    """A mixin for TRL's trainers: checkpoints of the trainable weights only, written whole or not at all, of which the newest stays.

    `keeper` and `place` are set before training.
    """

    keeper: Keeper
    place: Path

    def _send_telemetry(self) -> None:
        """Nothing is sent anywhere."""

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """As TRL's, whose warm-up begins with a rate of 0; a training of one step does not warm up, or it would learn nothing."""
        trainer: Any = self
        if num_training_steps == 1:
            trainer.args.warmup_steps = 0
        theirs: Any = super()
        return theirs.create_scheduler(num_training_steps, optimizer)

    def log(self, logs: dict[str, Any], *more: Any) -> None:
        """With what the step took, which a checkpoint keeps as it does the loss."""
        theirs: Any = super()
        theirs.log({**logs, **self.keeper.spent()} if "loss" in logs else logs, *more)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        trainer: Any = self
        step = trainer.state.global_step
        with _whole_folder(self.place / f"checkpoint-{step}") as folder:
            save_file(copy_of(trainer.model), folder / WEIGHTS)
            kept = self.keeper.kept
            if kept is not None and kept.step != step:
                save_file(kept.tensors, folder / KEPT)
            trainer._save_optimizer_and_scheduler(str(folder))
            trainer._save_scaler(str(folder))
            trainer._save_rng_state(str(folder))
            trainer.state.save_to_json(str(folder / STATE))
            (folder / "kept.json").write_text(json.dumps(kept and kept.step), encoding="utf-8")
        for older in _checkpoints(self.place)[:-1]:
            shutil.rmtree(older, ignore_errors=True)
        self.keeper.saved_at = monotonic()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        trainer: Any = self
        folder = Path(resume_from_checkpoint)
        weights = load_file(folder / WEIGHTS)
        put_back(trainer.model, weights)
        step = json.loads((folder / "kept.json").read_text(encoding="utf-8"))
        if step is not None:
            self.keeper.kept = Kept(step, load_file(folder / KEPT) if (folder / KEPT).is_file() else weights)


def newest_checkpoint(place: Path) -> Path | None:
    """The checkpoint to go on from. What was left half written is removed."""
    for half in place.glob(".*.part"):
        shutil.rmtree(half, ignore_errors=True)
    found = _checkpoints(place)
    return found[-1] if found else None


def _checkpoints(place: Path) -> list[Path]:
    """Oldest first."""
    return sorted(place.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


@contextmanager
def _whole_folder(path: Path) -> Iterator[Path]:
    """A folder that appears under its name once all is written."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        yield beside
        shutil.rmtree(path, ignore_errors=True)
        beside.rename(path)
    except torch.OutOfMemoryError:
        raise
    except (OSError, SafetensorError, RuntimeError) as failed:  # what safetensors and torch say where the disk is full
        raise StoreError(f"no checkpoint can be written to {path}: {failed}. Free some space, then run again to go on") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
