"""The pupil of `path_star.py`: a small Llama made from nothing that learns path-star graphs, one token a node, under one objective.

Rows, what the model reads in them and the loss are those of `SFT` (`training/objectives.py`, `training/batches.py`); only the loop is its
own, because at this size the bookkeeping of a trainer would take longer than the steps.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tutelage.environments.path_star import Order, PathStar, check_size, draw_star
from tutelage.records import content_id
from tutelage.training.batches import IGNORED, label_logprobs, labels_of
from tutelage.training.chat import TokenRow
from tutelage.training.objectives import Objective, reading_order_of

LOOK = 200
"""Graphs that are looked at while training, and four times as many at its end."""


@dataclass(frozen=True)
class Plan:
    """What is measured. nodes: names to draw from; graphs: different ones to learn from; rate: of learning, after `warmup` steps.

    every: steps between two looks at graphs that nobody learns from. enough: training ends where two looks on end find so many whole paths.
    """

    degree: int = 2
    length: int = 5
    nodes: int = 9
    layers: int = 4
    width: int = 64
    heads: int = 4
    batch: int = 64
    steps: int = 4000
    graphs: int = 200_000
    rate: float = 3e-3
    warmup: int = 100
    every: int = 200
    gain: float = 0.8
    enough: float = 0.99

    def __post_init__(self) -> None:
        check_size(self.degree, self.length, self.nodes)

    def id(self, arm: Arm, seed: int) -> str:
        """What a run depends on."""
        return content_id([asdict(self), asdict(arm), seed])


@dataclass(frozen=True)
class Arm:
    """An objective, and how the answer is written. all_arms: a graph comes with each of its arms asked for, in one batch."""

    objective: str = "standard"
    share: float = 1.0
    rate: float = 0.5
    order: Order = "path"
    all_arms: bool = False


ARMS = {
    "standard": Arm(),
    "reversed": Arm("reversed"),
    "teacherless": Arm("teacherless", rate=1.0),
    "teacherless+standard": Arm("teacherless", share=0.5, rate=1.0),
    "masked": Arm("masked"),
    "scratchpad": Arm(order="scratchpad"),
    "all-goals": Arm(all_arms=True),
}


@dataclass(frozen=True)
class Vocabulary:
    """One token a node, and one a sign. The comma is none: nodes stand beside each other."""

    nodes: int

    @cached_property
    def signs(self) -> dict[str, int]:
        """The token of each sign; `$` is the dummy."""
        return {sign: self.nodes + place for place, sign in enumerate(("|", "/", "=", ">", "$", "<|reversed|>", "<|end|>"))}

    def __len__(self) -> int:
        return self.nodes + len(self.signs)

    def row(self, star: PathStar, order: Order) -> TokenRow:
        """A question in signs, and its answer, which is learned with the token that ends it."""
        sign = self.signs
        prompt = [token for tail, head in star.edges for token in (sign["|"], tail, head)][1:]
        prompt += [sign["/"], star.path[0], star.path[-1], sign["="]]
        back = [*star.path[::-1]]
        answer = {"path": [*star.path], "reversed": back, "scratchpad": [*back, sign[">"], *star.path]}[order]
        answer.append(sign["<|end|>"])
        return TokenRow((*prompt, *answer), (*[False] * len(prompt), *[True] * len(answer)))


@dataclass(frozen=True)
class Lesson:
    """The rows of one arm and seed. They are drawn as they are needed; a row's number decides its graph."""

    plan: Plan
    arm: Arm
    seed: int

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Of the plan's names."""
        return Vocabulary(self.plan.nodes)

    @cached_property
    def objective(self) -> Objective:
        """As SFT has it."""
        token = {"reversed": "<|reversed|>", "standard": None}.get(self.arm.objective, "$")
        number = None if token is None else self.vocabulary.signs[token]
        return Objective(self.arm.objective, number, self.arm.share, self.arm.rate, self.seed)

    @property
    def in_one_pass(self) -> bool:
        """Whether the answer is given all at once: nothing else was learned."""
        return self.arm.objective == "teacherless" and self.arm.share == 1

    def star(self, number: int) -> PathStar:
        """A graph to learn from; those below 0 are for looking at, the same for all arms and seeds."""
        side = "train" if number >= 0 else "test"
        draws = random.Random(f"{side}/{self.seed if number >= 0 else ''}/{number}")
        while True:
            star = draw_star(draws, self.plan.degree, self.plan.length, self.plan.nodes)
            if star.side == side:
                return star

    def rows(self, numbers: Sequence[int]) -> list[TokenRow]:
        """The rows of these numbers."""
        arms = self.plan.degree
        if not self.arm.all_arms or min(numbers) < 0:
            stars = [self.star(number) for number in numbers]
        else:
            stars = [replace(self.star(number // arms), asked=number % arms) for number in numbers]
        return self.objective.rows([self.vocabulary.row(star, self.arm.order) for star in stars])

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """(what the model reads, labels), each (rows, T), of a step from 0 on."""
        numbers = [(step * self.plan.batch + place) % self.plan.graphs for place in range(self.plan.batch)]
        epoch = step * self.plan.batch // self.plan.graphs
        rows = self.rows(numbers)
        read = [self.objective.reads(row.ids, row.mask, epoch=epoch, row=number) for row, number in zip(rows, numbers, strict=True)]
        return torch.tensor(read), torch.tensor([labels_of(row.ids, row.mask) for row in rows])


def make_model(plan: Plan, size: int, seed: int) -> LlamaForCausalLM:
    """A Llama with new weights, whose size is that of unit gain: transformers' 0.02 is for wide models, and would stall narrow ones."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size,
            hidden_size=plan.width,
            intermediate_size=2 * plan.width,
            num_hidden_layers=plan.layers,
            num_attention_heads=plan.heads,
            num_key_value_heads=plan.heads,
            max_position_embeddings=1024,
            initializer_range=plan.gain * plan.width**-0.5,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
    )


Told = Callable[[str], None]


def train(plan: Plan, arm: Arm, seed: int, told: Told = lambda text: None) -> dict[str, Any]:
    """Train one model; what it got right along the way and in the end. told: called after each step."""
    lesson = Lesson(plan, arm, seed)
    place = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = make_model(plan, len(lesson.vocabulary), seed).to(place)
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    begun, worked = perf_counter(), process_time()
    curve, losses = [], []
    for step in range(plan.steps):
        if step % plan.every == 0:
            curve.append({"step": step, "loss": mean(losses), **look(model, lesson, LOOK)})
            losses.clear()
            if all(one["whole_path"] >= plan.enough for one in curve[-2:]) and len(curve) > 1:
                break
        losses.append(_learn(model, optimizer, lesson, step))
        told(f"loss {losses[-1]:.3f}, whole path {curve[-1]['whole_path']:.2f}")
    else:
        step = plan.steps
    found = look(model, lesson, 4 * LOOK)
    curve.append({"step": step, "loss": mean(losses), **found})
    spent = {"seconds": round(perf_counter() - begun, 1), "processor_seconds": round(process_time() - worked, 1), "device": place}
    return {"seed": seed, "curve": curve, **found, **spent, "parameters": model.num_parameters()}


def mean(values: Sequence[float]) -> float | None:
    """None for nothing."""
    return sum(values) / len(values) if values else None


def _learn(model: Any, optimizer: torch.optim.Optimizer, lesson: Lesson, step: int) -> float:
    for group in optimizer.param_groups:
        group["lr"] = lesson.plan.rate * min(1.0, (step + 1) / lesson.plan.warmup)
    read, labels = (tensor.to(model.device) for tensor in lesson.batch(step))
    loss = -label_logprobs(model, {"input_ids": read}, labels).sum() / (labels[:, 1:] != IGNORED).sum()
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


@torch.inference_mode()
def look(model: Any, lesson: Lesson, count: int) -> dict[str, Any]:
    """What the model gets right of `count` graphs that nobody learns from.

    whole_path and first_step: the shares of the answers that it gives itself, greedily. given: of each token of the answer, given the
    tokens before it as they should be (or their dummies), in the order in which they are said.
    """
    rows = lesson.rows([-1 - number for number in range(count)])
    ids = torch.tensor([row.ids for row in rows], device=model.device)
    asked = rows[0].mask.index(True)
    read = ids.clone()
    if lesson.in_one_pass:
        read[:, asked:] = lesson.vocabulary.signs["$"]
    given = _next(model, read)[:, asked - 1 : -1]
    said = given if lesson.in_one_pass else _reply(model, ids[:, :asked], ids.shape[1] - asked)
    right = [_path_of(lesson, one) for one in ids[:, asked:].tolist()]
    found = [_path_of(lesson, one) for one in said.tolist()]
    return {
        "whole_path": sum(one == other for one, other in zip(found, right, strict=True)) / count,
        "first_step": sum(one[1:2] == other[1:2] for one, other in zip(found, right, strict=True)) / count,
        "given": [round(share, 4) for share in (given == ids[:, asked:]).float().mean(0).tolist()],
    }


def _next(model: Any, ids: Tensor) -> Tensor:
    """The likeliest token after each."""
    found: Tensor = model(input_ids=ids, use_cache=False).logits.argmax(-1)
    return found


def _reply(model: Any, prompt: Tensor, count: int) -> Tensor:
    """`count` tokens after the prompts, one by one."""
    ids = prompt
    for _ in range(count):
        ids = torch.cat([ids, _next(model, ids)[:, -1:]], dim=1)
    return ids[:, prompt.shape[1] :]


def _path_of(lesson: Lesson, said: list[int]) -> list[int]:
    """The path that an answer's tokens say, from the start on, wherever it ends."""
    sign = lesson.vocabulary.signs
    said = reading_order_of(said, sign["<|reversed|>"])
    said = [token for token in said if token != sign["<|end|>"]]
    return said[said.index(sign[">"]) + 1 :] if sign[">"] in said else said
