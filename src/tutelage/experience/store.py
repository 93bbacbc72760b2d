"""The experience store: what happened, kept for good, in SQL.

Episodes and grades are only ever added. Everything else that is made from them (indexes, views, reports) can be made again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError
from sqlalchemy import BigInteger, Row, Select, Table, bindparam, func, select

from tutelage.errors import InputError, StoreError
from tutelage.experience.database import Database, Prepared
from tutelage.experience.lock import RunLock
from tutelage.experience.tables import agents, completions, episodes, grades, looks, tasks
from tutelage.records import Completion, Episode, Experience, Grade, Record, StopReason, Task, Usage

__all__ = ["RunLock", "Store"]

SUCCESS = 1.0
"""The score from which an episode has not failed."""

_PAGE = 256
"""So many episodes are read at once while iterating."""

_Key = tuple[str, int, int]
_R = TypeVar("_R", bound=Record)


class Store:
    """Episodes, grades, agents, tasks, replies of models, and looks at test splits.

    path: a file (its folder is made where absent), `:memory:`, or an SQLAlchemy URL. Only SQLite is tested so far; the SQL is kept to
    what PostgreSQL knows too, but there nothing yet refuses changes to stored episodes.

    Several processes may write to one file, and several threads and tasks may share one Store. When a method that writes has returned,
    what it wrote survives the death of the process. Methods are short and do not await. Raises `StoreError` where the file cannot be
    written or read (nothing is half-written then), holds something else, or is from a newer version; `InputError` where `path` is a
    folder or an unknown kind of URL.
    """

    def __init__(self, path: str | Path = ":memory:") -> None:
        self._database = Database(path)
        self.name = self._database.name
        self._insert_episode = self._prepared(episodes, returning_id=True)
        self._insert_grade = self._prepared(grades)
        self._insert_completion = self._prepared(completions)
        self._insert_agent = self._prepared(agents)
        self._insert_task = self._prepared(tasks)
        self._insert_look = self._prepared(looks)
        self._count_looks = Prepared(select(func.count()).where(looks.c.split_id == bindparam("split_id")), self._database.connection)
        known = select(completions.c.body).where(completions.c.key == bindparam("key")).order_by(completions.c.id)
        self._select_completion = Prepared(known, self._database.connection)
        self._stored: set[str] = set()  # ids of the agents and tasks that need not be written again

    def _prepared(self, table: Table, *, returning_id: bool = False) -> Prepared:
        """The insert into a table. Where the key is given by content, a row that is there already stays as it is."""
        numbered = isinstance(table.c[0].type, BigInteger)  # by the database
        names = [column.name for column in table.c][1 if numbered else 0 :]
        insert = self._database.insert(table)
        if not numbered:
            insert = insert.on_conflict_do_nothing()
        return Prepared(insert.returning(table.c.id) if returning_id else insert, self._database.connection, names)

    def close(self) -> None:
        """Close the file; every method raises `StoreError` afterwards."""
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # writing

    def add_agent(self, version: str, described: Mapping[str, Any]) -> None:
        """Keep what an agent's version stands for; a version that is there already stays as it is."""
        self._add_once(version, self._insert_agent, lambda: {"version": version, "described": json.dumps(described)})

    def add_task(self, task: Task) -> None:
        """Keep a task, so that its episodes can be read later; a task that is there already stays as it is."""
        self._add_once(task.id, self._insert_task, lambda: {"id": task.id, "body": to_json(task)})

    def _add_once(self, id: str, insert: Prepared, row: Any) -> None:
        if id in self._stored:
            return
        values = {**row(), "created_at": _now()}
        with self._database.writing():
            self._database.run(insert, values)
        self._stored.add(id)

    def add(self, experience: Experience, *, study: str, arm: str = "", grader: str = "", task: Task | None = None) -> None:
        """Keep an episode with its grade (and its task), all or nothing. The same episode may be added twice (by two processes, say)."""
        episode = experience.episode
        row = {
            "study": study,
            "arm": arm,
            "agent_version": episode.agent_version,
            "task_id": episode.task_id,
            "seed": episode.seed,
            "attempt": episode.attempt,
            "stop": episode.stop.value,
            **_usage_row(episode.usage, episode.cost_usd),
            "seconds": episode.seconds,
            "shown": json.dumps(episode.shown) if episode.shown else "[]",
            "body": _episode_json(episode),
            "created_at": experience.when.isoformat(),
        }
        grade = _grade_row(experience.grade, grader, row["created_at"])
        new_task = task if task is not None and task.id not in self._stored else None
        with self._database.writing():
            if new_task is not None:
                self._database.run(self._insert_task, {"id": new_task.id, "body": to_json(new_task), "created_at": row["created_at"]})
            ((episode_id,),) = self._database.run(self._insert_episode, row)
            self._database.run(self._insert_grade, {**grade, "episode_id": episode_id})
        if new_task is not None:
            self._stored.add(new_task.id)

    def add_grade(self, episode: Episode, grade: Grade, *, study: str, grader: str) -> None:
        """Grade a stored episode again: the newest grade of a grader counts, older ones stay. `InputError` for an unknown episode."""
        key = (episode.task_id, episode.seed, episode.attempt)
        query = select(episodes.c.id, episodes.c.body).where(*_key_is(study, episode.agent_version, key)).order_by(episodes.c.id)
        found = [row.id for row in self._database.rows(query) if self._parsed(Episode, row.body) == episode]
        if not found:
            raise InputError(f"study `{study}` holds no such episode of task {episode.task_id}; add it before grading it again")
        row = {**_grade_row(grade, grader, _now()), "episode_id": found[0]}
        with self._database.writing():
            self._database.run(self._insert_grade, row)

    def add_completion(self, key: str, completion: Completion, *, study: str = "", cost_usd: float | None = None) -> None:
        """Keep a model's reply to the exact request that `key` is the hash of."""
        row = {
            "key": key,
            "study": study,
            **_usage_row(completion.usage, cost_usd),
            "calls": max(1, completion.usage.calls),
            "body": to_json(completion, exact=completion.tokens is not None),
            "created_at": _now(),
        }
        with self._database.writing():
            self._database.run(self._insert_completion, row)

    def record_look(self, split_id: str, fingerprint: str) -> int:
        """Note that a test split was looked at by a comparison; how many different comparisons have done so by now, this one included."""
        row = {"split_id": split_id, "fingerprint": fingerprint, "created_at": _now()}
        with self._database.writing():
            self._database.run(self._insert_look, row)
            ((count,),) = self._database.run(self._count_looks, row)
        return int(count)

    # reading

    def find(
        self, study: str, agent_version: str, task_id: str, seed: int = 0, attempt: int = 0, grader: str | None = None
    ) -> Experience | None:
        """The first finished episode of that key with its newest grade (by `grader`, if given); None where there is none.

        Finished is every episode whose model did not fail: those are tried again. The first counts, so that an answer never changes once
        it was given.
        """
        query = _graded(grader).where(*_key_is(study, agent_version, (task_id, seed, attempt)), _FINISHED).order_by(episodes.c.id).limit(1)
        return next((self._experience(row) for row in self._database.rows(query)), None)

    def load(
        self,
        study: str,
        agent_version: str,
        grader: str | None = None,
        *,
        seed: int | None = None,
        task_ids: Collection[str] | None = None,
    ) -> dict[_Key, Experience]:
        """Everything that `find` would give for an agent in a study, by (task id, seed, attempt). task_ids: of these tasks only."""
        query = _graded(grader).where(episodes.c.study == study, episodes.c.agent_version == agent_version, _FINISHED)
        if seed is not None:
            query = query.where(episodes.c.seed == seed)
        if task_ids is not None:
            query = query.where(episodes.c.task_id.in_(task_ids))
        first: dict[_Key, Row[Any]] = {}
        for row in self._database.rows(query.order_by(episodes.c.id)):
            first.setdefault((row.task_id, row.seed, row.attempt), row)
        return {key: self._experience(row) for key, row in first.items()}

    def experiences(
        self,
        study: str | None = None,
        arm: str | None = None,
        agent_version: str | None = None,
        task_id: str | None = None,
        failed: bool | None = None,
    ) -> Iterator[Experience]:
        """All episodes with their newest grade in the order of insertion, those of failed model calls too.

        failed: only those scored below 1 (True), or from 1 on (False); an episode that is not graded is neither. What is added while
        iterating does not come.
        """
        wanted = {"study": study, "arm": arm, "agent_version": agent_version, "task_id": task_id}
        query = _graded(None).where(*(episodes.c[name] == value for name, value in wanted.items() if value is not None))
        if failed is not None:
            query = query.where(grades.c.score < SUCCESS if failed else grades.c.score >= SUCCESS)
        last, end = 0, self._database.rows(select(func.max(episodes.c.id)))[0][0] or 0
        query = query.where(episodes.c.id > bindparam("last"), episodes.c.id <= end).order_by(episodes.c.id).limit(_PAGE)
        while rows := self._database.rows(query.params(last=last)):
            yield from map(self._experience, rows)
            last = rows[-1].id

    def completion(self, key: str) -> Completion | None:
        """The first reply kept under this key."""
        rows = self._database.read(self._select_completion, {"key": key})
        return self._parsed(Completion, rows[0][0]) if rows else None

    def spent(self, study: str) -> tuple[Usage, float | None]:
        """What the calls kept by `add_completion` for a study used and cost in USD (None: a price is unknown).

        Replies that were taken from the cache cost nothing; failed calls are not counted.
        """
        sums = [func.coalesce(func.sum(completions.c[name]), 0) for name in ("calls", "tokens_in", "tokens_out", "tokens_reused")]
        cost = completions.c.cost_usd
        query = select(*sums, func.coalesce(func.sum(cost), 0.0), func.count() - func.count(cost)).where(completions.c.study == study)
        *used, usd, unknown = list(self._database.rows(query)[0])
        calls, tokens_in, tokens_out, reused = map(int, used)
        usage = Usage(calls=calls, tokens_in=tokens_in, tokens_out=tokens_out, tokens_reused=reused)
        return usage, None if unknown else float(usd)

    def arms(self, study: str | None = None) -> list[str]:
        """The arms that have episodes, in the order of their first."""
        query = select(episodes.c.arm).group_by(episodes.c.arm).order_by(func.min(episodes.c.id))
        return [row.arm for row in self._database.rows(query if study is None else query.where(episodes.c.study == study))]

    def task(self, task_id: str) -> Task | None:
        """The task of that id, if it was kept."""
        rows = self._database.rows(select(tasks.c.body).where(tasks.c.id == task_id))
        return self._parsed(Task, rows[0].body) if rows else None

    def agent(self, version: str) -> dict[str, Any] | None:
        """What an agent's version stands for, if it was kept."""
        rows = self._database.rows(select(agents.c.described).where(agents.c.version == version))
        return dict(json.loads(rows[0].described)) if rows else None

    def _experience(self, row: Row[Any]) -> Experience:
        grade = Grade(
            score=row.score, words=row.words, confidence=row.confidence, abstained=bool(row.abstained), parts=json.loads(row.parts)
        )
        when = datetime.fromisoformat(row.created_at)
        return Experience(episode=self._parsed(Episode, row.body), grade=grade, when=when, study=row.study)

    def _parsed(self, kind: type[_R], body: str) -> _R:
        try:
            return kind.model_validate_json(body)
        except ValidationError as error:
            raise StoreError(f"{self.name}: a stored {kind.__name__} cannot be read by this version of tutelage: {error}") from None


