"""Supervised fine-tuning of a vision-language model, on rows whose images are loaded batch by batch.

The trainer is that of text rows (`sft_trainer.py`); what differs is the batch. Its ids and labels are those that were written and checked
before training; its images are decoded and turned into numbers when the batch is made, so that memory holds those of one batch only, and
an image that was changed since is refused. Rows share lines only where that was tried to be exact (`SHARES_LINES`); elsewhere they are
padded. TRL refuses packing with images altogether.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from pydantic import JsonValue
from torch import Tensor
from trl.trainer.sft_config import SFTConfig

from tutelage.training.batches import PACKS, Batch, labels_of
from tutelage.training.output_layer import known_output
from tutelage.training.sft_trainer import SupervisedTrainer, token_counts
from tutelage.training.sharing import counts_of
from tutelage.training.supervised_job import Job, Trained
from tutelage.training.supervised_run import pad_of, run
from tutelage.training.trees import language_model_of
from tutelage.training.vision import Eyes, load_pictures
from tutelage.training.vision_chat import VisionRow
from tutelage.training.vision_settings import VisionSettings, trains_vision

SHARES_LINES = frozenset({"llava"})
"""Families in which images take the places of their tokens one after another, line by line, and nothing else tells rows of a line apart
than the positions of their tokens, which begin anew."""


def run_vision(job: Job, eyes: Eyes, rows: Sequence[VisionRow], settings: VisionSettings, validation: Sequence[VisionRow]) -> Trained:
    """Train; see `train_vision`."""
    packing: dict[str, str | None] = {}

    def make(model: Any, arguments: dict[str, Any]) -> SupervisedTrainer:
        if settings.lora is None and not trains_vision(settings):
            _freeze(model)
        packing["not_used"] = why_not_packed(model) if settings.packing else "it is switched off"
        return vision_trainer(model, eyes, arguments, rows, validation, packed=packing["not_used"] is None)

    facts: dict[str, JsonValue] = {"rows": len(rows), "rows_validation": len(validation), **token_counts(rows), **_image_facts(rows)}
    data = [[[*row.ids, -1, *map(int, row.mask), *(one.id for one in row.pictures)] for row in group] for group in (rows, validation)]
    longest = max(len(row.ids) for row in [*rows, *validation])
    trained = run(job, settings, make, data, facts, longest=longest, validates=bool(validation))
    return Trained(trained.model, trained.tokenizer, {**trained.facts, "packing_not_used": packing["not_used"]}, trained.workplace)


def _freeze(model: Any) -> None:
    """Let the image encoder be as it is; what projects its output is trained."""
    model.get_encoder(modality="image").requires_grad_(False)


def _image_facts(rows: Sequence[VisionRow]) -> dict[str, JsonValue]:
    notes = [note for row in rows for note in row.notes]
    counted: dict[str, JsonValue] = {note: notes.count(note) for note in sorted(set(notes))}
    return {"images": sum(len(row.pictures) for row in rows), "images_changed": counted}


def why_not_packed(model: Any) -> str | None:
    """Why rows cannot share lines in this model; None where they can."""
    config = language_model_of(model).config
    text = config.get_text_config()
    if config.model_type not in SHARES_LINES or text.model_type not in PACKS:
        return f"rows with images share lines in {', '.join(sorted(SHARES_LINES))} only, and this is {config.model_type}; they are padded"
    if text._attn_implementation not in ("sdpa", "eager"):
        return f"the attention in use ({text._attn_implementation}) does not keep rows of a line apart; they are padded"
    return None


def vision_trainer(
    model: Any,
    eyes: Eyes,
    arguments: dict[str, Any],
    rows: Sequence[VisionRow],
    validation: Sequence[VisionRow] = (),
    *,
    packed: bool = False,
) -> SupervisedTrainer:
    """The trainer over these rows; `arguments` are those of `SFTConfig`."""
    trainer = SupervisedTrainer(
        model=model,
        args=SFTConfig(**arguments, dataset_kwargs={"skip_prepare_dataset": True}),
        data_collator=VisionCollator(eyes, [*rows, *validation], pad_of(eyes.tokenizer), packed=packed),
        train_dataset=_data(rows, 0),
        eval_dataset=_data(validation, len(rows)) if validation else None,
        processing_class=eyes.tokenizer,
    )
    one_process = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    trainer.alone = one_process and known_output(language_model_of(model))
    return trainer


def _data(rows: Sequence[VisionRow], first: int) -> Dataset:
    """Ids and labels, and the place of each row among all, by which the collator finds its images."""
    return Dataset.from_dict(
        {
            "input_ids": [list(row.ids) for row in rows],
            "labels": [labels_of(row.ids, row.mask) for row in rows],
            "place": list(range(first, first + len(rows))),
        }
    )


class VisionCollator:
    """A batch: its ids and labels, padded or in lines that rows share, and the numbers of its images in the order of their tokens."""

    def __init__(self, eyes: Eyes, rows: Sequence[VisionRow], pad: int, *, packed: bool) -> None:
        self.eyes, self.rows, self.pad, self.packed = eyes, rows, pad, packed

    def __call__(self, given: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Raises `InputError` for an image that cannot be read any more, or has changed."""
        pairs = [(row["input_ids"], row["labels"]) for row in given]
        batch = Batch.of(pairs, self.pad, packing=self.packed)
        in_order = [given[place]["place"] for place in _order(batch)]
        pixels = self.eyes.pixels([load_pictures(self.rows[place]) for place in in_order])
        counts = counts_of(pairs, batch.input_ids.numel())
        kinds = {} if self.packed else self._kinds([ids for ids, _ in pairs], batch.input_ids.shape[1])
        return {"input_ids": batch.input_ids, "labels": batch.labels, "counts": counts, **batch.inputs, **kinds, **pixels}

    def _kinds(self, rows: Sequence[Sequence[int]], width: int) -> dict[str, Tensor]:
        """For the families that want to know which tokens are an image's; padding is text."""
        return {
            name: torch.tensor([[*own, *[0] * (width - len(own))] for own in kinds], dtype=torch.long)
            for name, kinds in self.eyes.kinds(rows).items()
        }


def _order(batch: Batch) -> list[int]:
    """Places of the batch's rows as their tokens follow one another, line by line."""
    owners = batch.owner.flatten()
    return [int(place) for place in torch.unique_consecutive(owners[owners >= 0])]
