"""BFCL (Apache-2.0) with weights: one half of simple, multiple and irrelevance to learn from, the other half to be tested on.

    python benchmarks/bfcl_training.py [--model gguf:smollm2-135m] [--train 0] [--test 0] [--epochs 2] [--json FILE]

Baseline, exemplars by meaning, supervised fine-tuning on the reference calls, and both. --train and --test take so many tasks of each
half (0: all, some 420), in turns over the three kinds. Every task brings functions of its own, so what can be learned is how to call and
when not to. Scores are not comparable with the leaderboard's, which are over the whole files.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import tutelage as tt
from bfcl import KINDS
from common import DATA, bars, options, run_study


def halves() -> tuple[list[tt.Task], list[tt.Task]]:
    """Half of each kind, in turns over the kinds; always the same halves."""
    columns: list[list[list[tt.Task]]] = []
    for kind, file in KINDS.items():
        found = [task.model_copy(update={"kind": kind}) for task in tt.read_tasks(DATA / "bfcl" / file)]
        tasks = list({task.input_id: task for task in found}.values())
        random.Random(0).shuffle(tasks)
        columns.append([tasks[: len(tasks) // 2], tasks[len(tasks) // 2 :]])
    train, test = (_in_turns([halved[side] for halved in columns]) for side in (0, 1))
    return train, test


def _in_turns(groups: list[list[tt.Task]]) -> list[tt.Task]:
    placed = [(place / len(group), task) for group in groups for place, task in enumerate(group)]
    return [task for _, task in sorted(placed, key=lambda pair: pair[0])]


def build(chosen: argparse.Namespace, out: Path) -> tt.Study:
    train, test = halves()
    agent = tt.Agent(
        model=chosen.model,
        instructions="Answer with one tool call where a tool fits the request; say in plain text that none fits where none does.",
        sampling=tt.Sampling(max_tokens=160),
        limits=tt.Limits(steps=1),
        stop_on_tool=True,
    )

    def sft() -> tt.SFT:
        return tt.SFT(num_train_epochs=chosen.epochs, learning_rate=2e-4, max_length=4096)

    def exemplars() -> tt.Exemplars:
        return tt.Exemplars(choose="meaning", k=4)

    learners = {"exemplars": exemplars(), "sft": sft(), "sft, then exemplars": tt.Curriculum(sft(), exemplars())}
    return tt.Study(
        name="bfcl-training",
        agent=agent,
        train=train[: chosen.train or None],
        test=test[: chosen.test or None],
        grader=tt.ToolCallMatch(),
        learners=learners,
        out=out,
        progress=bars(),
    )


if __name__ == "__main__":
    run_study("bfcl-training", build, options(__doc__, train=0, test=0, epochs=2))
