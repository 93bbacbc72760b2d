"""AGILE on ProductQA's two test groups: `python benchmarks/agile.py --data productqa`.

One study over its published files: the agent that never asks, asks at a threshold on how far its samples agree, imitates the sessions that
the files' own SQL and knowledge make, and, where `--steps` says so, learns on by reinforcement; beside them the constant answer and always
asking. The defaults are what two CPU cores can do with SmolLM2-135M: a part of the questions, imitation alone.

At the authors' size, on a GPU (not measured here):

    python benchmarks/agile.py --data productqa --model hf:Qwen/Qwen2.5-7B-Instruct --train 11991 --test 4574 --rows 2 --steps 500
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tutelage as tt
from common import DATA, bars, by_kind, machine, print_kinds
from tutelage.environments.productqa import ProductQAEnvironment, ProductQAGrader, productqa_tasks
from tutelage.errors import InputError
from tutelage.executor import AgileExecutor
from tutelage.knowledge import Retrieval
from tutelage.learner import Learner
from tutelage.learners.agile import Agile
from tutelage.learners.agile_imitation import AgileImitation
from tutelage.learners.ask_threshold import AskThreshold
from tutelage.records import Sampling, Task
from tutelage.study.render_terminal import print_report

PRICE = 0.3
INSTRUCTIONS = "You answer customers' questions about products. Ask the expert only where you cannot know the answer."
SURE = 0.5
"""Share of the facts that the imitated sessions answer without help: the files do not say which an agent could know."""


@dataclass(frozen=True)
class Size:
    """How much of it. train, test: questions. rows: sessions a step of imitation, four of them accumulated. steps: of reinforcement."""

    model: str = "gguf:smollm2-135m"
    train: int = 64
    test: int = 60
    rows: int = 4
    epochs: float = 1.0
    steps: int = 0


QUICK = Size(train=4, test=4)


def said(task: Task) -> str:
    """What an expert says: the short answer and the reason."""
    assert isinstance(task.reference, list)
    short, long = task.reference
    return f"{short}. {long}"


def learners(size: Size, folder: Path) -> dict[str, Learner]:
    """The ways of learning; reinforcement where there are steps for it."""
    taught: dict[str, Any] = {
        "oracle": "productqa",
        "folder": str(folder),
        "sure": SURE,
        "memory_size": (0, 4),
        "num_train_epochs": size.epochs,
        "per_device_train_batch_size": size.rows,
        "gradient_accumulation_steps": 16 // size.rows,
        "max_length": 4096,
        "truncate": True,
    }
    found: dict[str, Learner] = {"threshold": AskThreshold(signal="agreement", samples=3), "imitation": AgileImitation(**taught)}
    if size.steps:
        found["agile"] = Agile("ppo", imitation=taught, steps=size.steps, streams=8, sessions=32, max_length=4096, eval_steps=25)
    return found


def study(size: Size, out: Path) -> tt.Study:
    """The study over ProductQA's files."""
    folder = DATA / "productqa"
    if not folder.is_dir():
        raise InputError("ProductQA's files are not there; TUTELAGE_DATA names the folder that has `productqa`", file=folder)
    tasks = {side: productqa_tasks(getattr(size, side), 0, folder=folder, split=side) for side in ("train", "test")}  # type: ignore[arg-type]
    executor = AgileExecutor(
        actions=("seek_advice", "reflect", "update_memory", "predict_answer"),
        price=PRICE,
        retrieval=Retrieval(choose="text", k=3, token_budget=400),
        unparsed="answer",
    )
    agent = tt.Agent(
        model=size.model,
        instructions=INSTRUCTIONS,
        executor=executor,
        sampling=Sampling(max_tokens=64),
        limits=tt.Limits(steps=6),
    )
    return tt.Study(
        name="agile-productqa",
        agent=agent,
        **tasks,
        grader=ProductQAGrader(),
        learners=learners(size, folder),
        environment=partial(ProductQAEnvironment, folder),
        advisor=tt.ReferenceAdvisor([*tasks["train"], *tasks["test"]], say=said, name="expert"),
        out=out,
        progress=bars(),
    )


def run(size: Size, out: Path) -> Mapping[str, Any]:
    """Run the study or what is left of it, print its report, and give it as data."""
    made = study(size, out)
    report = made.run()
    print_report(report)
    kinds = by_kind(made, out)
    print_kinds(kinds)
    print(f"\nAt the authors' size, not measured here:\n{__doc__.strip().splitlines()[-1]}")
    data = {"machine": machine(), "size": asdict(size), "report": report.model_dump(mode="json"), "by_kind": kinds}
    return json.loads(json.dumps(data))  # type: ignore[no-any-return]
