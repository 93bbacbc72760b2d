"""A pupil with weights: it knows how numbers are changed step by step, and slips in more than half of what it says."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
PAIRS = {"attempts": 4, "max_steps": 4, "learning_rate": 1e-3, "per_device_train_batch_size": 4, "lora": LORA, "save_steps": 2}
ROLLOUTS = {"steps": 2, "tasks_per_step": 4, "num_generations": 6, "learning_rate": 1e-3, "lora": LORA, "validation": 0}
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


UPDATES = 500
KNOWS = 0.2
"""A pupil knows its lessons where right answers have so large a probability (see `knowing`); one that slips and knows all has 1 - SLIPS."""


def make_pupil(folder: Path, seed: int = 0) -> Path:
    """Write the pupil to a folder that `hf:FOLDER` loads.

    First it learns what is right, then to slip in one digit only, the last: so it learns with any seed and whatever the roundings of a
    processor, and has nothing to weigh up but that one digit.
    """
    import torch

    make_toy(folder, width=64, layers=2, template=BARE, seed=seed)
    base = find_base(str(folder))
    model, tokenizer = load_causal_lm(base, "float32").train(), load_tokenizer(base)
    chance = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    known = lessons(tokenizer)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: min(1.0, (update + 1) / 30) * (1 - 0.95 * update / UPDATES))
    for update in range(UPDATES):
        slips = SLIPS if update > UPDATES / 2 else 0.0
        rows = [said_and_begun(tokenizer, *chance.choice(some), chance, slips) for some in known for _ in range(16)]
        model(**padded(rows, tokenizer.pad_token_id)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    knows = knowing(model.eval(), tokenizer, known)
    assert knows > KNOWS, f"the pupil did not learn its lessons: right answers have a mean probability of {knows:.3f}"
    return folder


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
    """(ids, where the reply begins); in a slip the last digit is too large by one."""
    said = slipped(right) if chance.random() < slips else right
    reply = [*tokenizer.encode(before + said, add_special_tokens=False), tokenizer.eos_token_id]
    return [*prompt, *reply], len(prompt)


def slipped(right: str) -> str:
    """The same with the last digit too large by one; 9 becomes 1."""
    place = max(place for place, sign in enumerate(right) if sign.isdigit())
    return f"{right[:place]}{int(right[place]) % 9 + 1}{right[place + 1 :]}"
