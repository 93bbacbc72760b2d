"""What a model gives to tokens: log-probabilities and entropies of chosen positions only, without the logits of any of them at once.

The logits of a batch are the largest tensor of language-model training (positions x vocabulary). Here only positions that bear loss reach
the output layer, and its logits are gone through in blocks (`cut_cross_entropy.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tutelage.training.cut_cross_entropy import cut_scores
from tutelage.training.output_layer import OutputLayer


@dataclass(frozen=True)
class TokenScores:
    """Of M tokens, all float32. logprobs (M,): log softmax(logits / temperature) of the targets, with gradient. plain (M,): the same at
    temperature 1, entropy (M,): of the distribution at the temperature; both without gradient. values (M,): of the states before the
    tokens, where there is a value head.
    """

    logprobs: Tensor
    plain: Tensor
    entropy: Tensor
    values: Tensor | None = None


def score_tokens(hidden: Tensor, layer: OutputLayer, targets: Tensor, *, temperature: float = 1.0) -> TokenScores:
    """Scores of targets (M,) from the hidden states (M, H) that predict them. Gradients are exact."""
    found = cut_scores(hidden, layer, targets, temperature=temperature)
    assert found.plain is not None and found.entropy is not None  # noqa: S101 (asked for)
    return TokenScores(found.logprobs, found.plain, found.entropy)
