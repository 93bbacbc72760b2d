"""Study files and agent files: what their YAML may say, and how it becomes a Study or an Agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from tutelage.agent import Agent
from tutelage.errors import InputError
from tutelage.graders.load import make_grader
from tutelage.learner import Learner
from tutelage.records import Task
from tutelage.study.advisors import build_advisor
from tutelage.study.build import build_agent, build_environment, build_learner, generate_tasks
from tutelage.study.run import Study
from tutelage.study.sections import AgentFile, Named, StudyFile, TasksFile
from tutelage.tasks import check_splits, read_tasks, split_tasks
from tutelage.yaml_file import Where, YamlFile, read_yaml

T = TypeVar("T")


def load_study(
    path: str | Path,
    *,
    out: str | Path | None = None,
    limit: int | None = None,
    changes: Sequence[str] = (),
    check_models: bool = True,
    **options: Any,
) -> Study:
    """The study in a YAML file.

    changes: `key.sub=value` texts. limit: keep the first n tasks of either split. check_models: refuse now a model that cannot be found.
    options: passed on to `Study`. Raises `InputError` that names the file, the line and the field.
    """
    source = read_yaml(path)
    _apply(source, changes)
    parsed = source.parse(StudyFile)
    folder = Path(path).parent
    agent = _at(source, ("agent",), lambda: build_agent(parsed.agent, folder))
    train, test = _at(source, ("tasks",), lambda: _read_splits(parsed.tasks, folder))
    if check_models:
        _at(source, ("agent",), agent.load)
    train, test = train[:limit], test[:limit]
    run = out if out is not None else Path("runs") / parsed.name
    environment, advisor = parsed.environment, parsed.advisor
    asked: dict[str, Any] = {"tasks": (*train, *test), "place": Path(run) / "experience.sqlite", "folder": folder}
    return Study(
        name=parsed.name,
        agent=agent,
        train=train,
        test=test,
        grader=_at(source, ("grader",), lambda: make_grader(parsed.grader, folder)),
        learners=_learners(source, parsed.learners, folder),
        agents=_other_agents(source, parsed, folder),
        environment=_at(source, ("environment",), lambda: build_environment(environment, folder)) if environment else None,
        advisor=_at(source, (), lambda: build_advisor(advisor, **asked)) if advisor else None,
        budget=parsed.budget,
        seeds=tuple(parsed.seeds),
        curve=tuple(parsed.curve),
        concurrency=parsed.concurrency,
        prices=parsed.prices,
        out=run,
        **options,
    )


def load_agent(path: str | Path) -> Agent:
    """The agent in a YAML file (the keys of a study's `agent`)."""
    source = read_yaml(path)
    parsed = source.parse(AgentFile)
    return _at(source, (), lambda: build_agent(parsed, Path(path).parent))


def _read_splits(section: TasksFile, folder: Path) -> tuple[tuple[Task, ...], tuple[Task, ...]]:
    def read(name: str) -> tuple[Task, ...]:
        path = name if name.startswith("hf:") else folder / name
        return read_tasks(path, format=section.format, columns=section.columns)

    if section.source is not None:
        if not isinstance(section.train, int) or not isinstance(section.test, int) or section.file is not None:
            raise InputError("with `from`, `train` and `test` are numbers of tasks, and there is no `file`", field="tasks")
        train, test = generate_tasks(section.source, section.train, section.test, section.seed, folder)
        check_splits(train, test)
        return train, test
    if section.file is not None:
        if not isinstance(section.train, int) or not isinstance(section.test, int):
            raise InputError("with `file`, `train` and `test` are numbers of tasks", field="tasks")
        return split_tasks(read(section.file), section.train, section.test, section.seed)
    if not isinstance(section.train, str) or not isinstance(section.test, str):
        raise InputError("`train` and `test` are files here; to split one file at random, name it with `file`", field="tasks")
    train, test = read(section.train), read(section.test)
    check_splits(train, test)
    return train, test


def _learners(source: YamlFile, entries: Sequence[Named], folder: Path) -> dict[str, Learner]:
    named: dict[str, Learner] = {}
    for number, entry in enumerate(entries):
        arm, learner = _at(source, ("learners", number), lambda entry=entry: build_learner(entry, folder))  # type: ignore[misc]
        if arm in named:
            raise source.error(f"two arms are called `{arm}`; name one with `as: NAME` beside the learner", ("learners", number))
        named[arm] = learner
    return named


def _other_agents(source: YamlFile, parsed: StudyFile, folder: Path) -> dict[str, Agent]:
    agents: dict[str, Agent] = {}
    for name, changes in parsed.agents.items():
        where = ("agents", name)
        try:
            section = AgentFile.model_validate({**parsed.agent.model_dump(exclude_unset=True), **_varied(parsed.agent, changes)})
        except ValidationError as invalid:
            problem = invalid.errors()[0]
            raise source.error(problem["msg"], (*where, *problem["loc"])) from None
        agents[name] = _at(source, where, lambda section=section: build_agent(section, folder))  # type: ignore[misc]
    return agents


def _varied(agent: AgentFile, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes; those of the executor are made to the agent's own, key by key."""
    own, wanted = agent.executor, changes.get("executor")
    return {**changes, "executor": {**own, **wanted}} if isinstance(own, dict) and isinstance(wanted, dict) else dict(changes)


def _at(source: YamlFile, where: Where, build: Callable[[], T]) -> T:
    """Build a part; a complaint that names no file of its own points to that part of the study file."""
    try:
        return build()
    except InputError as error:
        if error.file is not None:
            raise
        place = where if not error.field else (*where, *_below(where, error.field))
        located = source.error(error.message, place)
        located.__class__ = type(error)
        raise located from None


def _below(where: Where, field: str) -> tuple[str, ...]:
    """The part of `field` that is not named by `where` already."""
    parts = field.split(".")
    return tuple(parts[1:] if where and parts[0] == where[-1] else parts)


def _apply(source: YamlFile, changes: Sequence[str]) -> None:
    """Carry out `key.sub=value` changes on the data; values are read as YAML."""
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not key:
            raise InputError(f"`{change}` is not of the form key=value", field="--set")
        *parents, last = key.split(".")
        target: Any = source.data
        for part in parents:
            target = _step_into(target, part, key)
        value = yaml.safe_load(text)
        if isinstance(target, list):
            target[_number(last, len(target), key)] = value
        else:
            target[last] = value


def _step_into(target: Any, part: str, key: str) -> Any:
    if isinstance(target, list):
        return target[_number(part, len(target), key)]
    if not isinstance(target, dict):
        raise InputError(f"`{key}`: `{part}` stands below a plain value", field="--set")
    if not isinstance(target.get(part), dict | list):
        target[part] = {}
    return target[part]


def _number(part: str, length: int, key: str) -> int:
    if not part.isdigit() or int(part) >= length:
        raise InputError(f"`{key}`: `{part}` must be a number from 0 to {length - 1}", field="--set")
    return int(part)
