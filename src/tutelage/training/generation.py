"""Sampling from a causal language model in batches.

Prompts that begin alike share their computed beginning: within a batch (the samples of one prompt, one system prompt under many tasks) and
with earlier batches. Rows of different length stand right-aligned; what is left of a row is masked and its positions count from its own
first token. A row leaves the batch at its last token.

What a request is answered with depends on its prompt, its sampling and its seed, and not on what else is in the batch, up to the rounding
of sums that are added in another order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from transformers import PreTrainedModel

from tutelage.errors import InputError, ModelFailed
from tutelage.records import Sampling
from tutelage.training.kv_cache import PrefixTree, RowsCache, common
from tutelage.training.sampling import Cuts, draw
from tutelage.training.vision_images import Picture

Ids = tuple[int, ...]
Done = Callable[[int, "Generated"], None]
"""Called with a request's number and its reply as soon as that is complete."""
KEPT_BYTES = 256 << 20
"""Of the computed beginnings of earlier prompts, so much is kept."""
_PIECE = 2048  # prompt tokens computed at once
_WORTH_WAITING = 32  # a prompt that shares so many tokens with one that is about to be computed waits for them
_KNOWN_ATTENTION = ("full_attention", "sliding_attention", "chunked_attention")


@dataclass(frozen=True)
class Request:
    """What to go on from, and how. A seed of None draws one. pictures: the images whose tokens stand in the prompt, in their order."""

    prompt: Ids
    sampling: Sampling
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class Generated:
    """What was sampled: `ids` (T,), the end token or the tokens of a stop string included, and `logprobs` (T,).

    Logprobs are natural logs under the model's own distribution, before temperature and cuts (as those of a gguf model). finish: `stop` at
    an end token or a stop string; `length` at `max_tokens` or the context's end. reused: prompt tokens that did not have to be computed.
    """

    ids: Ids
    logprobs: tuple[float, ...]
    finish: Literal["stop", "length"]
    reused: int = 0


@dataclass
class Row:
    """A request while it is worked on."""

    number: int
    request: Request
    reused: int
    most: int
    random: random.Random
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Literal["stop", "length"] | None = None

    def uniform(self) -> float:
        """A number in [0, 1), exact in every precision."""
        return self.random.getrandbits(32) / 2**32


