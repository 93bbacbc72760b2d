"""Supervised fine-tuning with TRL's `SFTTrainer`, on rows that are tokenised already.

TRL takes such rows as they are (`skip_prepare_dataset`, columns `input_ids` and `labels`, -100 where no loss falls). Different from it:
what rows of a batch begin with is computed once for all of them (`sharing.py`), or they share lines within one batch instead of across the
data set, so that no step changes; and only the learned positions go through the output layer. The loss is TRL's: the sum over the learned
tokens of a step, divided by their number. What the model reads in the place of an answer's tokens is the objective's to say
(`objectives.py`); the labels stay the answer's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from pydantic import JsonValue
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from tutelage.training.batches import IGNORED, Batch, label_logprobs, labels_of
from tutelage.training.chat import TokenRow
from tutelage.training.keeper import Checkpoints
from tutelage.training.objectives import Objective
from tutelage.training.sharing import InPasses, counts_of, pass_logprobs
from tutelage.training.supervised_job import Job, SFTSettings, Trained
from tutelage.training.supervised_run import Shapes, pad_of, run, shapes_of


def run_sft(job: Job, rows: Sequence[TokenRow], settings: SFTSettings, validation: Sequence[TokenRow]) -> Trained:
    """Train; see `train_sft`."""

    def make(model: Any, arguments: dict[str, Any]) -> SupervisedTrainer:
        return sft_trainer(model, job.tokenizer, arguments, settings, rows, validation)

    objective = Objective.of(settings, job.tokenizer, job.seed)
    rows, validation = objective.rows(rows), objective.rows(validation)
    facts: dict[str, JsonValue] = {"rows": len(rows), "rows_validation": len(validation), **token_counts(rows)}
    facts |= objective.told(job.tokenizer)
    data = [[[*row.ids, -1, *map(int, row.mask)] for row in group] for group in (rows, validation)]
    return run(job, settings, make, data, facts, longest=max(len(row.ids) for row in [*rows, *validation]), validates=bool(validation))


def sft_trainer(
    model: Any,
    tokenizer: Any,
    arguments: dict[str, Any],
    settings: SFTSettings,
    rows: Sequence[TokenRow],
    validation: Sequence[TokenRow] = (),
) -> SupervisedTrainer:
    """The trainer over these rows, which are the objective's; `arguments` are those of `SFTConfig`."""
    shapes = shapes_of(model, settings, arguments)
    collator = _Collator(pad_of(tokenizer), shapes, Objective.of(settings, tokenizer, arguments["seed"]))
    trainer = SupervisedTrainer(
        model=model,
        args=SFTConfig(**arguments, dataset_kwargs={"skip_prepare_dataset": True}),
        data_collator=collator,
        train_dataset=_data(rows),
        eval_dataset=_data(validation, drawn=False) if validation else None,
        processing_class=tokenizer,
        callbacks=[_Epochs(collator)],
    )
    trainer.alone = shapes.alone
    return trainer


class SupervisedTrainer(InPasses, Checkpoints, SFTTrainer):
    """TRL's trainer with our checkpoints. alone: work the loss out from the learned positions only (in one process)."""

    alone = False

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """The mean loss of a learned token; `num_items_in_batch` counts those of the whole step, as `labels` do those of the batch."""
        own = {name: value for name, value in inputs.items() if name != "counts"}
        if "passes" not in own and (not self.alone or return_outputs):
            theirs: Any = super()
            return theirs.compute_loss(model, own, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch)
        labels: Tensor = own.pop("labels")
        with self.accelerator.autocast():
            logprobs = self._logprobs(model, own, labels)
        count = (labels[:, 1:] != IGNORED).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        return -logprobs / count

    def _logprobs(self, model: Any, inputs: dict[str, Any], labels: Tensor) -> Tensor:
        """The sum over all learned tokens of the passes, or of the lines."""
        if "passes" not in inputs:
            return label_logprobs(model, inputs, labels).sum()
        return torch.stack([pass_logprobs(model, one, labels.device)[0].sum() for one in inputs["passes"]]).sum()


class _Collator:
    """A batch: its labels and passes, or what the model takes; beside these what `InPasses` counts. epoch: of the draws."""

    def __init__(self, pad: int, shapes: Shapes, objective: Objective) -> None:
        self.pad, self.shapes, self.objective = pad, shapes, objective
        self.epoch = 0

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        pairs = [(self._reads(row), row["labels"]) for row in rows]
        if self.shapes.sharing is None:
            batch = Batch.of(pairs, self.pad, packing=self.shapes.packing)
            counts = counts_of(pairs, batch.input_ids.numel())
            return {"input_ids": batch.input_ids, "labels": batch.labels, "counts": counts, **batch.inputs}
        passes = self.shapes.sharing.passes(pairs)
        labels = pad_sequence([torch.tensor(labels) for _, labels in pairs], batch_first=True, padding_value=IGNORED)
        return {"labels": labels, "passes": passes, "counts": counts_of(pairs, sum(one.tokens_computed for one in passes))}

    def _reads(self, row: dict[str, Any]) -> list[int]:
        ids: list[int] = row["input_ids"]
        if row["number"] < 0:
            return ids
        return self.objective.reads(ids, [label != IGNORED for label in row["labels"]], epoch=self.epoch, row=row["number"])


class _Epochs(TrainerCallback):
    """Tells the collator which epoch begins, or goes on from a checkpoint. Batches are fetched ahead of their steps, not of their epoch."""

    def __init__(self, collator: _Collator) -> None:
        self.collator = collator

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Before its first batch is fetched."""
        self.collator.epoch = int(state.epoch or 0)


def _data(rows: Sequence[TokenRow], *, drawn: bool = True) -> Dataset:
    """The columns of rows. drawn: whether the objective's draws hide tokens of them; where not, they have no number."""
    columns = {"input_ids": [list(row.ids) for row in rows], "labels": [labels_of(row.ids, row.mask) for row in rows]}
    return Dataset.from_dict({**columns, "number": [place if drawn else -1 for place in range(len(rows))]})


def token_counts(rows: Sequence[TokenRow]) -> dict[str, int]:
    """What the rows hold: tokens, and those that bear loss."""
    return {"tokens": sum(len(row.ids) for row in rows), "tokens_learned": sum(sum(row.mask) for row in rows)}
