"""Training on rows with images. The work is done with TRL and peft (`vision_trainer.py`); nothing here needs torch before it begins."""

from __future__ import annotations

from collections.abc import Sequence

from tutelage.errors import InputError
from tutelage.training.extra import needs_train
from tutelage.training.supervised import check_rows
from tutelage.training.supervised_job import Job, Trained
from tutelage.training.vision import Eyes
from tutelage.training.vision_chat import VisionRow
from tutelage.training.vision_settings import VisionSettings


def train_vision(
    job: Job, eyes: Eyes, rows: Sequence[VisionRow], settings: VisionSettings, *, validation: Sequence[VisionRow] = ()
) -> Trained:
    """Train on rows with images, as `train_sft` does on text.

    Raises as it does, and `InputError` for rows that are too long where cutting them would cut an image, and for an image that was changed
    since the rows were written.
    """
    check_rows(rows, settings)
    check_rows(validation, settings, needed=False)
    with needs_train("training"):
        from tutelage.training.vision_trainer import run_vision
    return run_vision(job, eyes, [cut(eyes, row, settings) for row in rows], settings, [cut(eyes, row, settings) for row in validation])


def cut(eyes: Eyes, row: VisionRow, settings: VisionSettings) -> VisionRow:
    """The row, or its first `max_length` tokens. Raises `InputError` where an image lies beyond."""
    if len(row.ids) <= settings.max_length:
        return row
    if eyes.image_ids & set(row.ids[settings.max_length :]):
        raise InputError(
            f"a row of {len(row.ids)} tokens would be cut within an image, or before it; set max_length to {len(row.ids)}, or use fewer or "
            "smaller images",
            field="max_length",
        )
    return type(row)(row.ids[: settings.max_length], row.mask[: settings.max_length], row.pictures, row.notes)
