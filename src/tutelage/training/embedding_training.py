"""Training a model's embeddings on text, while the layers between them stay as they are.

Next-token prediction over blocks of text (continued pre-training; section 2.1.3 of arXiv:2412.21140). Input and output table learn, once
where they are one; on demand the last layers too. An interrupted training, begun again, goes on from its last checkpoint to the very same
weights; one that diverges ends with the last good ones.
"""

from __future__ import annotations

import math
import random
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, Literal, cast

import numpy as np
import torch
from pydantic import Field, JsonValue
from torch import Tensor
from transformers import get_scheduler

from tutelage.errors import InputError
from tutelage.progress import Silent, Stage
from tutelage.records import Record
from tutelage.training.base import Base, DType, load_causal_lm, name_of, parameters_of, place_of, training_formats
from tutelage.training.batches import IGNORED, Batch, label_logprobs
from tutelage.training.checkpoint import read_checkpoint, write_checkpoint
from tutelage.training.corpus import Piece
from tutelage.training.divergence import exploded, healthy, recent_loss
from tutelage.training.embeddings import Rows
from tutelage.training.output_layer import check_output
from tutelage.training.supervised_job import Interrupted
from tutelage.training.tokenizer_training import PlainEncoder

LOOKS = 20
"""So many times in a training the weights are copied as the last good ones."""
MEASURED = 16
"""Pieces of text that are measured at once."""


class EmbeddingSettings(Record):
    """How embeddings are trained. The names are those of transformers; learning rate, schedule and block size are the paper's.

    steps: None for one pass over the text. max_length: tokens of a block. train_layers: so many of the last layers learn too; what they
    learn is added to the same layers of the instruct model. save_minutes: how often a checkpoint is written.
    """

    steps: int | None = Field(None, gt=0)
    learning_rate: float = Field(2e-4, gt=0)
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    per_device_train_batch_size: int = Field(8, gt=0)
    gradient_accumulation_steps: int = Field(1, gt=0)
    gradient_checkpointing: bool = False
    max_length: int = Field(1024, gt=1)
    dtype: DType = "auto"
    train_layers: int = Field(0, ge=0)
    save_minutes: float = Field(5.0, ge=0)


@dataclass(frozen=True)
class Tables:
    """A model's embeddings as float32 arrays (tokens, width). output: None where it is the input table."""

    input: Rows
    output: Rows | None = None


def tables_of(model: Any) -> Tables:
    """A copy of a model's tables. Raises `InputError` for an output layer with a bias, which has no place in another vocabulary."""
    inside, outside = model.get_input_embeddings(), model.get_output_embeddings()
    if getattr(outside, "bias", None) is not None:
        raise InputError("the output layer has a bias, which is not carried over; models with one cannot be adapted", field="model")
    tied = outside.weight is inside.weight
    return Tables(_array(inside.weight), None if tied else _array(outside.weight))


def _array(weight: Tensor) -> Rows:
    return weight.detach().to("cpu", torch.float32, copy=True).numpy()


def set_tables(model: Any, tables: Tables) -> None:
    """Give a model these tables, of another number of tokens maybe. Raises `InputError` where it has one table and two are given."""
    inside, outside = model.get_input_embeddings(), model.get_output_embeddings()
    if tables.output is not None and outside.weight is inside.weight:
        raise InputError(
            "the instruct model's input and output embeddings are one table and the base's are two; it cannot hold what both learned",
            field="INSTRUCT",
        )
    if len(tables.input) != len(inside.weight):
        model.resize_token_embeddings(len(tables.input), mean_resizing=False)
    for layer, rows in ((model.get_input_embeddings(), tables.input), (model.get_output_embeddings(), tables.output)):
        if rows is not None:
            layer.weight.data.copy_(torch.from_numpy(np.ascontiguousarray(rows)))


def load_to_train(base: Base, settings: EmbeddingSettings) -> tuple[Any, torch.dtype | None]:
    """The model, and what it computes in where that is not what its weights are in. Raises `InputError` for what cannot be trained so."""
    formats = training_formats(settings.dtype, place_of(), parameters_of(base), lora=False)
    model: Any = load_causal_lm(base, name_of(formats.weights))
    check_output(model)
    return model, formats.autocast


def text_blocks(encode: PlainEncoder, pieces: Sequence[Piece], separator: int, length: int) -> list[list[int]]:
    """The pieces as one sequence, each after the separator, cut into blocks of `length` tokens; the rest at the end is left out."""
    ids: list[int] = []
    before: Piece | None = None
    for piece, own in zip(pieces, encode([piece.text for piece in pieces]), strict=True):
        if before is None or not _follows(before, piece):
            ids.append(separator)
        ids += own
        before = piece
    return [ids[start : start + length] for start in range(0, len(ids) - length + 1, length)] or [ids]


