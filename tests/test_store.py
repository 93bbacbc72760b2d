"""The experience store in one process: what goes in comes out, once and for good."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import inspect

from tutelage.errors import InputError, StoreError
from tutelage.experience import database, migrations, tables
from tutelage.experience.store import Store
from tutelage.experience.views import best_per_task, by_task, successes
from tutelage.records import (
    Completion,
    Episode,
    Experience,
    Grade,
    ImagePart,
    Message,
    Observation,
    Segment,
    Step,
    StopReason,
    Task,
    TextPart,
    TokenTrace,
    ToolCall,
    ToolFailure,
    Usage,
)

WHEN = datetime(2025, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
CALL = ToolCall(id="call_0", name="reset_password", arguments='{"user": "anna", "broken')


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "experience.sqlite") as opened:
        yield opened


def episode(task_id: str = "t1", **changes: object) -> Episode:
    step = Step(
        completion=Completion(
            message=Message(role="assistant", tool_calls=(CALL,)), finish="tool_calls", usage=Usage(calls=1, tokens_in=9)
        ),
        calls=(CALL,),
        observations=(Observation(text="no such user", call_id="call_0", failure=ToolFailure.RAISED),),
        seconds=0.25,
    )
    context = (Message(role="system", content="Help."), Message(role="user", content="Ünïcode \x00 \u2028 reset"))
    fields: dict[str, object] = {
        "task_id": task_id,
        "agent_version": "v1",
        "segments": (Segment(context=context, steps=(step,)),),
        "answer": "done",
        "stop": StopReason.ANSWERED,
        "usage": Usage(calls=2, tokens_in=30, tokens_out=4, tokens_reused=1),
        "cost_usd": 0.5,
        "seconds": 1.5,
    }
    return Episode(**{**fields, **changes})


def experience(task_id: str = "t1", score: float | None = 1.0, **changes: object) -> Experience:
    return Experience(episode=episode(task_id, **changes), grade=Grade(score=score), when=WHEN, study="s")


def counts(path: str | Path) -> tuple[int, int]:
    """Rows of episodes and grades, by a connection of our own."""
    with sqlite3.connect(path) as raw:
        return raw.execute("SELECT (SELECT count(*) FROM episodes), (SELECT count(*) FROM grades)").fetchone()


# what goes in comes out


def test_every_field_of_an_episode_comes_back(tmp_path: Path) -> None:
    trace = TokenTrace(prompt_ids=(1, 2), completion_ids=(3, 4, 5), logprobs=(-0.1, float("-inf"), 0.0))
    image = Message(role="user", content=(TextPart(text="what is it?"), ImagePart(url="data:image/png;base64,AAAA")))
    seen = Observation(text="room 2", truncated=True, seconds=0.1)
    said = Completion(message=Message(role="assistant", content="a cat"), finish="length", tokens=trace, seconds=2.0, cost_usd=0.0)
    full = episode(
        segments=(Segment(context=(image,)), Segment(context=(), steps=(Step(completion=said, observations=(seen,)),))),
        answer=None,
        stop=StopReason.SECONDS,
        cost_usd=None,
        error="timed out",
        seed=7,
        attempt=3,
        shown=("e1", "e2"),
        environment_grade=Grade(score=0.5, words="half"),
    )
    grade = Grade(score=0.25, words="so \u2028 so", confidence=0.9, abstained=True, parts={"name": 1.0, "arguments": None})
    given_in = Experience(episode=full, grade=grade, when=WHEN, study="s")
    with Store(tmp_path / "x.sqlite") as store:
        store.add(given_in, study="s", arm="a", grader="g")
        assert store.find("s", "v1", "t1", seed=7, attempt=3, grader="g") == given_in
    with Store(tmp_path / "x.sqlite") as again:
        assert list(again.experiences()) == [given_in]
        assert again.load("s", "v1", "g") == {("t1", 7, 3): given_in}


TEXT = st.text(max_size=20)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
PART = st.builds(TextPart, text=TEXT) | st.builds(ImagePart, url=TEXT)
CALLS = st.lists(st.builds(ToolCall, id=TEXT, name=TEXT, arguments=TEXT), max_size=2).map(tuple)
MESSAGE = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=TEXT | st.lists(PART, max_size=2).map(tuple),
    tool_calls=CALLS,
    tool_call_id=st.none() | TEXT,
)
TRACE = st.integers(0, 3).flatmap(
    lambda n: st.builds(
        TokenTrace,
        prompt_ids=st.just((1,)),
        completion_ids=st.tuples(*[st.integers(0)] * n),
        logprobs=st.tuples(*[st.floats(max_value=0, allow_nan=False)] * n),
    )
)
COMPLETION = st.builds(Completion, message=MESSAGE, tokens=st.none() | TRACE, seconds=NUMBER, cost_usd=st.none() | NUMBER)
STEP = st.builds(Step, completion=COMPLETION, calls=CALLS, seconds=NUMBER)
SEGMENT = st.builds(Segment, context=st.lists(MESSAGE, max_size=2).map(tuple), steps=st.lists(STEP, max_size=2).map(tuple))
GRADE = st.builds(
    Grade, score=st.none() | NUMBER, words=TEXT, confidence=st.none() | NUMBER, parts=st.dictionaries(TEXT, st.none() | NUMBER, max_size=2)
)
EPISODE = st.builds(
    Episode,
    task_id=TEXT,
    agent_version=TEXT,
    segments=st.lists(SEGMENT, max_size=2).map(tuple),
    answer=st.none() | TEXT,
    stop=st.sampled_from([reason for reason in StopReason if reason is not StopReason.MODEL_ERROR]),
    cost_usd=st.none() | NUMBER,
    seconds=NUMBER,
    error=st.none() | TEXT,
    seed=st.integers(-(2**63), 2**63 - 1),
    shown=st.lists(TEXT, max_size=2).map(tuple),
)


@settings(max_examples=60, deadline=None)
@given(episode=EPISODE, grade=GRADE)
def test_whatever_can_be_said_comes_back(episode: Episode, grade: Grade) -> None:
    said = Experience(episode=episode, grade=grade, when=WHEN, study="s")
    with Store() as store:
        store.add(said, study="s", grader="g")
        assert store.find("s", episode.agent_version, episode.task_id, episode.seed, episode.attempt) == said


@pytest.mark.parametrize("when", [WHEN, WHEN.replace(tzinfo=None), WHEN.astimezone(timezone(timedelta(hours=5, minutes=30)))])
def test_times_come_back_with_their_zone(store: Store, when: datetime) -> None:
    store.add(experience().model_copy(update={"when": when}), study="s")
    found = store.find("s", "v1", "t1")
    assert found is not None
    assert (found.when, found.when.utcoffset()) == (when, when.utcoffset())


def test_not_graded_is_null_and_zero_is_zero(store: Store) -> None:
    store.add(experience("none", None), study="s")
    store.add(experience("zero", 0.0), study="s")
    with sqlite3.connect(store.name) as raw:
        assert raw.execute("SELECT score FROM grades ORDER BY id").fetchall() == [(None,), (0.0,)]
    assert [x.grade.score for x in store.experiences()] == [None, 0.0]


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_refused(store: Store, score: float) -> None:
    with pytest.raises(InputError, match="finite"):
        store.add(experience(score=score), study="s")
    assert counts(store.name) == (0, 0)


def test_half_an_emoji_does_not_cost_the_episode(store: Store) -> None:
    cut = experience(answer="ok \ud83d", error="\U0001f600 stays").model_copy(update={"grade": Grade(score=1.0, words="it said \ude00")})
    store.add(cut, study="s")
    found = store.find("s", "v1", "t1")
    assert found is not None
    assert (found.episode.answer, found.episode.error, found.grade.words) == ("ok \ufffd", "\U0001f600 stays", "it said \ufffd")


def test_columns_say_what_the_body_says(store: Store) -> None:
    store.add(experience(seed=4, attempt=2, shown=("e1",), cost_usd=None), study="s", arm="a", grader="g")
    with sqlite3.connect(store.name) as raw:
        _, *row, body, when = raw.execute("SELECT * FROM episodes").fetchone()
    assert row == ["s", "a", "v1", "t1", 4, 2, "answered", 2, 30, 4, 1, None, 1.5, '["e1"]']
    assert when == "2025-03-01T12:30:15.123456+00:00"
    assert json.loads(body)["answer"] == "done"
    assert "environment_grade" not in json.loads(body)  # fields at their default are left out


# nothing is changed or lost


@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE episodes SET stop = 'answered'",
        "DELETE FROM episodes",
        "INSERT OR REPLACE INTO episodes SELECT * FROM episodes",
        "UPDATE grades SET score = 1",
        "DELETE FROM grades",
        "INSERT OR REPLACE INTO grades SELECT * FROM grades",
    ],
)
def test_episodes_and_grades_refuse_to_be_changed(store: Store, attack: str) -> None:
    store.add(experience(score=0.0), study="s")
    with sqlite3.connect(store.name) as raw, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        raw.execute(attack)
    assert [x.grade.score for x in store.experiences()] == [0.0]


def test_an_episode_and_its_grade_are_stored_both_or_neither(store: Store) -> None:
    with sqlite3.connect(store.name) as raw:
        raw.execute("CREATE TRIGGER refuse BEFORE INSERT ON grades WHEN NEW.grader = 'bad' BEGIN SELECT RAISE(ABORT, 'refused'); END")
    with pytest.raises(StoreError, match="refused"):
        store.add(experience(), study="s", grader="bad")
    assert counts(store.name) == (0, 0)
    store.add(experience(), study="s", grader="good")
    assert counts(store.name) == (1, 1)


def test_a_full_disk_is_named_and_leaves_nothing_half_written(store: Store) -> None:
    store.add(experience("before"), study="s")
    connection = store._database.connection
    pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 3}")
    with pytest.raises(StoreError, match="disk is full") as full:
        store.add(experience("big", answer="x" * 100_000), study="s")
    assert store.name in str(full.value)
    assert "Free some space" in str(full.value)
    assert counts(store.name) == (1, 1)
    connection.exec_driver_sql("PRAGMA max_page_count=1000000")
    store.add(experience("big", answer="x" * 100_000), study="s")  # the same store goes on once there is room
    assert counts(store.name) == (2, 2)


def test_a_grade_needs_its_episode(store: Store) -> None:
    with pytest.raises(StoreError, match="FOREIGN KEY"), store._database.writing():
        row = {"episode_id": 99, "grader": "", "score": 1.0, "words": "", "confidence": None, "abstained": False, "parts": "{}"}
        store._database.run(store._insert_grade, {**row, "created_at": ""})
    assert counts(store.name) == (0, 0)


def test_the_file_is_kept_as_it_should_be(store: Store) -> None:
    pragma = {
        name: store._database.connection.exec_driver_sql(f"PRAGMA {name}").scalar()
        for name in ("journal_mode", "synchronous", "foreign_keys")
    }
    assert pragma == {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1}


# finding again


def test_a_failed_model_call_is_not_found_and_the_first_finished_episode_is(store: Store) -> None:
    store.add(experience(stop=StopReason.MODEL_ERROR, answer="failed"), study="s")
    assert store.find("s", "v1", "t1") is None
    assert store.load("s", "v1") == {}
    store.add(experience(answer="first"), study="s")
    store.add(experience(answer="second"), study="s")
    found = store.find("s", "v1", "t1")
    assert found is not None
    assert found.episode.answer == "first"
    assert store.load("s", "v1") == {("t1", 0, 0): found}
    assert [x.episode.answer for x in store.experiences()] == ["failed", "first", "second"]


@pytest.mark.parametrize(
    "key",
    [
        ("other", "v1", "t1", 0, 0),
        ("s", "v2", "t1", 0, 0),
        ("s", "v1", "t2", 0, 0),
        ("s", "v1", "t1", 1, 0),
        ("s", "v1", "t1", 0, 1),
        ("s", "v1", "t1", 0, 0, "other grader"),
    ],
)
def test_another_key_is_not_found(store: Store, key: tuple[str, str, str, int, int]) -> None:
    store.add(experience(), study="s", grader="g")
    assert store.find("s", "v1", "t1", 0, 0, "g") is not None
    assert store.find(*key) is None
    assert key[2:5] not in store.load(key[0], key[1], *key[5:])


def test_load_is_find_for_every_key(store: Store) -> None:
    for task in ("t2", "t1", "t3"):
        for seed in (0, 1):
            for attempt in (0, 1):
                store.add(experience(task, score=None if seed else 0.5, seed=seed, attempt=attempt), study="s", grader="g")
    loaded = store.load("s", "v1", "g")
    assert list(loaded) == [(task, seed, attempt) for task in ("t2", "t1", "t3") for seed in (0, 1) for attempt in (0, 1)]
    assert all(store.find("s", "v1", *key, grader="g") == found for key, found in loaded.items())
    assert store.load("s", "v1", "g", seed=1) == {key: found for key, found in loaded.items() if key[1] == 1}
    assert store.load("s", "v1", "g", task_ids={"t1", "t9"}) == {key: found for key, found in loaded.items() if key[0] == "t1"}
    assert store.load("s", "v1", "g", task_ids=set()) == {}


def test_a_new_grade_counts_and_the_old_one_stays(store: Store) -> None:
    first, second = experience(answer="a", score=None), experience(answer="b", score=0.0)
    store.add(first, study="s", grader="g")
    store.add(second, study="s", grader="g")
    store.add_grade(first.episode, Grade(score=0.7, words="better"), study="s", grader="g")
    store.add_grade(second.episode, Grade(score=1.0), study="s", grader="h")
    assert [x.grade.score for x in store.experiences()] == [0.7, 1.0]
    by_g, by_h = store.find("s", "v1", "t1", grader="g"), store.find("s", "v1", "t1", grader="h")
    assert by_g is not None
    assert by_g.grade == Grade(score=0.7, words="better")
    assert by_h is not None
    assert by_h.episode.answer == "b"
    assert counts(store.name) == (2, 4)


def test_an_unknown_episode_is_not_graded(store: Store) -> None:
    store.add(experience(answer="a"), study="s")
    with pytest.raises(InputError, match="no such episode"):
        store.add_grade(episode(answer="never stored"), Grade(score=1.0), study="s", grader="g")


def test_experiences_come_in_order_and_filtered(store: Store) -> None:
    rows = [("s", "base", "t1", 1.0), ("s", "base", "t2", 0.0), ("s", "few", "t1", None), ("other", "base", "t1", 0.99)]
    for study, arm, task, score in rows:
        store.add(experience(task, score), study=study, arm=arm)

    def found(**filters: object) -> list[tuple[str, float | None]]:
        return [(x.episode.task_id, x.grade.score) for x in store.experiences(**filters)]  # type: ignore[arg-type]

    assert found() == [("t1", 1.0), ("t2", 0.0), ("t1", None), ("t1", 0.99)]
    assert found(study="s", arm="base") == [("t1", 1.0), ("t2", 0.0)]
    assert found(task_id="t2") == [("t2", 0.0)]
    assert found(agent_version="v2") == []
    assert found(failed=True) == [("t2", 0.0), ("t1", 0.99)]  # not graded is neither
    assert found(failed=False) == [("t1", 1.0)]
    assert store.arms() == ["base", "few"]
    assert store.arms("other") == ["base"]
    assert [x.study for x in store.experiences()] == ["s", "s", "s", "other"]


def test_what_is_added_while_iterating_does_not_come(store: Store) -> None:
    for n in range(600):  # more than two pages
        store.add(experience(f"t{n}"), study="s")
    seen = []
    for x in store.experiences():
        seen.append(x.episode.task_id)
        store.add(experience("later"), study="s")
    assert seen == [f"t{n}" for n in range(600)]


def test_agents_and_tasks_are_kept_once(store: Store) -> None:
    described = {"model": "scripted", "tools": [{"name": "ü"}]}
    task = Task(messages=(Message(role="user", content="hi"),), reference={"a": [1, None]}, source="train.jsonl:1")
    store.add_agent("v1", described)
    store.add_task(task)
    with Store(store.name) as other:
        other.add_agent("v1", {"model": "changed"})
        other.add_task(task.model_copy(update={"source": "elsewhere"}))
        assert other.agent("v1") == described
        assert other.task(task.id) == task
        assert other.agent("v2") is None
        assert other.task("unknown") is None


def test_looks_count_different_comparisons(store: Store) -> None:
    assert [store.record_look("split", name) for name in ("a", "a", "b", "a")] == [1, 1, 2, 2]
    assert store.record_look("other split", "a") == 1
    with Store(store.name) as again:
        assert again.record_look("split", "c") == 3


def test_spent_adds_up_the_calls_of_a_study(store: Store) -> None:
    assert store.spent("s") == (Usage(), 0.0)
    reply = Completion(message=Message(role="assistant", content="x"), usage=Usage(calls=1, tokens_in=10, tokens_out=3, tokens_reused=2))
    store.add_completion("k1", reply, study="s", cost_usd=0.5)
    store.add_completion("k1", reply, study="s", cost_usd=0.25)  # two processes asked the same: both were paid
    store.add_completion("k2", reply, study="other", cost_usd=None)
    assert store.spent("s") == (Usage(calls=2, tokens_in=20, tokens_out=6, tokens_reused=4), 0.75)
    assert store.spent("other") == (Usage(calls=1, tokens_in=10, tokens_out=3, tokens_reused=2), None)
    store.add_completion("k3", reply.model_copy(update={"usage": Usage()}), study="s", cost_usd=None)
    assert store.spent("s") == (Usage(calls=3, tokens_in=20, tokens_out=6, tokens_reused=4), None)  # a call is a call; its price is unknown


def test_completions_come_back_whole(store: Store) -> None:
    trace = TokenTrace(prompt_ids=(1,), completion_ids=(2,), logprobs=(float("-inf"),))
    reply = Completion(message=Message(role="assistant", tool_calls=(CALL,)), finish="tool_calls", tokens=trace, seconds=1.25)
    store.add_completion("k", reply)
    store.add_completion("k", reply.model_copy(update={"seconds": 9.0}))
    assert store.completion("k") == reply
    assert store.completion("unknown") is None


# views


def test_views() -> None:
    a, b, c, d = experience("t1", 0.5), experience("t2", None), experience("t1", 1.0), experience("t1", 1.0, answer="again")
    assert successes([a, b, c, d]) == [c, d]
    assert successes([a, b, c], threshold=0.5) == [a, c]
    assert successes([b], threshold=0.0) == []
    assert by_task([a, b, c]) == {"t1": [a, c], "t2": [b]}
    assert best_per_task([a, b, c, d]) == {"t1": c}
    assert best_per_task([experience("t1", -1.0), a]) == {"t1": a}


# several at once


def test_threads_share_a_store(store: Store) -> None:
    failures: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for n in range(50):
                store.add(experience(f"{thread}-{n}"), study="s")
                assert store.find("s", "v1", f"{thread}-{n}") is not None
        except BaseException as failure:  # noqa: BLE001 -- reported by the test below
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(store.load("s", "v1")) == 200


async def test_tasks_share_a_store(store: Store) -> None:
    async def work(number: int) -> None:
        for n in range(10):
            store.add(experience(f"{number}-{n}"), study="s")
            await asyncio.sleep(0)

    await asyncio.gather(*(work(number) for number in range(20)))
    assert counts(store.name) == (200, 200)


def test_two_stores_on_one_file_see_each_other(store: Store) -> None:
    with Store(store.name) as other:
        store.add(experience("mine"), study="s")
        other.add(experience("theirs"), study="s")
        assert [x.episode.task_id for x in store.experiences()] == ["mine", "theirs"]
        assert [x.episode.task_id for x in other.experiences()] == ["mine", "theirs"]


def test_a_file_that_stays_locked_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    with Store(tmp_path / "x.sqlite") as store, sqlite3.connect(store.name) as raw:
        raw.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"x\.sqlite: another process has kept it locked"):
            store.add(experience(), study="s")
        assert list(store.experiences()) == []  # reading goes on
        raw.execute("ROLLBACK")
        store.add(experience(), study="s")
        assert list(store.experiences()) == [experience()]


# migrations


def test_the_tables_are_those_that_queries_see(store: Store) -> None:
    found = inspect(store._database.connection)
    assert set(found.get_table_names()) == set(tables.metadata.tables)
    for name, table in tables.metadata.tables.items():
        there = {column["name"]: (column["nullable"], str(column["type"])) for column in found.get_columns(name)}
        assert list(there) == [column.name for column in table.columns]
        for column in table.columns:
            assert there[column.name][0] == column.nullable or column.primary_key, f"{name}.{column.name}"


def test_a_second_migration_is_applied_once_and_keeps_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, applied = tmp_path / "x.sqlite", []
    with Store(path) as store:
        store.add(experience(), study="s")

    def add_notes(connection: object) -> None:
        applied.append(1)
        connection.exec_driver_sql("CREATE TABLE notes (id INTEGER PRIMARY KEY)")  # type: ignore[attr-defined]

    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, add_notes))
    for _ in range(2):
        with Store(path) as store:
            assert store.find("s", "v1", "t1") == experience()
    assert applied == [1]
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT version FROM schema_version ORDER BY version").fetchall() == [(1,), (2,), (3,)]


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.sqlite"
    Store(path).close()

    def fail(connection: object) -> None:
        connection.exec_driver_sql("CREATE TABLE notes (id INTEGER PRIMARY KEY)")  # type: ignore[attr-defined]
        connection.exec_driver_sql("INSERT INTO nowhere VALUES (1)")  # type: ignore[attr-defined]

    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, fail))
    with pytest.raises(StoreError, match="nowhere"):
        Store(path)
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT max(version) FROM schema_version").fetchone() == (2,)
        assert raw.execute("SELECT count(*) FROM sqlite_master WHERE name = 'notes'").fetchone() == (0,)


# bad places


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    Store(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute("INSERT INTO schema_version VALUES (99, 'later')")
    with pytest.raises(StoreError, match=r"x\.sqlite was written by a newer version of tutelage \(schema 99; this one knows 2\)"):
        Store(path)


def test_another_program_s_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE bookmarks (id INTEGER)")
    with pytest.raises(StoreError, match="not an experience store: it holds bookmarks"):
        Store(path)
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT name FROM sqlite_master").fetchall() == [("bookmarks",)]


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary\n" * 200)
    with pytest.raises(StoreError, match=r"notes\.txt: it is not an experience store"):
        Store(path)
    assert path.read_text() == "dear diary\n" * 200


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    with Store(path) as store:
        for n in range(200):
            store.add(experience(f"t{n}"), study="s")
    content = bytearray(path.read_bytes())
    content[8192:] = os.urandom(len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"x\.sqlite: the file is damaged"), Store(path) as broken:
        list(broken.experiences())


def test_an_episode_that_this_version_cannot_read_is_named(store: Store) -> None:
    store.add(experience(), study="s")
    with sqlite3.connect(store.name) as raw:
        raw.execute("DROP TRIGGER episodes_no_update")
        raw.execute("""UPDATE episodes SET body = '{"task_id": "t1", "from_the_future": 1}'""")
    with pytest.raises(StoreError, match="cannot be read by this version"):
        list(store.experiences())


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        Store(tmp_path)


def test_the_folder_of_a_store_is_made(tmp_path: Path) -> None:
    Store(tmp_path / "a" / "b c?#%" / "x.sqlite").close()
    assert (tmp_path / "a" / "b c?#%" / "x.sqlite").is_file()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made"):
        Store(tmp_path / "file" / "deeper" / "x.sqlite")


@pytest.mark.parametrize("url", ["mysql://localhost/x", "nonsense://x", "://"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(InputError, match=r"sqlite or postgresql|neither a file nor"):
        Store(url)


def test_a_url_of_sqlite_is_taken(tmp_path: Path) -> None:
    with Store(f"sqlite:///{tmp_path}/x.sqlite") as store:
        store.add(experience(), study="s")
    assert counts(tmp_path / "x.sqlite") == (1, 1)


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path / "x.sqlite")
    store.close()
    store.close()
    with pytest.raises(StoreError, match="is closed"):
        store.add(experience(), study="s")
    with pytest.raises(StoreError, match="is closed"):
        store.find("s", "v1", "t1")


def test_a_seed_beyond_sql_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="too large"):
        store.add(experience(seed=2**63), study="s")
    assert counts(store.name) == (0, 0)
