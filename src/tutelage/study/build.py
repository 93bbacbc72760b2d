"""From what a study file says to the things themselves: agents, tools, workflows, environments, generated tasks, learners."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from tutelage.adapter import Adapter, read_adapter
from tutelage.agent import Agent
from tutelage.environment import EnvironmentFactory
from tutelage.errors import InputError
from tutelage.knowledge import Knowledge
from tutelage.learner import Learner
from tutelage.python_file import load_attribute, load_python, tools_of
from tutelage.records import Task
from tutelage.registry import ENVIRONMENTS, LEARNERS, TASK_SOURCES, TOOLS, load
from tutelage.study.executors import build_executor
from tutelage.study.learned import found_adapter, parse_learned, read_any_learned
from tutelage.study.sections import AgentFile, Named
from tutelage.suggest import unknown
from tutelage.tool import Tool
from tutelage.workflows.load import make_workflow

_PATHS = ("file", "judge", "folder", "database", "root", "transfer_from")
"""Options that name a file: one that stands beside the study file is found there."""

_MODELS = ("teacher", "reflect_with", "extract_with", "adapt_with", "user")
"""Options that name a model, whose file may stand there, too."""


def build_agent(section: AgentFile, folder: Path) -> Agent:
    """The agent that a section describes; files are looked for beside the YAML file."""
    knowledge, adapter = read_learning(folder / section.knowledge) if section.knowledge else (Knowledge(), None)
    if "adapter" in section.model_fields_set:
        adapter = None if section.adapter is None else read_adapter(folder / section.adapter)
    elif adapter is not None:
        adapter = found_adapter(adapter, "this agent")
    if section.workflow is not None:
        return _build_workflow(section, section.workflow, folder, knowledge, adapter)
    own: dict[str, Any] = {} if section.limits is None else {"limits": section.limits}
    if section.executor is not None:
        own["executor"] = build_executor(section.executor, folder, _learned_executor(section, folder))
    return Agent(
        model=_beside(section.model, folder),
        instructions=section.instructions.strip(),
        tools=_build_tools(section.tools, folder),
        knowledge=knowledge,
        sampling=section.sampling,
        stop_on_tool=section.stop_on_tool,
        adapter=adapter,
        **own,
    )


def _learned_executor(section: AgentFile, folder: Path) -> dict[str, JsonValue]:
    """What the learned agent that the section takes its knowledge from has learned about its executor."""
    learned = read_any_learned(folder / section.knowledge) if section.knowledge else None
    return learned.executor if learned else {}


def _build_workflow(section: AgentFile, spec: Mapping[str, Any], folder: Path, knowledge: Knowledge, adapter: Adapter | None) -> Agent:
    """A workflow's agent; its parts inherit the section's keys, but not its knowledge, which is the whole's, and not its limits.

    They inherit the adapter, as they do the model that wears it.
    """
    inherited = section.model_dump(exclude_unset=True, exclude={"workflow", "knowledge", "limits"})
    if adapter is not None:
        inherited["adapter"] = adapter.folder

    def part(changes: Any) -> Agent:
        if not isinstance(changes, dict):
            raise InputError(f"a part of a workflow is described by an agent's keys, and here is {changes!r}", field="workflow")
        try:
            return build_agent(AgentFile.model_validate({**inherited, **changes}), folder)
        except ValidationError as invalid:
            first = invalid.errors()[0]
            raise InputError(first["msg"], field=f"workflow.{'.'.join(map(str, first['loc']))}") from None

    whole = make_workflow(spec, part, folder).but(knowledge=knowledge)
    return whole if section.limits is None else whole.but(limits=section.limits)


def _build_tools(entries: str | Sequence[Named] | None, folder: Path) -> tuple[Tool, ...]:
    tools: list[Tool] = []
    for entry in [entries] if isinstance(entries, str) else entries or []:
        name, options = name_and_options(entry, "tools")
        if name.endswith(".py"):
            tools += _tools_in(folder / name)
            continue
        if name not in TOOLS:
            raise InputError(f"{unknown('a tool', name, TOOLS)} Or write a Python file's name", field="tools")
        made = _call(load(TOOLS[name]), _placed(options, folder), f"the tool {name}", "tools")
        tools += made if isinstance(made, tuple | list) else [made]
    return tuple(tools)


def _tools_in(path: Path) -> tuple[Tool, ...]:
    found = tools_of(load_python(path))
    if not found:
        raise InputError("the file defines no tool; decorate its functions with @tutelage.tool", file=path, field="tools")
    return found


def build_environment(spec: Named, folder: Path) -> EnvironmentFactory:
    """What makes the environment that a study names, fresh for each episode. Raises `InputError`."""
    name, options = name_and_options(spec, "environment")
    if ".py:" in name:
        kind = load_attribute(name, folder)
    elif name in ENVIRONMENTS:
        kind = load(ENVIRONMENTS[name])
    else:
        raise InputError(f"{unknown('an environment', name, ENVIRONMENTS)} Or write file.py:Class", field="environment")
    options = _placed(options, folder)
    _check_options(kind, options, f"the environment {name}", "environment")
    return partial(kind, **options) if options else kind


def generate_tasks(spec: Named, train: int, test: int, seed: int, folder: Path) -> tuple[tuple[Task, ...], tuple[Task, ...]]:
    """Training and test tasks out of a generator, which gives different tasks already in random order. Raises `InputError`."""
    name, options = name_and_options(spec, "tasks.from")
    if ".py:" in name:
        source = load_attribute(name, folder)
    elif name in TASK_SOURCES:
        source = load(TASK_SOURCES[name])
    else:
        raise InputError(f"{unknown('a source of tasks', name, TASK_SOURCES)} Or write file.py:function", field="tasks.from")
    make = partial(source, train + test, seed)
    tasks = tuple(_call(make, _placed(options, folder), f"the source {name}", "tasks.from"))
    if len(tasks) < train + test:
        raise InputError(f"the source {name} gave {len(tasks)} tasks, and {train} + {test} are asked for", field="tasks.from")
    return tasks[:train], tasks[train : train + test]


def build_learner(entry: Named, folder: Path) -> tuple[str, Learner]:
    """The arm's name and the learner of one entry: `name`, or {name: {options}, as: ARM}. A curriculum's options are a list of entries."""
    mapping = {entry: {}} if isinstance(entry, str) else dict(entry)
    arm = mapping.pop("as", None)
    if len(mapping) != 1:
        raise InputError("one learner an entry: a name, or {name: {options}}")
    (name, options), *_ = mapping.items()
    if name not in LEARNERS:
        raise InputError(unknown("a learner", str(name), LEARNERS), field=str(name))
    kind = load(LEARNERS[name])
    if isinstance(options, list):
        if not hasattr(kind, "of"):
            raise InputError("the options of a learner are `key: value` pairs", field=str(name))
        learner: Learner = kind.of([build_learner(part, folder) for part in options])
    elif isinstance(options or {}, dict):
        learner = _call(kind, _placed(options or {}, folder), f"the learner {name}", str(name))
    else:
        raise InputError("the options of a learner are `key: value` pairs", field=str(name))
    return str(arm or getattr(learner, "label", name)), learner


def name_and_options(spec: Named, field: str) -> tuple[str, dict[str, Any]]:
    """Name and options of `name` or {name: {options}}."""
    if isinstance(spec, str):
        return spec, {}
    if len(spec) != 1:
        raise InputError(f"write a name, or one name with its options below it; here are {len(spec)} keys", field=field)
    ((name, options),) = spec.items()
    if options is not None and not isinstance(options, dict):
        raise InputError(f"the options of {name} are `key: value` pairs, and here is {options!r}", field=field)
    return str(name), dict(options or {})


def _placed(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The options, with files that stand beside the study file named by their path."""
    return {key: _place(key, value, folder) if isinstance(value, str) else value for key, value in options.items()}