def _follows(before: Piece, piece: Piece) -> bool:
    """Whether one piece goes on where the other ended, which no separator may hide."""
    return piece.file == before.file and piece.line == before.line + before.text.count("\n")


@dataclass(frozen=True)
class Place:
    """Where a training runs. folder: of its checkpoints, for this one training only. stop: ends it, with a checkpoint, when it is set."""

    folder: Path
    stage: Callable[[int], Stage] = lambda total: Silent()
    stop: threading.Event = field(default_factory=threading.Event)


def train_embeddings(
    model: Any, blocks: Sequence[Sequence[int]], settings: EmbeddingSettings, place: Place, *, seed: int = 0, autocast: Any = None
) -> dict[str, JsonValue]:
    """Train the model's tables in place, on blocks of token ids; facts for the report. The checkpoints are left to the caller to remove.

    Raises `InputError` where it diverged before anything was worth keeping, `Interrupted` where it was stopped.
    """
    begun = perf_counter()
    run = _Run(model, blocks, settings, place, seed, autocast)
    steps = run.steps
    with place.stage(steps) as stage:
        for _ in range(run.resume()):
            stage.advance("from the checkpoint")
        stopped = run.go(stage)
    if place.stop.is_set() and not stopped and len(run.losses) < steps:
        raise Interrupted
    run.settle(stopped)
    model.requires_grad_(False).eval()
    return {
        "steps": len(run.losses),
        "steps_planned": steps,
        "blocks": len(blocks),
        "tokens": sum(map(len, blocks)),
        "loss_first": round(run.losses[0], 6),
        "loss_last": round(recent_loss(run.losses), 6),
        "trainable_parameters": sum(parameter.numel() for parameter in run.learned.values()),
        "stopped": "diverged" if stopped else None,
        "seconds": round(perf_counter() - begun, 1),
    }


