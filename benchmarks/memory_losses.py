"""What `memory.py` compares: each side takes hidden states (N, H), the output layer (V, H) and targets (N,) to the mean loss.

Each is imported where it is measured; one that cannot be is listed with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(linear(hidden, weight).float(), targets)


def plain() -> Loss:
    """All logits, and torch's cross-entropy."""
    return plain_loss


def compiled() -> Loss:
    """The same by torch.compile, which is what the package cut-cross-entropy falls back to without Triton."""
    return torch.compile(plain_loss, fullgraph=True, dynamic=True)


def chunked() -> Loss:
    """TRL's fused output layer: tiles of 4,096 tokens by 32,768 entries, computed again in the backward pass."""
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    return lambda hidden, weight, targets: (
        -ChunkedLogProbFunction.apply(hidden, weight, None, targets, 1.0, 32_768, None, 1.0, ())[0].mean()
    )


def ours() -> Loss:
    """What SFT, DPO and the policy gradient use."""
    from tutelage.training.cut_cross_entropy import cut_logprobs
    from tutelage.training.output_layer import OutputLayer

    return lambda hidden, weight, targets: -cut_logprobs(hidden, OutputLayer(weight), targets).mean()


def blocks() -> Loss:
    """Our blocks, keeping no logits however few they are, and on CUDA without the package."""
    from tutelage.training.cut_cross_entropy import cut_scores
    from tutelage.training.output_layer import OutputLayer

    return lambda hidden, weight, targets: -cut_scores(hidden, OutputLayer(weight), targets, statistics=False, keep=0).logprobs.mean()


def apple() -> Loss:
    """The paper's own package, as it comes."""
    from cut_cross_entropy import linear_cross_entropy

    _needs_cuda()
    return linear_cross_entropy


def liger() -> Loss:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    _needs_cuda()
    return lambda hidden, weight, targets: _first(liger_fused_linear_cross_entropy(hidden, weight, targets))


def _first(found: Any) -> Tensor:
    return found[0] if isinstance(found, tuple) else found


def _needs_cuda() -> None:
    if not torch.cuda.is_available():
        raise RuntimeError("its kernels need CUDA")


SIDES: dict[str, Callable[[], Loss]] = {
    "plain": plain,
    "compiled": compiled,
    "TRL, chunked": chunked,
    "tutelage": ours,
    "tutelage, nothing kept": blocks,
    "Liger": liger,
    "cut-cross-entropy": apple,
}
