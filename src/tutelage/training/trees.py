"""Micro-batches of `packing.py` through a language model: what they cost it, whether it takes them, and its hidden states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage.training.packing import MicroBatch, as_micro_batch, pack_rows
from tutelage.training.splitting import Work

ALIGNED = 16
"""On a GPU masks are made so wide that they need no copy of their own in every layer."""


@dataclass(frozen=True)
class Stretch:
    """Tokens, and which of them bear loss: a `Marked`."""

    ids: tuple[int, ...]
    action: tuple[bool, ...]


def language_model_of(model: Any) -> PreTrainedModel:
    """The transformers model, with LoRA layers in it where there are any."""
    return cast(PreTrainedModel, model.get_base_model() if hasattr(model, "get_base_model") else model)


def hidden_states(model: PreTrainedModel, batch: MicroBatch) -> Tensor:
    """The last hidden states of a micro-batch (B, N, H).

    The mask is turned into numbers to be added once, where the attention would do so in every layer, and keep each for the backward pass.
    """
    length = batch.ids.shape[1]
    ids, positions, allowed = batch.ids, batch.positions, batch.mask
    if allowed is not None and allowed.device.type == "cuda":
        ids, positions, allowed = aligned(ids, positions, allowed, ALIGNED)
    mask = None if allowed is None else _added(allowed, _dtype(model, ids.device))
    out = model.base_model(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False)
    return cast(Tensor, out.last_hidden_state[:, :length])


def aligned(ids: Tensor, positions: Tensor, allowed: Tensor, multiple: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same, padded on the right to a multiple; padding sees itself."""
    missing = -ids.shape[1] % multiple
    ids, positions = nn.functional.pad(ids, (0, missing)), nn.functional.pad(positions, (0, missing))
    allowed = nn.functional.pad(allowed, (0, missing, 0, missing))
    return ids, positions, allowed | torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)


def _added(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, torch.finfo(dtype).min)


def _dtype(model: PreTrainedModel, device: torch.device) -> torch.dtype:
    """What attention is computed in."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else model.dtype


def work_of(model: nn.Module) -> Work:
    """What a token and a pair of tokens cost this model, in multiplications."""
    config: Any = language_model_of(model).config.get_text_config()
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    inner = sum(weight.numel() for weight in model.parameters() if id(weight) not in embedded and weight.ndim > 1)
    return Work(float(inner), 2.0 * config.num_hidden_layers * config.hidden_size)


@torch.no_grad()
def shares_soundly(model: PreTrainedModel, logprobs: Callable[[MicroBatch], Tensor]) -> bool:
    """Whether samples that begin alike may be computed together: tried on a small tree, since it depends on the architecture.

    logprobs: of a micro-batch's action tokens (M,), by the model in eval mode. False with sliding windows or chunked attention, which a
    mask of ancestors would override, and where the attention in use takes no mask of its own.
    """
    config: Any = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    windows = getattr(config, "sliding_window", None) if not getattr(config, "layer_types", None) else None
    if kinds or windows or config._attn_implementation not in ("sdpa", "eager"):
        return False
    apart, together = (_tried(logprobs, share, model.device) for share in (False, True))
    return bool(torch.allclose(apart, together, rtol=1e-3, atol=tolerance(_dtype(model, model.device))))


def _tried(logprobs: Callable[[MicroBatch], Tensor], share: bool, device: torch.device) -> Tensor:
    samples = [Stretch((1, 2, 3, *end), (False, *[True] * (2 + len(end)))) for end in [(4, 5, 6), (7, 8), (4, 9, 3, 2)]]
    first = np.cumsum([0] + [sum(sample.action) for sample in samples]).tolist()
    rows = pack_rows(samples, range(len(samples)), work=Work(), max_tokens=10**6, share=share)
    batch = as_micro_batch(rows, samples, first).to(device)
    found = torch.empty(first[-1], device=device)
    found[batch.token] = logprobs(batch).float()
    return found


def tolerance(dtype: torch.dtype) -> float:
    """Logprobs that are the same but for rounding differ by less."""
    return 1e-3 if dtype == torch.float32 else 0.1