class _Run:
    """One training: its optimiser, the losses so far, and the last good weights."""

    def __init__(
        self, model: Any, blocks: Sequence[Sequence[int]], settings: EmbeddingSettings, place: Place, seed: int, autocast: Any
    ) -> None:
        self.model, self.blocks, self.settings, self.place, self.seed, self.autocast = model, blocks, settings, place, seed, autocast
        self.learned = learned_parameters(model, settings.train_layers)
        self.batch = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
        self.steps = settings.steps or math.ceil(len(blocks) / self.batch)
        self.optimizer = torch.optim.AdamW(self.learned.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        warmup = math.ceil(settings.warmup_ratio * self.steps) if self.steps > 1 else 0
        self.scheduler = get_scheduler(settings.lr_scheduler_type, self.optimizer, warmup, self.steps)
        self.losses: list[float] = []
        self.kept: tuple[int, dict[str, Tensor]] | None = None
        self.unproven: tuple[int, dict[str, Tensor]] | None = None
        self.saved_at = monotonic()
        model.train(settings.gradient_checkpointing)
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})

    def go(self, stage: Stage) -> bool:
        """Train to the end, or until stopped; whether it diverged."""
        while len(self.losses) < self.steps and not self.place.stop.is_set():
            loss, size = self._gradients(len(self.losses))
            if exploded([*self.losses, loss]) or not math.isfinite(size):
                return True
            self._judge(loss)
            self.optimizer.step()
            self.scheduler.step()
            self._copy_if_due()
            stage.advance(f"loss {recent_loss(self.losses):.3f}")
            if self.place.stop.is_set() or monotonic() - self.saved_at >= 60 * self.settings.save_minutes:
                self.save()
        return False

    def _gradients(self, step: int) -> tuple[float, float]:
        """The loss of a step, a mean over its tokens, and the norm of its gradients, which are left on the weights."""
        rows = [self.blocks[place] for place in self._places(step)]
        count, total = sum(len(row) - 1 for row in rows), 0.0
        self.optimizer.zero_grad()
        size = self.settings.per_device_train_batch_size
        for start in range(0, len(rows), size):
            loss = -self._logprobs(rows[start : start + size]) / count
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        return total, float(torch.nn.utils.clip_grad_norm_(self.learned.values(), self.settings.max_grad_norm))

    def _logprobs(self, rows: Sequence[Sequence[int]]) -> Tensor:
        with autocasting(self.autocast, self.model.device):
            return summed_logprobs(self.model, rows).sum()

    def _places(self, step: int) -> list[int]:
        """The blocks of a step: each pass over the text is in another order."""
        found: list[int] = []
        for number in range(step * self.batch, (step + 1) * self.batch):
            epoch, place = divmod(number, len(self.blocks))
            found.append(_order(self.seed, epoch, len(self.blocks))[place])
        return found

    def _judge(self, loss: float) -> None:
        """A step's loss is that of the weights before it."""
        self.losses.append(loss)
        if self.unproven is not None and healthy(self.losses):
            self.kept = self.unproven
        self.unproven = None

    def _copy_if_due(self) -> None:
        step = len(self.losses)
        if step % max(1, self.steps // LOOKS) == 0:
            self.unproven = (step, {name: parameter.detach().to("cpu", copy=True) for name, parameter in self.learned.items()})

    def settle(self, diverged: bool) -> None:
        """After a divergence, put the last good weights back. Raises `InputError` where there are none."""
        if not diverged:
            return
        if self.kept is None:
            raise InputError(
                f"training diverged at step {len(self.losses) + 1} before anything was worth keeping; lower the learning rate",
                field="--learning-rate",
            )
        for name, parameter in self.learned.items():
            parameter.data.copy_(self.kept[1][name])

    def save(self) -> None:
        """Write a checkpoint, from which `resume` goes on."""
        tensors = {
            "weights": {name: parameter.detach() for name, parameter in self.learned.items()},
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "kept": self.kept and self.kept[1],
            "unproven": self.unproven is not None,
        }
        facts: dict[str, JsonValue] = {"losses": list(self.losses), "kept": self.kept and self.kept[0]}
        write_checkpoint(self.place.folder, len(self.losses), tensors, facts)
        self.saved_at = monotonic()

    def resume(self) -> int:
        """Go on from the newest checkpoint, where there is one; after how many steps."""
        found = read_checkpoint(self.place.folder)
        if found is None:
            return 0
        tensors, facts = found
        for name, parameter in self.learned.items():
            parameter.data.copy_(tensors["weights"][name])
        self.optimizer.load_state_dict(tensors["optimizer"])
        self.scheduler.load_state_dict(tensors["scheduler"])
        self.losses = cast("list[float]", facts["losses"])
        self.kept = None if facts["kept"] is None else (cast(int, facts["kept"]), tensors["kept"])
        if tensors["unproven"]:
            self._copy_if_due()
        return len(self.losses)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> list[int]:
    places = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(places)
    return places


def learned_parameters(model: Any, layers: int = 0) -> dict[str, torch.nn.Parameter]:
    """Freeze a model but for its tables and its last layers; what learns, by name. Raises `InputError` where it has not so many layers."""
    model.requires_grad_(False)
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        table.weight.requires_grad_(True)
    stack = list(getattr(model.base_model, "layers", ()))
    if layers > len(stack):
        raise InputError(f"the model has {len(stack)} layers that can be trained", field="--train-layers")
    for layer in stack[len(stack) - layers :]:
        layer.requires_grad_(True)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def summed_logprobs(model: Any, rows: Sequence[Sequence[int]]) -> Tensor:
    """Of each row the log-probability of its tokens from the second on, in nats: (rows,)."""
    batch = Batch.of([(row, row) for row in rows], 0, packing=False)
    inputs = {"input_ids": batch.input_ids.to(model.device), **{name: value.to(model.device) for name, value in batch.inputs.items()}}
    labels = batch.labels.to(model.device)
    return label_logprobs(model, inputs, labels).masked_fill(labels[:, 1:] == IGNORED, 0).sum(1)


@torch.no_grad()
def nats_of(model: Any, encode: PlainEncoder, pieces: Sequence[Piece], separator: int, autocast: Any = None) -> float:
    """The surprise at all pieces together, in nats: each by itself after the separator, every token counted, so that tokenizers compare."""
    rows = sorted(([separator, *ids] for ids in encode([piece.text for piece in pieces]) if ids), key=len)
    with autocasting(autocast, model.device):
        return -sum(float(summed_logprobs(model, rows[start : start + MEASURED]).sum()) for start in range(0, len(rows), MEASURED))


def autocasting(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager[Any]:
    """Computing in another type than the weights', or not."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def layer_changes(before: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """What training changed beside the tables, by name, float32."""
    tables = {id(layer.weight) for layer in (model.get_input_embeddings(), model.get_output_embeddings())}
    now: Iterator[tuple[str, Any]] = (pair for pair in model.named_parameters() if pair[0] in before and id(pair[1]) not in tables)
    return {name: (parameter.detach().cpu() - before[name]).float() for name, parameter in now}


def clear(folder: Path) -> None:
    """Remove the checkpoints of a training."""
    shutil.rmtree(folder, ignore_errors=True)
