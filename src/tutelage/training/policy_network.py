"""The module that the policy gradient trains: a causal language model, LoRA on it or all of it, and for PPO a value head.

It is one module with one forward pass, so that it can be sharded (FSDP2) as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from tutelage.adapter import Adapter
from tutelage.errors import InputError
from tutelage.training.adapters import check_fits, load_adapter
from tutelage.training.base import Base, Formats, load_to_train, parameters_of, place_of, training_formats
from tutelage.training.logprobs import TokenScores, score_tokens
from tutelage.training.output_layer import OutputLayer, check_output
from tutelage.training.packing import MicroBatch
from tutelage.training.settings import TrainSettings
from tutelage.training.splitting import Work
from tutelage.training.trees import hidden_states, language_model_of, shares_soundly, work_of


class PolicyNetwork(nn.Module):
    """Micro-batches in, scores of their action tokens out.

    model: a PeftModel or a PreTrainedModel. value_head: linear on the last hidden state, starts at zero, float32. detach_value: its error
    does not reach the backbone. autocast: compute in this type (the weights keep their own).
    """

    def __init__(
        self,
        model: Any,
        *,
        temperature: float = 1.0,
        value_head: bool = False,
        detach_value: bool = False,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.temperature, self.detach_value, self.autocast = temperature, detach_value, autocast
        self.value_head = _zero_head(self.language_model) if value_head else None

    @property
    def language_model(self) -> PreTrainedModel:
        """The transformers model, with LoRA layers in it where there are any."""
        return language_model_of(self.model)

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        return next(self.parameters()).device

    @property
    def max_length(self) -> int | None:
        """The longest sequence that the model takes, in tokens; None where it does not say."""
        return getattr(self.language_model.config.get_text_config(), "max_position_embeddings", None)

    def forward(self, batch: MicroBatch) -> TokenScores:
        """The scores of a micro-batch's action tokens (M,)."""
        with self._computing():
            hidden = hidden_states(self.language_model, batch).flatten(0, 1)[batch.source]
            scores = score_tokens(hidden, self._head(), batch.target, temperature=self.temperature)
        values = None
        if self.value_head is not None:
            seen = hidden.detach() if self.detach_value else hidden
            values = self.value_head(seen.float()).squeeze(-1)
        return TokenScores(scores.logprobs, scores.plain, scores.entropy, values)

    def _computing(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.autocast is None else torch.autocast(self.device.type, self.autocast)

    def _head(self) -> OutputLayer:
        return OutputLayer.of(self.language_model)

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """The base itself, while inside.

        peft's own `disable_adapter` also turns the gradients of the layers off and on, which a sharded module must not see.
        """
        layers = [module for module in self.modules() if isinstance(module, BaseTunerLayer)]
        for layer in layers:
            layer._disable_adapters = True
        try:
            yield
        finally:
            for layer in layers:
                layer._disable_adapters = False

    def work(self) -> Work:
        """What a token and a pair of tokens cost this model, in multiplications."""
        return work_of(self.model)

    def shares_soundly(self) -> bool:
        """Whether samples that begin alike may be computed together (see `trees.shares_soundly`)."""
        with self._computing():
            return shares_soundly(self.language_model, lambda batch: self(batch).logprobs)

    def check_head(self) -> None:
        """Raises `InputError` where the model does more to its logits than is known here (soft caps and scales are)."""
        with self._computing():
            check_output(self.language_model)


def _zero_head(model: PreTrainedModel) -> nn.Linear:
    head = nn.Linear(model.config.get_text_config().hidden_size, 1, device=model.device, dtype=torch.float32)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def build_model(base: Base | PreTrainedModel, settings: TrainSettings, adapter: Adapter | None, device: str | None) -> Any:
    """The model to train: with LoRA (the adapter's, else new), or all of it; gradients only where it learns.

    A PreTrainedModel in place of a Base is taken as it is and changed in place. Raises `InputError` where the adapter does not fit the base
    or the settings, and for float16, whose gradients would need a scale of their own.
    """
    if settings.dtype == "float16":
        raise InputError("training in float16 is not supported; use bfloat16, float32 or auto", field="dtype")
    if adapter is not None and (adapter.kind == "lora") != (settings.lora is not None):
        wanted = "keep `lora` as it is" if adapter.kind == "lora" else "set `lora: null` to go on training all weights"
        raise InputError(f"the adapter to go on from is of kind {adapter.kind}: {wanted}", field="lora")
    if isinstance(base, Base):
        if adapter is not None:
            check_fits(adapter, base)
        model = load_to_train(base, settings, formats_of(base, settings, device), device)
    else:
        model = _as_wanted(base, settings)
    if settings.lora is None:
        model = model if adapter is None else load_adapter(model, adapter)
        return model.requires_grad_(True)
    learning = _new_lora(model, settings) if adapter is None else load_adapter(model, adapter, trainable=True)
    formats_of(base, settings, device).settle(learning)
    return learning


def _as_wanted(model: PreTrainedModel, settings: TrainSettings) -> PreTrainedModel:
    """A loaded model with the attention that the settings want. Raises `InputError` where it would have to be loaded otherwise."""
    if settings.load_in_4bit:
        raise InputError("the model is loaded already, and cannot be put into 4 bits any more; give a base", field="load_in_4bit")
    if settings.attn_implementation != "auto":
        model.set_attn_implementation(settings.attn_implementation)
    return model


def _new_lora(model: PreTrainedModel, settings: TrainSettings) -> Any:
    lora = settings.lora
    assert lora is not None  # noqa: S101 (the caller looked)
    modules = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    config = LoraConfig(
        r=lora.r, lora_alpha=cast(int, lora.lora_alpha), lora_dropout=lora.lora_dropout, target_modules=modules, task_type="CAUSAL_LM"
    )
    try:
        return get_peft_model(model, config)
    except ValueError as wrong:  # no layer of that name
        raise InputError(str(wrong), field="lora.target_modules") from None


def formats_of(base: Base | PreTrainedModel, settings: TrainSettings, device: str | None) -> Formats:
    """What to train in."""
    if isinstance(base, Base):
        place, parameters = place_of(device), parameters_of(base)
    else:
        place, parameters = base.device, base.num_parameters()
    return training_formats(settings.dtype, place, parameters, lora=settings.lora is not None, four_bit=settings.load_in_4bit)