_FINISHED = episodes.c.stop != StopReason.MODEL_ERROR.value


def _key_is(study: str, agent_version: str, key: _Key) -> Sequence[Any]:
    """The conditions that single out an episode's key."""
    names = ("study", "agent_version", "task_id", "seed", "attempt")
    return [episodes.c[name] == value for name, value in zip(names, (study, agent_version, *key), strict=True)]


@lru_cache(maxsize=32)
def _graded(grader: str | None) -> Select[Any]:
    """Episodes with their newest grade, by one grader or by any."""
    own = grades.alias("own")
    newest = select(func.max(own.c.id)).where(own.c.episode_id == episodes.c.id)
    if grader is not None:
        newest = newest.where(own.c.grader == grader)
    key = (episodes.c[name] for name in ("id", "study", "task_id", "seed", "attempt", "body", "created_at"))
    grade = (grades.c[name] for name in ("score", "words", "confidence", "abstained", "parts"))
    return select(*key, *grade).join_from(episodes, grades, grades.c.id == newest.correlate(episodes).scalar_subquery())


def _usage_row(usage: Usage, cost_usd: float | None) -> dict[str, Any]:
    return {
        "calls": usage.calls,
        "tokens_in": usage.tokens_in,
        "tokens_out": usage.tokens_out,
        "tokens_reused": usage.tokens_reused,
        "cost_usd": cost_usd,
    }


