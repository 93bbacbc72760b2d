"""The output layer of a language model as losses need it: a matrix, and what the model does to the logits after it.

    logits = softcap * tanh(scale * (hidden W^T + bias) / softcap)

Models differ in what they call these: Gemma caps (`final_logit_softcapping`), Cohere and Falcon-H1 multiply, Granite divides. What is read
from a configuration is not trusted: `check_output` compares it with the model's own logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper
from torch import Tensor, nn

from tutelage.errors import InputError
from tutelage.training.trees import language_model_of, tolerance

_FACTORS = ("logit_scale", "output_multiplier", "lm_head_multiplier")
_DIVISOR = "logits_scaling"
_MULTIPLIES = frozenset({"hyperclovax"})
"""Architectures that multiply with their `logits_scaling`; the others divide by it."""
_SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
_PROBE = (1, 2, 3)


@dataclass(frozen=True)
class OutputLayer:
    """weight (V, H) and bias (V,), as the forward pass uses them, so that gradients reach what learns; scale and softcap: see above."""

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, model: Any) -> OutputLayer:
        """The output layer of a transformers model or PeftModel, as it is at this moment. Raises `InputError` for layers of other kinds.

        In a sharded model (FSDP2) to be called inside the forward pass, where the weights are whole.
        """
        inner: Any = language_model_of(model)
        weight, bias = _used(inner.get_output_embeddings())
        if not weight.is_floating_point() or weight.ndim != 2:
            raise InputError(f"the output layer of {type(inner).__name__} is not a plain matrix ({weight.dtype}); losses need it so")
        return cls(weight, bias, *scale_and_softcap(inner.config))

    def logits(self, hidden: Tensor) -> Tensor:
        """Of hidden states (..., H): (..., V), float32. All at once: for few positions, and to compare with."""
        raw = nn.functional.linear(hidden, self.weight, self.bias).float() * self.scale
        return raw if self.softcap is None else self.softcap * torch.tanh(raw / self.softcap)


def scale_and_softcap(config: Any) -> tuple[float, float | None]:
    """What a model of this configuration multiplies its logits with, and where it caps them (None: nowhere)."""
    text = config.get_text_config()
    found = {name: getattr(text, name, None) for name in (*_FACTORS, _DIVISOR, *_SOFTCAPS)}
    numbers = {name: float(value) for name, value in found.items() if isinstance(value, int | float) and value}
    scale = 1.0
    for name in _FACTORS:
        scale *= numbers.get(name, 1.0)
    divisor = numbers.get(_DIVISOR, 1.0)
    scale = scale * divisor if text.model_type in _MULTIPLIES else scale / divisor
    return scale, next((numbers[name] for name in _SOFTCAPS if name in numbers), None)


@torch.no_grad()
def check_output(model: Any) -> None:
    """Raises `InputError` where the model's own logits are not those of `OutputLayer.of(model)`; tried on a few tokens."""
    inner: Any = language_model_of(model)
    layer, training = OutputLayer.of(inner), inner.training
    ids = torch.tensor([_PROBE], device=inner.device)
    try:
        inner.eval()
        own = inner(input_ids=ids, use_cache=False).logits.float()
        ours = layer.logits(inner.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    finally:
        inner.train(training)
    computed = torch.get_autocast_dtype(ids.device.type) if torch.is_autocast_enabled(ids.device.type) else inner.dtype
    if own.shape != ours.shape or not torch.allclose(own, ours, rtol=1e-3, atol=tolerance(computed)):
        raise InputError(f"{type(inner).__name__} changes its logits after the output layer in a way that is not known here")


def known_output(model: Any) -> bool:
    """Whether `check_output` has nothing against the model."""
    try:
        check_output(model)
    except InputError:
        return False
    return True


def _used(head: Any) -> tuple[Tensor, Tensor | None]:
    """(weight, bias) that the forward pass of a head works out to, with what peft has put around it."""
    if isinstance(head, ModulesToSaveWrapper):
        active = [name for name in head.active_adapters if name in head.modules_to_save and not head.disable_adapters]
        head = head.modules_to_save[active[0]] if active else head.original_module
    if isinstance(head, TrainableTokensWrapper):
        head = head.token_adapter
    if isinstance(head, TrainableTokensLayer):
        return _with_tokens(head)
    if isinstance(head, LoraLayer):
        return _with_lora(head)
    if not isinstance(head, nn.Linear):
        raise InputError(f"the output layer is a {type(head).__name__}, and losses need a linear layer")
    return head.weight, head.bias


def _with_tokens(layer: Any) -> tuple[Tensor, Tensor | None]:
    """The matrix with the rows that learn put in their places; their gradient arrives through it."""
    own = layer.base_layer
    if layer.disable_adapters or layer.merged or not layer.active_adapters:
        return own.weight, getattr(own, "bias", None)
    if getattr(own, "bias", None) is not None:
        raise InputError("new tokens of an output layer that has a bias cannot be learned: peft leaves the bias out")
    return layer.get_merged_weights(layer.active_adapters), None


def _with_lora(layer: Any) -> tuple[Tensor, Tensor | None]:
    """The matrix with its low-rank part added."""
    weight, bias = _used(layer.base_layer)
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if layer.disable_adapters or layer.merged or not active:
        return weight, bias
    drops = layer.training and any(not isinstance(layer.lora_dropout[name], nn.Identity) for name in active)
    if drops or any(name in layer.lora_variant or layer.lora_bias[name] for name in active):
        raise InputError("of LoRA on the output layer, dropout, DoRA and the like are not supported; leave the output layer out")
    for name in active:
        weight = weight + layer.get_delta_weight(name).to(weight.dtype)
    return weight, bias
