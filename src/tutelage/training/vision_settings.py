"""Settings of training with images, and which parts of a vision-language model they train. No torch is needed here."""

from __future__ import annotations

import re
from typing import Any

from tutelage.training.supervised_job import SupervisedSettings


class VisionSettings(SupervisedSettings):
    """Settings of supervised fine-tuning with images.

    vision_tower: train what reads the image too: the encoder, and with LoRA also what projects its output (None: as `lora` says: LoRA
    adapts the language model alone; without LoRA everything is trained). share_prefixes has no effect: images are read by each row.
    """

    vision_tower: bool | None = None


def trains_vision(settings: VisionSettings) -> bool:
    """Whether the image encoder learns."""
    return settings.lora is None if settings.vision_tower is None else settings.vision_tower


def vision_parts(model: Any, settings: Any) -> str | None:
    """A pattern of the names of the modules that LoRA leaves alone: all but the language model's. None where it may adapt all there are.

    settings: of any training; what trains a vision-language model on text alone leaves its eyes as they are, too.
    """
    if getattr(model.config, "vision_config", None) is None or getattr(settings, "vision_tower", None):
        return None
    decoder = model.get_decoder()
    prefix = next(name for name, part in model.named_modules() if part is decoder)
    return rf"(?!{re.escape(prefix)}\.).*" if prefix else None