class Generator:
    """Samples from one model.

    ends: tokens that end a reply. decode: ids to text, for stop strings. context: the most tokens of prompt and reply together.
    Raises `InputError` for a model whose layers keep something else than keys and values.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        ends: frozenset[int],
        decode: Callable[[Sequence[int]], str],
        context: int,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - set(_KNOWN_ATTENTION)
        if kinds:
            raise InputError(f"models with layers of the kind {', '.join(sorted(kinds))} cannot be sampled from here", field="model")
        self.model, self.ends, self.decode, self.context = model, ends, decode, context
        self.device = model.device
        self._tree = PrefixTree(kept_bytes)

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request], done: Done, abandoned: Callable[[int], bool] = lambda number: False) -> None:
        """Answer all requests in one batch; `done` is called for each. `abandoned` is asked after each token; such a request gets no reply.

        Raises `ModelFailed` for a prompt that does not fit, before anything is computed, and where the weights compute NaN.
        """
        for request in requests:
            self.check(request.prompt)

        def wanted(prompt: Ids) -> bool:
            return any(request.prompt == prompt and not abandoned(number) for number, request in enumerate(requests))

        try:
            logits, reused = self._read(list(dict.fromkeys(request.prompt for request in requests)), wanted)
            rows = [row_of(number, request, reused, self.context) for number, request in enumerate(requests) if request.prompt in logits]
            if rows:
                self._decode(rows, logits, done, abandoned)
        finally:
            self._tree.trim()

    def check(self, prompt: Ids) -> None:
        """Raises `ModelFailed` where the prompt leaves no room for a reply."""
        if not prompt:
            raise ModelFailed("the prompt is empty")
        if len(prompt) >= self.context:
            raise ModelFailed(
                f"the prompt has {len(prompt)} tokens and the context holds {self.context}; shorten it, or give the model a larger context "
                "(?context=N, up to what it was trained with)"
            )

    def forget(self) -> None:
        """Let the computed beginnings go, and their memory."""
        self._tree = PrefixTree(self._tree.room)

    # --- reading prompts ---

    def _read(self, prompts: Sequence[Ids], wanted: Callable[[Ids], bool]) -> tuple[dict[Ids, torch.Tensor], dict[Ids, int]]:
        """Compute what is not known of the prompts, into the tree; returns the logits after each, and how many tokens were known.

        wanted: asked before a prompt is computed; what nobody waits for any more is left out.
        """
        logits: dict[Ids, torch.Tensor] = {}
        reused: dict[Ids, int] = {}
        waiting = list(prompts)
        while waiting:
            wave, waiting = self._wave(waiting)
            for planned in list(self._groups(wave)):  # planned before the first is computed, which changes what is known
                group = [prompt for prompt in planned if wanted(prompt)]
                if not group:
                    continue
                width = max(map(self._missing, group))
                reused |= {prompt: len(prompt) - width for prompt in group}
                logits |= zip(group, self._read_group(group, width), strict=True)
        return logits, reused

    def _wave(self, prompts: Sequence[Ids]) -> tuple[list[Ids], list[Ids]]:
        """(prompts to compute now, prompts that would then find much of theirs computed)."""
        now: list[Ids] = []
        later: list[Ids] = []
        for prompt in prompts:
            known = self._tree.known(prompt)
            gains = any(common(prompt, other) >= known + _WORTH_WAITING for other in now)
            (later if gains else now).append(prompt)
        return now, later

    def _groups(self, prompts: Sequence[Ids]) -> Iterator[list[Ids]]:
        """Prompts that are computed together: as many tokens are missing of each, about, and none is shorter than that."""
        group: list[Ids] = []
        for prompt in sorted(prompts, key=self._missing, reverse=True):
            width = self._missing(group[0]) if group else 0
            alike = 2 * self._missing(prompt) + 16 >= width and len(prompt) >= width and width * (len(group) + 1) <= _PIECE
            if group and not alike:
                yield group
                group = []
            group.append(prompt)
        if group:
            yield group

    def _missing(self, prompt: Ids) -> int:
        """How many tokens must be computed: at least the last, which the reply begins from."""
        return len(prompt) - min(self._tree.known(prompt), len(prompt) - 1)

    def _read_group(self, prompts: Sequence[Ids], width: int) -> torch.Tensor:
        """Compute the last `width` tokens of each prompt, into the tree; returns the logits (rows, V) after each.

        That is what the prompt of which most is missing needs. Of the others some known tokens are computed again, so that no row holds
        padding there.
        """
        length = max(map(len, prompts))
        cache = RowsCache([self._tree.stretches(prompt, len(prompt) - width) for prompt in prompts], length - width)
        starts = self._tensor([length - len(prompt) for prompt in prompts])
        ids = self._tensor([prompt[-width:] for prompt in prompts])
        for begin in range(0, width, _PIECE):
            logits = self._forward(ids[:, begin : begin + _PIECE], cache, starts)
        for row, prompt in enumerate(prompts):
            self._tree.add(prompt, cache.stretch(row, length - len(prompt), length))
        return logits

    # --- writing replies ---

    def _decode(self, rows: list[Row], logits: dict[Ids, torch.Tensor], done: Done, abandoned: Callable[[int], bool]) -> None:
        prompts = [row.request.prompt for row in rows]
        length = max(map(len, prompts))
        cache = RowsCache([self._tree.stretches(prompt, len(prompt)) for prompt in prompts], length)
        starts = self._tensor([length - len(prompt) for prompt in prompts])
        scores = torch.stack([logits[prompt] for prompt in prompts])
        cuts = Cuts.of([row.request.sampling for row in rows], self.device)
        while True:
            drawn, logprobs = draw(scores, cuts, [row.uniform() for row in rows])
            for row, token, logprob in zip(rows, drawn.tolist(), logprobs.tolist(), strict=True):
                self._take(row, token, logprob, done)
            alive = [place for place, row in enumerate(rows) if row.finish is None and not abandoned(row.number)]
            if not alive:
                return
            if len(alive) < len(rows):
                order = _closed_up(alive)
                rows, keep = [rows[place] for place in order], self._tensor(order)
                left = int(starts[keep].min())
                cache.keep(order, left)
                starts, drawn = starts[keep] - left, drawn[keep]
                cuts = Cuts.of([row.request.sampling for row in rows], self.device)
            scores = self._forward(drawn[:, None], cache, starts)

    def _take(self, row: Row, token: int, logprob: float, done: Done) -> None:
        row.ids.append(token)
        row.logprobs.append(logprob)
        if token in self.ends or self._stopped(row):
            row.finish = "stop"
        elif len(row.ids) >= row.most:
            row.finish = "length"
        if row.finish is not None:
            done(row.number, Generated(tuple(row.ids), tuple(row.logprobs), row.finish, row.reused))

    def _stopped(self, row: Row) -> bool:
        """Whether a stop string has just been completed. Each token writes a byte at least, so the last tokens tell."""
        stops = row.request.sampling.stop
        if not stops:
            return False
        tail = self.decode(row.ids[-max(len(stop.encode()) for stop in stops) - 4 :])
        return any(stop in tail for stop in stops)

    def _forward(self, ids: torch.Tensor, cache: RowsCache, starts: torch.Tensor) -> torch.Tensor:
        """The logits (rows, V) after the last of `ids` (rows, N), which stand behind what the cache holds."""
        past, count = cache.get_seq_length(), ids.shape[1]
        columns = torch.arange(past + count, device=self.device)
        answer = self.model(
            input_ids=ids,
            attention_mask=columns[None] >= starts[:, None],
            position_ids=columns[None, past:] - starts[:, None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return answer.logits[:, -1]  # type: ignore[no-any-return]

    def _tensor(self, values: Sequence[int] | Sequence[Ids]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)


def row_of(number: int, request: Request, reused: dict[Ids, int], context: int) -> Row:
    """The first row of a prompt has computed it; the others found all but its last token."""
    known = reused[request.prompt]
    reused[request.prompt] = len(request.prompt) - 1
    most = max(1, min(request.sampling.max_tokens, context - len(request.prompt)))
    return Row(number, request, known, most, random.Random(request.sampling.seed))


def _closed_up(alive: Sequence[int]) -> list[int]:
    """The places that go on, the last ones moved into the gaps, so that few rows move."""
    count = len(alive)
    beyond = [place for place in alive if place >= count]
    return [place if place in alive else beyond.pop() for place in range(count)]
