"""The help desk's training tasks as both sides of `training.py` read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tutelage as tt
from training_job import Job
from tutelage.experience.views import reference_rows
from tutelage.study.config import load_study

STUDY = Path(__file__).parent.parent / "examples" / "helpdesk" / "study.yaml"


def agent_and_tasks(job: Job, model: str) -> tuple[tt.Agent, tuple[tt.Task, ...]]:
    """The help desk's agent on a model, with its instructions and tools where prompts are long; its first training tasks."""
    study = load_study(STUDY)
    bare = {} if job.prompts == "long" else {"instructions": "", "tools": ()}
    agent = study.agent.but(model=model, sampling=tt.Sampling(max_tokens=job.completion), **bare)
    return agent, study.train[: max(job.batch * job.steps, 16)]


def chat_rows(job: Job) -> list[dict[str, Any]]:
    """TRL's conversational prompt-completion rows."""
    agent, tasks = agent_and_tasks(job, f"gguf:{job.model}")
    rows = reference_rows(tasks, agent)

    def plain(messages: Any) -> list[dict[str, str]]:
        return [{"role": message.role, "content": message.text} for message in messages]

    return [{"prompt": plain(row.prompt), "completion": plain(row.completion)} for row in rows]