def _grade_row(grade: Grade, grader: str, at: str) -> dict[str, Any]:
    if grade.score is not None and not isfinite(grade.score):  # SQL would make it null: not graded
        raise InputError(f"a score is a finite number or None, and this is {grade.score}", field="score")
    return {
        "grader": grader,
        "score": grade.score,
        "words": _whole(grade.words),
        "confidence": grade.confidence,
        "abstained": grade.abstained,
        "parts": json.dumps(grade.parts) if grade.parts else "{}",
        "created_at": at,
    }


def _episode_json(episode: Episode) -> str:
    return to_json(episode, exact=any(step.completion.tokens for step in episode.steps))


def to_json(record: Record, *, exact: bool = False) -> str:
    """A record as JSON, fields at their default left out.

    exact: keep infinite numbers (log-probabilities of 0), which the fast way turns into null. Halves of surrogate pairs, which models
    leave behind where an emoji was cut, become U+FFFD: no UTF-8 text can hold them.
    """
    if not exact:
        try:
            return record.model_dump_json(exclude_defaults=True)
        except PydanticSerializationError:
            pass
    return _whole(json.dumps(record.canonical(), ensure_ascii=False))


def _whole(text: str) -> str:
    """The text without lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _now() -> str:
    return datetime.now(UTC).isoformat()
