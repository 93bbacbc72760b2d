"""Settings of training, under the names that transformers, TRL and peft give them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from tutelage.errors import InputError
from tutelage.records import Record
from tutelage.suggest import unknown

Kind = TypeVar("Kind", bound=Record)


class Lora(Record):
    """Low-rank adapters (Hu et al. 2021), as peft's `LoraConfig` has them. target_modules: `all-linear`, or names of layers."""

    r: int = Field(16, gt=0)
    lora_alpha: float = Field(32, gt=0)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"


class TrainSettings(Record):
    """What every way of training with weights has in common.

    lora None: all weights are trained. gradient_accumulation_steps: micro-batches a step. dtype: what is computed in; what
    learns is float32 always (`auto`: see `base.number_format`). max_length: in tokens; a longer row is refused unless `truncate` is true.

    Levers for little memory (`levers.py` says what each needs, and which exclude each other): gradient_checkpointing: keep of each layer
    its input only, and compute the rest again in the backward pass. optim: AdamW with its state in float32, or in 8 bits
    (`paged_adamw_8bit`: which may move to main memory where the GPU's is full). load_in_4bit: keep the base's matrices in 4 bits (NF4,
    with double quantisation) under LoRA. attn_implementation: `auto` lets transformers choose. offload_optimizer: AdamW's state lies in
    main memory, and its step is made there. return_memory: on a CPU give the memory of each large tensor back to the system where it is
    freed, in place of keeping its hole for the next.

    SAID_WHERE_SET: settings that came later than others. At their defaults they are left out of what `model_dump` gives, so that what was
    trained before they existed keeps its hashes.
    """

    SAID_WHERE_SET: ClassVar[frozenset[str]] = frozenset(
        {"optim", "load_in_4bit", "attn_implementation", "offload_optimizer", "return_memory"}
    )

    learning_rate: float = Field(2e-4, gt=0)
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "linear"
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    per_device_train_batch_size: int = Field(8, gt=0)
    gradient_accumulation_steps: int = Field(1, gt=0)
    gradient_checkpointing: bool = False
    max_length: int = Field(1024, gt=0)
    truncate: bool = False
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    lora: Lora | None = Lora()
    optim: Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit"] = "adamw_torch"
    load_in_4bit: bool = False
    attn_implementation: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    offload_optimizer: bool = False
    return_memory: bool = False

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields, later = type(self).model_fields, self.SAID_WHERE_SET
        return {name: value for name, value in dump(self).items() if name not in later or getattr(self, name) != fields[name].default}


SPEED_ONLY = frozenset({"attn_implementation", "offload_optimizer", "return_memory"})
"""Levers that change no result but for rounding: they are no part of what tells one training from another."""


def read_settings(kind: type[Kind], given: dict[str, Any], what: str) -> Kind:
    """The settings of a learner from what a user wrote. Raises `InputError` naming the setting, and the ones that are like it."""
    for name in given:
        if name not in kind.model_fields:
            raise InputError(unknown(f"a setting of {what}", name, kind.model_fields), field=name)
    try:
        return kind.model_validate(given)
    except ValidationError as invalid:
        first = invalid.errors()[0]
        raise InputError(f"{first['msg']}, and here is {first['input']!r}", field=".".join(map(str, first["loc"]))) from None
