"""Sampling from a vision-language model, by transformers' own `generate`, which knows each family's positions and caches.

What is drawn is drawn as for text models (`sampling.py`): each token by the request's own random numbers, with the logprobs of the model's
own distribution. Requests are answered together, padded on the left, in the families where that was tried, else one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel, StoppingCriteria

from tutelage.training.generation import Done, Generator, Request, Row, row_of
from tutelage.training.sampling import Cuts, draw
from tutelage.training.vision import Eyes, load_pictures

TOGETHER = frozenset({"llava"})
"""Families whose requests are answered in batches: the result is tried against one request alone."""


class VisionGenerator(Generator):
    """As `Generator`, for requests with images. eyes: the model's processor. Nothing computed is kept for later prompts."""

    def __init__(self, model: PreTrainedModel, eyes: Eyes, **how: Any) -> None:
        super().__init__(model, **how)
        self.eyes = eyes

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request], done: Done, abandoned: Callable[[int], bool] = lambda number: False) -> None:
        """As `Generator.generate`. Raises `InputError`, too, for an image that cannot be read any more."""
        for request in requests:
            self.check(request.prompt)
        size = len(requests) if self.model.config.model_type in TOGETHER else 1
        for first in range(0, len(requests), size):
            rows = [self._row(number, requests[number]) for number in range(first, min(first + size, len(requests)))]
            self._answer(rows, done, abandoned)

    def _row(self, number: int, request: Request) -> Row:
        return row_of(number, request, {request.prompt: 0}, self.context)

    def _answer(self, rows: list[Row], done: Done, abandoned: Callable[[int], bool]) -> None:
        cuts = Cuts.of([row.request.sampling for row in rows], self.device)

        def step(scores: Tensor) -> list[int]:
            drawn, logprobs = draw(scores, cuts, [row.uniform() for row in rows])
            for row, token, logprob in zip(rows, drawn.tolist(), logprobs.tolist(), strict=True):
                if row.finish is None and not abandoned(row.number):
                    self._take(row, token, logprob, done)
            return drawn.tolist()

        def stopped() -> list[bool]:
            return [row.finish is not None or abandoned(row.number) for row in rows]

        own: Any = GenerationConfig
        theirs, self.model.generation_config = self.model.generation_config, own()  # a hub model's would change the scores
        try:
            self.model.generate(  # type: ignore[operator]
                **self._inputs([row.request for row in rows]),
                max_new_tokens=max(row.most for row in rows),
                do_sample=False,
                pad_token_id=self._pad,
                logits_processor=[_Drawn(step)],
                stopping_criteria=[_Stopped(stopped)],
            )
        finally:
            self.model.generation_config = theirs

    @property
    def _pad(self) -> int:
        tokenizer: Any = self.eyes.tokenizer
        return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)

    def _inputs(self, requests: Sequence[Request]) -> dict[str, Tensor]:
        """What the model takes: prompts that end together, and their images."""
        length = max(len(request.prompt) for request in requests)
        missing = [length - len(request.prompt) for request in requests]
        prompts = [request.prompt for request in requests]
        columns = {
            "input_ids": [[self._pad] * pad + list(ids) for pad, ids in zip(missing, prompts, strict=True)],
            "attention_mask": [[0] * pad + [1] * len(ids) for pad, ids in zip(missing, prompts, strict=True)],
        }
        for name, kinds in self.eyes.kinds(prompts).items():
            columns[name] = [[0] * pad + list(own) for pad, own in zip(missing, kinds, strict=True)]
        pixels = self.eyes.pixels([load_pictures(request) for request in requests])
        tensors = {name: torch.tensor(rows, dtype=torch.long) for name, rows in columns.items()} | pixels
        return {name: self._placed(tensor) for name, tensor in tensors.items()}

    def _placed(self, tensor: Tensor) -> Tensor:
        moved = tensor.to(self.device)
        return moved.to(self.model.dtype) if moved.is_floating_point() else moved


class _Drawn(LogitsProcessor):
    """Draws a token for each row, and leaves no other possible."""

    def __init__(self, step: Callable[[Tensor], list[int]]) -> None:
        self._step = step

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        only = torch.full_like(scores, float("-inf"))
        only[torch.arange(len(scores)), self._step(scores)] = 0.0
        return only


class _Stopped(StoppingCriteria):
    """Says which rows are done."""

    def __init__(self, stopped: Callable[[], list[bool]]) -> None:
        self._stopped = stopped

    def __call__(self, input_ids: Tensor, scores: Any, **more: Any) -> Any:
        return torch.tensor(self._stopped(), dtype=torch.bool, device=input_ids.device)
