"""Where knowledge stands: a learned agent's JSON, a file of knowledge alone, a run's folder, and `FILE@n` for an earlier snapshot."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from tutelage.errors import InputError
from tutelage.experience.store import to_json
from tutelage.files import write_atomically
from tutelage.history import snapshot
from tutelage.knowledge import Knowledge
from tutelage.study.learned import LearnedAgent, write_learned
from tutelage.suggest import did_you_mean, missing_file

_AT = re.compile(r"(.+)@(\d+)")


@dataclass(frozen=True)
class KnowledgeFile:
    """A file that was read. learned: the agent around the knowledge, where there is one. at: the snapshot that was asked for."""

    path: Path
    knowledge: Knowledge
    learned: LearnedAgent | None = None
    at: int | None = None
    content: str | None = None

    def save(self, knowledge: Knowledge) -> None:
        """Write the file with other knowledge, whole or not at all.

        Raises `InputError` where somebody wrote it since it was read, or where an earlier snapshot was asked for, and `StoreError`.
        """
        if self.at is not None:
            raise InputError("an earlier snapshot cannot be changed; `tutelage knowledge undo --to N` goes back to it", file=self.path)
        if _content(self.path) != self.content:
            raise InputError("the file was changed by somebody else meanwhile; nothing was written. Run the command again", file=self.path)
        if self.learned is None:
            write_atomically(self.path, to_json(knowledge))
            return
        agent = {**self.learned.agent, "knowledge": knowledge.id} if "knowledge" in self.learned.agent else self.learned.agent
        write_learned(self.path, self.learned.model_copy(update={"knowledge": knowledge, "agent": agent}))


def open_knowledge(file: str, arm: str | None = None, *, create: bool = False) -> KnowledgeFile:
    """Read what `file` names: FILE, FILE@n, or the folder of a run with an arm's name.

    create: a file that is not there is knowing nothing. Raises `InputError` where there is none, it cannot be read, or it holds no
    knowledge.
    """
    path, at = _split(file)
    path = _in_run(path, arm) if path.is_dir() else path
    content = _content(path)
    if content is None:
        if not create or at is not None:
            raise missing_file(path)
        return KnowledgeFile(path, Knowledge())
    knowledge, learned = _parse(content, path)
    if at is not None:
        knowledge = _snapshot(knowledge, at, path)
    return KnowledgeFile(path, knowledge, learned, at, content)


def _split(file: str) -> tuple[Path, int | None]:
    found = _AT.fullmatch(file)
    if found is None or Path(file).exists():
        return Path(file), None
    return Path(found[1]), int(found[2])


def _content(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as failed:
        raise InputError(f"cannot be read: {failed}", file=path) from None


def _in_run(folder: Path, arm: str | None) -> Path:
    agents = {path.stem: path for path in sorted((folder / "agents").glob("*.json"))}
    if not agents:
        raise InputError("this folder holds no learned agent (no agents/*.json); give the folder that `tutelage run` wrote", file=folder)
    if arm is None and len(agents) == 1:
        return next(iter(agents.values()))
    if arm is None:
        raise InputError(f"this run has several learned agents; choose one of {', '.join(agents)}", file=folder, field="--arm")
    if arm not in agents:
        raise InputError(f"no arm is called `{arm}`.{did_you_mean(arm, agents)} Known: {', '.join(agents)}", file=folder, field="--arm")
    return agents[arm]


def _parse(content: str, path: Path) -> tuple[Knowledge, LearnedAgent | None]:
    try:
        data = json.loads(content)
        if isinstance(data, dict) and "fingerprint" in data:
            learned = LearnedAgent.model_validate_json(content)
            return learned.knowledge, learned
        return Knowledge.model_validate_json(content), None
    except ValidationError as invalid:
        problem = invalid.errors()[0]
        field = ".".join(map(str, problem["loc"])) or None
        raise InputError(f"no learned agent and no knowledge: {problem['msg']}", file=path, field=field) from None
    except (ValueError, RecursionError) as broken:
        raise InputError(f"no JSON: {broken}. Lines of entries are read by `tutelage knowledge import`", file=path) from None


def _snapshot(knowledge: Knowledge, n: int, path: Path) -> Knowledge:
    try:
        return snapshot(knowledge, n)
    except InputError as wrong:
        raise InputError(wrong.message, file=path) from None
