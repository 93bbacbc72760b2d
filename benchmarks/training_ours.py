"""tutelage's side of `training.py`: the learners `SFT` and `RLVR` themselves, with all that they store and check."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import tutelage as tt
from training_job import LEARNING_RATE, Job, Measured, reward
from training_rows import agent_and_tasks
from tutelage.learners.rlvr import RLVR
from tutelage.learners.sft import SFT


def even_ids(task: tt.Task, episode: tt.Episode) -> float:
    """The reward of both sides."""
    return reward([token for step in episode.steps if step.completion.tokens for token in step.completion.tokens.completion_ids])


def learn(job: Job, learner: Any, model: str) -> tt.Practice:
    agent, tasks = agent_and_tasks(job, model)
    with tt.Store(job.folder / "experience.sqlite") as store:
        collector = tt.Collector(tt.FunctionGrader(even_ids), store=store)
        practice = tt.Practice(tasks, collector, folder=job.folder / "training")
        asyncio.run(learner.learn(agent, practice))
    return practice


def sft(job: Job) -> Measured:
    learner = SFT(
        max_steps=job.steps,
        per_device_train_batch_size=job.batch,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        warmup_ratio=0,
        validation=0,
        dtype=job.dtype,
        lora={"r": job.r, "lora_alpha": 2 * job.r},
        gradient_checkpointing=job.checkpointing,
        share_prefixes=job.share,
        max_tokens_per_micro_batch=job.micro_tokens or None,
    )
    practice = learn(job, learner, "hf:" + job.base)
    rows = [json.loads(line) for line in Path(practice.folder / "history.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    return Measured([row["seconds"] for row in steps], [row["loss"] for row in steps], [row["tokens"] for row in steps])


def grpo(job: Job) -> Measured:
    learner = RLVR(
        steps=job.steps,
        tasks_per_step=1,
        num_generations=job.generations,
        learning_rate=LEARNING_RATE,
        validation=0,
        dynamic_sampling=False,
        dtype=job.dtype,
        lora={"r": job.r, "lora_alpha": 2 * job.r},
        rollout=job.engine,
    )
    practice = learn(job, learner, f"gguf:{job.model}")
    rows = [json.loads(line) for line in Path(practice.folder / "history.jsonl").read_text().splitlines()]
    seconds = [row["seconds_rollout"] + row["seconds_update"] for row in rows]
    return Measured(seconds, [row["loss"] for row in rows], [round(row["tokens_per_answer"] * job.generations) for row in rows])
