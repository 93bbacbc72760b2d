"""The studies of these students as files, and what their runs leave behind."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import yaml

import tutelage as tt
from students import archive, harbour
from tutelage.study.learned import read_any_learned

STUDENTS = Path(__file__).parent
REFLEXION = {"carry": 2, "carry_by": "text"}
ARMS = {
    "text": {"exemplars": {"choose": "text", "k": 3}},
    "fixed": {"exemplars": {"choose": "fixed", "k": 4}},
    "retry": {"reflexion": {"strategy": "none", "trials": 3}},
    "reflexion": {"reflexion": {"trials": 3, **REFLEXION}},
    "expel": {"expel": {"retries": 2, "k": 0}},
    "both": {"curriculum": [{"reflexion": {"trials": 2, **REFLEXION}}, {"expel": {"retries": 1, "k": 0}}]},
    "stream": {"stream": {"choose": "text", "k": 3, "wave": 4}},
    "careless": {"expel": {"retries": 2, "k": 0, "extract_with": "scripted:harbour.py?function=careless"}},
    "curated": {
        "curriculum": [{"expel": {"retries": 2, "k": 0, "extract_with": "scripted:harbour.py?function=careless"}}, {"curate": {"draws": 4}}]
    },
}
GAIN = dict.fromkeys(ARMS, 1.0) | {"baseline": 0.25, "retry": 0.25, "careless": 0.0}
N_TRAIN, N_TEST = 24, 12


def write_tasks(path: Path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_study(folder: Path, arms=ARMS, **fields) -> None:
    """The harbour's study in a folder; its name is that of the folder of its run."""
    shutil.copy(STUDENTS / "harbour.py", folder)
    write_tasks(folder / "train.jsonl", map(harbour.row, range(N_TRAIN)))
    write_tasks(folder / "test.jsonl", map(harbour.row, range(100, 100 + N_TEST)))
    study = {
        "name": "harbour",
        "agent": {"model": "scripted:harbour.py", "instructions": "Say the word alone."},
        "tasks": {"train": "train.jsonl", "test": "test.jsonl"},
        "grader": "harbour.py:grade",
        "learners": [{**learner, "as": arm} for arm, learner in arms.items()],
    }
    (folder / "study.yaml").write_text(yaml.safe_dump({**study, **fields}, sort_keys=False))


ARCHIVE = {
    "reflexion": {"reflexion": {"trials": 2, "keep": "both", **REFLEXION}},
    "expel": {"expel": {"retries": 1, "k": 2, "choose": "text"}},
    "exemplars": {"exemplars": {"choose": "text", "k": 2, "source": "success"}},
    "stream": {"stream": {"choose": "text", "k": 2, "wave": 2, "source": "success"}},
}
POISONED = (1, 4)
"""A task that is solved at once, and one that fails: numbers among the training tasks."""


def write_archive(folder: Path, arms=ARCHIVE, **agent) -> None:
    write_study(folder, arms, name="archive", grader="archive.py:grade", environment="archive.py:Archive")
    shutil.copy(STUDENTS / "archive.py", folder)
    write_tasks(folder / "train.jsonl", (archive.row(n, poisoned=n in POISONED) for n in range(8)))
    write_tasks(folder / "test.jsonl", map(archive.row, range(100, 108)))
    study = yaml.safe_load((folder / "study.yaml").read_text())
    study["agent"] = {"model": "scripted:archive.py", "instructions": "Look up, then say the word alone.", **agent}
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))


def taught(prompt: list[list[str]]) -> str:
    """What a prompt says before the agent's own tool calls, without what is fenced as untrusted."""
    last = max(place for place, (role, _) in enumerate(prompt) if role == "user")
    text = "\n".join(words for _, words in prompt[: last + 1])
    return re.sub(r"<untrusted.*?</untrusted>", "", text, flags=re.DOTALL)


def report(run: str | Path) -> dict:
    return json.loads((Path(run) / "report.json").read_text())


def scores(run: str | Path) -> dict[str, float]:
    return {arm["name"]: arm["score"] for arm in report(run)["arms"]}


def facts(run: str | Path) -> dict[str, dict]:
    return {arm["name"]: arm.get("facts", {}) for arm in report(run)["arms"]}


def knowledge(arm: str, run: str | Path = "runs/harbour") -> tt.Knowledge:
    return read_any_learned(Path(run) / "agents" / f"{arm}.json").knowledge


def rules(arm: str) -> set[str]:
    return {insight.text for insight in knowledge(arm).insights}


def rule(city: str) -> str:
    return f"Write {harbour.WORDS[city]} on forms of {city}."


def prompts(folder: Path) -> list[list[list[str]]]:
    """Every prompt that a student was ever sent."""
    return [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
