"""A pupil with weights: it knows how numbers are changed step by step, and slips in more than half of what it says."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

import tutelage as tt
from toy_weights import make_toy
from tutelage.environments.multi_step import multi_step_tasks
from tutelage.learners.srl import step_task
from tutelage.learners.srl_experts import reference_experts
from tutelage.training.base import find_base, load_causal_lm, load_tokenizer
from tutelage.training.chat import prompt_ids

BARE = "{% for message in messages %}{{ message['content'] + ('<|im_end|>' if message['role'] == 'assistant' else '') }}{% endfor %}"
"""A template without any words of its own: the reply follows upon the question."""
CLAUSE = "!"
"""What SRL asks this pupil for, instead of its long words."""
THOUGHT = "<think></think>"
OPTIONS: dict[str, Any] = {"form": "signs", "steps": 2, "digits": 2, "operations": ["raise", "bump"]}
SLIPS = 0.6
"""The share of its replies in which it slips."""

LORA = {"r": 8}
SFT = {"max_steps": 5, "learning_rate": 5e-3, "lora": LORA, "validation": 0.2, "save_steps": 2}
PAIRS = {"attempts": 4, "max_steps": 4, "learning_rate": 2e-3, "per_device_train_batch_size": 4, "lora": LORA, "save_steps": 2}
ROLLOUTS = {"steps": 2, "tasks_per_step": 4, "num_generations": 6, "learning_rate": 3e-3, "lora": LORA, "validation": 0}
CASES = {"exemplars": {"choose": "text", "k": 1}}
ARMS: dict[str, Any] = {
    "sft": {"sft": SFT},
    "dpo": {"curriculum": [{"sft": SFT}, {"dpo": PAIRS}]},
    "rlvr": {"curriculum": [{"sft": SFT}, {"rlvr": ROLLOUTS}]},
    "srl": {"curriculum": [{"srl": {**ROLLOUTS, "clause": CLAUSE}}, {"rlvr": ROLLOUTS}]},
    "exemplars": {"curriculum": [CASES, {"sft": SFT}]},
    "distil": {"curriculum": [CASES, {"sft": {**SFT, "distil": True}}]},
}
N_TRAIN, N_TEST = 24, 12


def write_study(folder: Path, pupil: str | Path, arms: Mapping[str, Any] = ARMS, **fields: Any) -> Path:
    """The study in a folder, whose run is `runs/digits` there."""
    study = {
        "name": "digits",
        "agent": {"model": f"hf:{pupil}", "sampling": {"max_tokens": 26}},
        "tasks": {"from": {"multi_step": OPTIONS}, "train": N_TRAIN, "test": N_TEST, "seed": 1},
        "grader": "numeric",
        "learners": [{**learner, "as": arm} for arm, learner in arms.items()],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump({**study, **fields}, sort_keys=False))
    return folder


KNOWS = 0.11
"""A pupil is good enough where right answers have so large a probability (see `knowing`); one that slips and knows all has 1 - SLIPS."""


def make_pupil(folder: Path, updates: int = 500) -> Path:
    """Write the pupil to a folder that `hf:FOLDER` loads; on one machine always the same one.

    Whether so short a training finds out how numbers are changed hangs on roundings, which differ between machines and numbers of threads;
    so it has one thread, and begins anew from other weights where it did not.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        known = [_train_pupil(folder, updates, seed) for seed in range(8) if not _is_good(folder)]
    finally:
        torch.set_num_threads(threads)
    if not _is_good(folder):
        pytest.skip(f"on this machine no pupil learned its lessons (mean probability of right answers: {known})")
    return folder


def _is_good(folder: Path) -> bool:
    return (folder / "good").exists()


def _train_pupil(folder: Path, updates: int, seed: int) -> float:
    """Train one from scratch and save it; how much of its lessons it knows."""
    import torch

    make_toy(folder, width=64, layers=1, template=BARE, seed=seed)
    base = find_base(str(folder))
    model, tokenizer = load_causal_lm(base).train(), load_tokenizer(base)
    chance = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    known = lessons(tokenizer)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.05, updates)
    for update in range(updates):
        rows = [
            said_and_begun(tokenizer, *chance.choice(some), chance, SLIPS if update > 0.7 * updates else 0)
            for some in known
            for _ in range(16)
        ]
        model(**padded(rows, tokenizer.pad_token_id)).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    knows = knowing(model.eval(), tokenizer, known)
    if knows >= KNOWS:
        (folder / "good").touch()
    return knows


def padded(rows: Sequence[tuple[list[int], int]], pad: int) -> dict[str, Any]:
    """Rows (ids, where the reply begins) as a model's input with labels."""
    import torch

    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([[*ids, *[pad] * (longest - len(ids))] for ids, _ in rows])
    labels = torch.tensor([[*[-100] * start, *ids[start:], *[-100] * (longest - len(ids))] for ids, start in rows])
    return {"input_ids": ids, "labels": labels}


def knowing(model: Any, tokenizer: Any, known: Sequence[Sequence[Any]]) -> float:
    """The mean probability of the right answer to whole tasks."""
    import torch

    rows = [said_and_begun(tokenizer, *lesson, random.Random(0), 0) for lesson in known[0][:60]]
    with torch.no_grad():
        losses = [float(model(**padded([row], 0)).loss) * (len(row[0]) - row[1]) for row in rows]
    return sum(math.exp(-loss) for loss in losses) / len(losses)


def lessons(tokenizer: Any) -> list[list[tuple[tuple[int, ...], str, str]]]:
    """(prompt, what comes before the step, what is right): whole solutions and single steps."""
    tasks = multi_step_tasks(300, 0, **OPTIONS)
    wholes = [(prompt_ids(tokenizer, task.messages), "", str(task.reference)) for task in tasks]
    experts = reference_experts(tasks, tt.Agent(model="m"), last=False).found
    steps = [step_task(row, CLAUSE) for expert in experts for row in expert.rows]
    return [wholes, [(prompt_ids(tokenizer, task.messages), THOUGHT, str(task.reference)) for task in steps]]


def said_and_begun(
    tokenizer: Any, prompt: Sequence[int], before: str, right: str, chance: random.Random, slips: float
) -> tuple[list[int], int]:
    """(ids, where the reply begins); in a slip the digits of all numbers are too large by one."""
    said = slipped(right) if chance.random() < slips else right
    reply = [*tokenizer.encode(before + said, add_special_tokens=False), tokenizer.eos_token_id]
    return [*prompt, *reply], len(prompt)


def slipped(right: str) -> str:
    """The same with every digit of a number too large by one; 9 becomes 1. Numbers of steps stay."""
    lines = [line.partition(" ") for line in right.split("\n")]
    return "\n".join(
        f"{number}{blank}{''.join(str(int(each) % 9 + 1) if each.isdigit() else each for each in rest)}" for number, blank, rest in lines
    )