def _place(key: str, value: str, folder: Path) -> str:
    if key in _MODELS:
        return _beside(value, folder)
    return str(folder / value) if key in _PATHS and (folder / value).exists() else value


def _call(make: Callable[..., Any], options: Mapping[str, Any], what: str, field: str) -> Any:
    """What `make` gives for these options; options that it does not take are an `InputError`."""
    _check_options(make, options, what, field)
    try:
        return make(**options)
    except ValidationError as wrong:
        first = wrong.errors()[0]
        raise InputError(f"{what} does not take `{'.'.join(map(str, first['loc']))}`: {first['msg']}", field=field) from None


def _check_options(make: Callable[..., Any], options: Mapping[str, Any], what: str, field: str) -> None:
    parameters = inspect.signature(make).parameters
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        for option in options:
            if option not in parameters:
                raise InputError(unknown(f"an option of {what}", str(option), parameters), field=f"{field}.{option}")
    try:
        inspect.signature(make).bind(**options)
    except TypeError as wrong:
        raise InputError(f"{what}: {wrong}", field=field) from None


def _beside(name: str, folder: Path) -> str:
    """The model's name; a file or folder in it that stands beside the YAML file is named by its whole path."""
    kind, _, rest = name.partition(":")
    which, mark, query = rest.partition("?")
    found = (folder / which).absolute()
    there = found.is_file() if kind in ("gguf", "scripted") else kind == "hf" and found.exists()
    return f"{kind}:{found}{mark}{query}" if which and there else name


def read_learning(path: Path) -> tuple[Knowledge, Adapter | None]:
    """The knowledge in a learned agent's JSON file and the weights that it wears, or the knowledge in a file of knowledge alone.

    Whether the weights are still there is not asked. Raises `InputError`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError("there is no such file; a run writes its learned agents to RUN/agents/", file=path, field="knowledge") from None
    try:
        if '"fingerprint"' not in text:
            return Knowledge.model_validate_json(text), None
        learned = parse_learned(text, path)
        return learned.knowledge, learned.adapter
    except ValidationError as invalid:
        raise InputError(f"neither a learned agent nor knowledge: {invalid.errors()[0]['msg']}", file=path, field="knowledge") from None
