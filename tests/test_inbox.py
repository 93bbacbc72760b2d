"""The inbox: no question and no answer is lost, nothing is answered twice, nothing is charged twice, whoever is killed and whenever."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import create_engine

import tutelage as tt
from tutelage.advice import Advisor, Question, ReferenceAdvisor
from tutelage.collector import Collector, Job
from tutelage.errors import InputError, StoreError
from tutelage.experience import migrations
from tutelage.experience.store import Store
from tutelage.inbox import GO_ON, WAIT, Inbox, Person, PersonGrader, State, Terms

POSTGRES = os.environ.get("TUTELAGE_POSTGRES")
KINDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.server)]
NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def tick(self, **delta: float) -> None:
        self.now += timedelta(**delta)


def question(n: int = 0, **fields) -> Question:
    return Question(**{"text": f"Which battery fits the X{n}?", "task_id": f"t{n}", "episode": f"v1/t{n}/0/0", **fields})


@contextmanager
def new_store(kind: str, tmp_path: Path) -> Iterator[str]:
    """A store of its own: a file, or a schema of the PostgreSQL that TUTELAGE_POSTGRES names."""
    if kind == "sqlite":
        yield str(tmp_path / "experience.sqlite")
        return
    if not POSTGRES:
        pytest.skip("no PostgreSQL server: set TUTELAGE_POSTGRES to its URL, such as postgresql+psycopg://user@host/name")
    schema = f"inbox_{os.getpid()}_{random.getrandbits(32):08x}"
    engine = create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
    with engine.connect() as raw:
        raw.exec_driver_sql(f"CREATE SCHEMA {schema}")
    yield f"{POSTGRES}?options=-csearch_path%3D{schema}"
    with engine.connect() as raw:
        raw.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")
    engine.dispose()


@pytest.fixture(params=KINDS)
def place(request, tmp_path: Path) -> Iterator[str]:
    with new_store(request.param, tmp_path) as name:
        yield name


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=KINDS if POSTGRES else KINDS[:1])
def inbox(request, tmp_path: Path, clock: Clock) -> Iterator[Inbox]:
    with new_store(request.param, tmp_path) as name, Inbox(name, clock=clock) as opened:
        yield opened


async def later(act, seconds: float = 0.08):
    await asyncio.sleep(seconds)
    return act()


# -- asking and answering


async def test_an_answer_reaches_who_waits_and_is_charged_once(inbox: Inbox, clock: Clock):
    asked, terms = question(context="We sell X0."), Terms(price=0.3, price_usd=2.0)

    def answer():
        clock.tick(minutes=5)
        return inbox.answer(asked.id, " The B7. ", by="anna", note="see page 3")

    advice, entry = await asyncio.gather(inbox.ask(asked, terms), later(answer))
    assert (advice.answer, advice.by, advice.note, advice.when) == ("The B7.", "person:anna", "see page 3", NOON + timedelta(minutes=5))
    assert (advice.price, advice.price_usd, advice.question_id) == (0.3, 2.0, asked.id)
    assert (entry.state, entry.late, entry.taken) == (State.ANSWERED, False, None)
    assert inbox.charged() == (0.3, 2.0)
    assert await inbox.ask(asked, Terms(price=0.9)) == advice, "asked again it is the same answer at the price that was charged"
    assert inbox.charged() == (0.3, 2.0)
    assert inbox.entry(asked.id).taken is not None


async def test_both_who_wait_for_one_question_get_its_answer_for_one_charge(place: str):
    with Inbox(place) as inbox, Inbox(place) as other:
        asks = inbox.ask(question(), Terms(price=1.0)), other.ask(question(), Terms(price=1.0))
        *both, _ = await asyncio.gather(*asks, later(lambda: inbox.answer(question().id, "B7", by="anna")))
        assert [advice.answer for advice in both] == ["B7", "B7"]
        assert inbox.charged() == (1.0, 0.0)
        assert len(inbox.entries()) == 1


async def test_time_up_settles_it_and_a_late_answer_is_kept(inbox: Inbox):
    began = time.monotonic()
    assert await inbox.ask(question(), Terms(price=0.3, seconds=0.2)) is None
    assert 0.2 <= time.monotonic() - began < 2
    assert inbox.entry(question().id).state is State.LAPSED
    late = inbox.answer(question().id, "B7", by="anna")
    assert (late.state, late.late, late.answer.answer) == (State.LAPSED, True, "B7")
    assert await inbox.ask(question(), Terms(price=0.3)) is None, "a repeated episode goes the same way, without waiting"
    assert inbox.charged() == (0.0, 0.0)
    assert [entry.answer.answer for entry in inbox.answered()] == ["B7"]
    assert list(inbox.answered(late=False)) == []


async def test_who_waits_all_the_same_gets_an_answer_after_the_time(inbox: Inbox):
    terms = Terms(seconds=0.01, fallback=WAIT)
    advice, _ = await asyncio.gather(inbox.ask(question(), terms), later(lambda: inbox.answer(question().id, "B7", by="anna"), 0.2))
    assert advice.answer == "B7"


async def test_declining_ends_the_wait(inbox: Inbox):
    advice, _ = await asyncio.gather(inbox.ask(question()), later(lambda: inbox.decline(question().id, by="anna", why="ask Ben")))
    assert advice is None
    entry = inbox.entry(question().id)
    assert (entry.state, entry.closed_by, entry.closed_why) == (State.DECLINED, "anna", "ask Ben")
    assert await inbox.ask(question()) is None
    with pytest.raises(InputError, match="declined already"):
        inbox.decline(question().id, by="ben")


async def test_cancelled_the_question_stays_and_waits_again(inbox: Inbox):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await inbox.ask(question(), Terms(price=0.3))
    assert inbox.entry(question().id).state is State.OPEN
    inbox.answer(question().id, "B7", by="anna")
    assert inbox.charged() == (0.0, 0.0), "nobody has taken it over yet"
    assert (await inbox.ask(question(), Terms(price=0.3))).answer == "B7"
    assert inbox.charged() == (0.3, 0.0)


async def test_asked_again_while_open_the_newest_terms_hold(inbox: Inbox, clock: Clock):
    inbox.put(question(), Terms(price=0.3, seconds=60))
    clock.tick(seconds=50)
    entry = inbox.put(question(), Terms(price=0.5, seconds=60, fallback="ben"))
    assert (entry.terms.price, entry.terms.fallback, entry.asked, entry.deadline) == (0.5, "ben", NOON, NOON + timedelta(seconds=110))
    inbox.answer(question().id, "B7", by="anna")
    assert (await inbox.ask(question(), Terms(price=9.0))).price == 0.5, "an answer has the price at which it was given"


def test_one_answer_each(inbox: Inbox):
    inbox.put(question())
    first = inbox.answer(question().id, "B7", by="anna")
    assert inbox.answer(question().id, "B7 ", by="anna") == first, "said twice, as after a crash, it is one answer"
    for by, text in (("ben", "B7"), ("anna", "B8")):
        with pytest.raises(InputError, match=r"anna answered this on .*that answer stands"):
            inbox.answer(question().id, text, by=by)
    with pytest.raises(InputError, match="no question has the id `beef`"):
        inbox.answer("beef", "B7", by="anna")
    with pytest.raises(InputError, match="who answers"):
        inbox.answer(question().id, "B7", by=" ")


def test_a_grade_must_be_a_grade(inbox: Inbox):
    inbox.put(question(kind="grade"))
    with pytest.raises(InputError, match="right, wrong"):
        inbox.answer(question(kind="grade").id, "maybe", by="anna")
    assert inbox.answer(question(kind="grade").id, "YES", by="anna").answer.answer == "right"


@pytest.mark.parametrize("kind", ["grade", "preference"])
async def test_a_grade_that_comes_later_is_taken_when_asked_again(inbox: Inbox, kind: str):
    asked, answer = question(kind=kind), {"grade": "wrong", "preference": "b"}[kind]
    assert await inbox.ask(asked, Terms(seconds=0)) is None
    assert inbox.answer(asked.id, answer, by="anna").late is False
    assert (await inbox.ask(asked, Terms(seconds=0))).answer == answer


async def test_odd_texts_are_kept(inbox: Inbox):
    asked = question(text="nul\x00 \ud83d \u202e", context="\U0001f600" * 1000)
    advice, _ = await asyncio.gather(inbox.ask(asked), later(lambda: inbox.answer(asked.id, "a\x00 \ud83d'; --", by="änna")))
    assert (advice.answer, advice.by) == ("a \ufffd'; --", "person:änna")
    assert inbox.entry(asked.id).question == asked


def test_answers_are_found_for_memory_and_training(inbox: Inbox):
    for n in range(4):
        inbox.put(question(n, kind="grade" if n == 3 else "advice"))
    for n in (2, 0, 3):
        inbox.answer(question(n, kind="grade" if n == 3 else "advice").id, "1", by="anna")
    assert [entry.question.task_id for entry in inbox.answered()] == ["t2", "t0", "t3"]
    assert [entry.question.task_id for entry in inbox.answered(kind="grade")] == ["t3"]
    assert [entry.answer.answer for entry in inbox.answered(task_id="t0")] == ["1"]
    assert [entry.question.task_id for entry in inbox.entries(State.OPEN)] == ["t1"]
    assert inbox.find(question(1).id[:10])[0].question == question(1)
    assert inbox.find("%") == []


# -- who is asked


async def test_another_expert_is_asked_where_the_person_is_silent_or_declines(inbox: Inbox):
    task = tt.Task(messages=(tt.Message(role="user", content="?"),), reference="B7")
    reference = ReferenceAdvisor([task], price=0.1)
    person = Person(inbox, Terms(price=0.3, seconds=0.1, fallback="reference"), others={"reference": reference})
    assert isinstance(person, Advisor)
    assert (person.name, person.price) == ("person", 0.3)
    advice = await person.ask(question(task_id=task.id))
    assert (advice.by, advice.price) == ("reference", 0.1)
    assert inbox.charged() == (0.0, 0.0)


async def test_one_person_after_the_other(inbox: Inbox):
    ben = Person(inbox, Terms(price=0.2, seconds=5), to="ben")
    anna = Person(inbox, Terms(price=0.3, seconds=5, fallback="ben"), to="anna", others={"ben": ben})
    assert (anna.name, ben.name) == ("person:anna", "person:ben")

    async def people():
        await asyncio.sleep(0.05)
        assert inbox.claim("ben") is None, "it is for Anna"
        inbox.decline(inbox.claim("anna").entry.id, by="anna")
        while (lease := inbox.claim("ben")) is None:  # noqa: ASYNC110 (people look now and then)
            await asyncio.sleep(0.01)
        inbox.answer(lease.entry.id, "B7", by="ben", lease=lease)

    advice, _ = await asyncio.gather(anna.ask(question()), people())
    assert (advice.by, advice.price) == ("person:ben", 0.2)
    assert inbox.charged() == (0.2, 0.0)


def test_a_fallback_that_nobody_knows_is_refused(inbox: Inbox):
    with pytest.raises(InputError, match=r"no expert is called `ben`\. Known: go_on, wait"):
        Person(inbox, Terms(fallback="ben"))
    with pytest.raises(InputError, match="the name of another expert"):
        Terms(fallback=" ")
    assert Terms().fallback == GO_ON


# -- leases


def test_two_experts_get_two_questions_in_the_order_of_asking(inbox: Inbox, clock: Clock):
    for n in range(3):
        inbox.put(question(n), Terms(seconds=30 if n == 0 else None))
    clock.tick(minutes=1)  # nobody waits for the first one any more, perhaps
    leases = [inbox.claim(name) for name in ("anna", "ben", "anna", "ben")]
    assert [lease and lease.entry.question.task_id for lease in leases] == ["t1", "t2", "t0", None]


def test_what_another_has_in_hand_is_refused_until_the_lease_runs_out(inbox: Inbox, clock: Clock):
    inbox.put(question())
    lease = inbox.claim("anna", minutes=10)
    assert inbox.entry(lease.entry.id).holder(clock.now) == "anna"
    with pytest.raises(InputError, match="anna has this question in hand until"):
        inbox.answer(lease.entry.id, "B8", by="ben")
    with pytest.raises(InputError, match="in hand"):
        inbox.decline(lease.entry.id, by="ben")
    clock.tick(minutes=9)
    assert inbox.renew(lease, minutes=10) is not None
    clock.tick(minutes=9)
    assert inbox.claim("ben") is None
    clock.tick(minutes=1)
    taken = inbox.claim("ben", minutes=10)
    assert taken is not None
    assert inbox.renew(lease) is None, "it is Ben's now"
    inbox.release(lease)  # does not give away what is Ben's
    with pytest.raises(InputError, match="ben has this"):
        inbox.answer(lease.entry.id, "B7", by="anna", lease=lease)
    assert inbox.answer(lease.entry.id, "B8", by="ben", lease=taken).answer.by == "person:ben"


def test_a_lease_that_ran_out_unnoticed_does_no_harm(inbox: Inbox, clock: Clock):
    inbox.put(question())
    lease = inbox.claim("anna", minutes=1)
    clock.tick(hours=1)
    assert inbox.answer(lease.entry.id, "B7", by="anna", lease=lease).state is State.ANSWERED


def test_given_back_it_is_free_at_once(inbox: Inbox):
    inbox.put(question())
    inbox.release(inbox.claim("anna"))
    assert inbox.claim("ben", passed_over=[question().id]) is None
    assert inbox.claim("ben").entry.id == question().id


def test_two_sessions_of_one_person_do_not_share_a_question(inbox: Inbox):
    inbox.put(question())
    first = inbox.claim("anna")
    assert inbox.claim("anna") is None
    other = first.model_copy(update={"token": "another session"})
    with pytest.raises(InputError, match="in hand"):
        inbox.answer(question().id, "B7", by="anna", lease=other)
    assert inbox.answer(question().id, "B7", by="anna").answer is not None, "by command it may be answered, by the same person"
    assert inbox.renew(first) is None


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf")])
def test_a_lease_has_a_length(inbox: Inbox, minutes: float):
    with pytest.raises(InputError, match="number of minutes"):
        inbox.claim("anna", minutes)


# -- people as graders


async def test_a_study_run_again_takes_the_grades_that_people_gave_meanwhile(tmp_path: Path):
    task = tt.Task(messages=(tt.Message(role="user", content="Which battery?"),), reference="B7")
    with Inbox(tmp_path / "x.sqlite") as inbox, Store(tmp_path / "x.sqlite") as store:
        grader = PersonGrader(Person(inbox, Terms(seconds=0)), show_reference=True)
        assert isinstance(grader, tt.Grader)
        agent = tt.Agent(model=tt.Scripted("The B7, I think."))

        async def run():
            (experience,) = await Collector(grader, store=store, study="s").run(agent, [Job(task)])
            return experience.grade

        waiting = await run()
        assert (waiting.score, waiting.abstained) == (None, False)
        assert await run() == waiting
        (entry,) = inbox.entries()
        assert (entry.question.kind, entry.question.task_id, entry.question.agent_version) == ("grade", task.id, agent.version)
        for part in ("Which battery?", "The B7, I think.", "[the reference answer]\nB7"):
            assert part in entry.question.context
        inbox.answer(entry.id, "0.5", by="anna", note="not sure enough")
        given = await run()
        assert (given.score, given.words) == (0.5, "not sure enough")
        assert await run() == given


# -- what the database itself refuses


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM inbox_questions",
        "UPDATE inbox_questions SET body = '{}'",
        "UPDATE inbox_answers SET answer = 'B8'",
        "DELETE FROM inbox_answers",
        "INSERT OR REPLACE INTO inbox_answers SELECT * FROM inbox_answers",
        "INSERT INTO inbox_answers SELECT 99, question_id, 'B8', '', 'ben', 0, '' FROM inbox_answers",
        "UPDATE inbox_charges SET price = 0",
        "DELETE FROM inbox_charges",
        "INSERT OR REPLACE INTO inbox_charges SELECT * FROM inbox_charges",
    ],
)
async def test_what_was_asked_answered_and_charged_stays(tmp_path: Path, statement: str):
    with Inbox(tmp_path / "x.sqlite") as inbox:
        inbox.put(question())
        inbox.answer(question().id, "B7", by="anna")
        await inbox.ask(question())
    with sqlite3.connect(tmp_path / "x.sqlite") as raw, pytest.raises(sqlite3.IntegrityError):
        raw.execute(statement)


def test_a_store_from_before_the_inbox_gets_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "x.sqlite"
    with monkeypatch.context() as older:
        older.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS[:1])
        Store(path).close()
    with Inbox(path) as inbox:
        inbox.put(question())
    with Inbox(path) as inbox:
        assert inbox.entries()[0].question == question()


def test_closed_it_says_so(tmp_path: Path):
    inbox = Inbox(tmp_path / "x.sqlite")
    inbox.close()
    inbox.close()
    with pytest.raises(StoreError, match="is closed"):
        inbox.entries()


# -- threads and processes


def test_of_many_threads_that_take_one_question_one_gets_it(place: str):
    with Inbox(place) as asker:
        asker.put(question())
    boxes = [Inbox(place) for _ in range(4)]
    begin = threading.Barrier(8)
    got: list[str] = []

    def take(n: int) -> None:
        begin.wait()
        lease = boxes[n % 4].claim(f"expert {n}")
        if lease is not None:
            got.append(lease.by)

    run_together(take, 8)
    assert len(got) == 1
    for box in boxes:
        box.close()


def test_of_many_answers_at_once_one_stands(place: str):
    boxes = [Inbox(place) for _ in range(4)]
    begin = threading.Barrier(8)
    for turn in range(5):
        boxes[0].put(question(turn))
        refused: list[str] = []

        def answer(n: int, turn: int = turn, refused: list[str] = refused) -> None:
            begin.wait()
            try:
                boxes[n % 4].answer(question(turn).id, f"answer {n}", by=f"expert {n}")
            except InputError:
                refused.append(f"expert {n}")

        run_together(answer, 8)
        kept = boxes[1].entry(question(turn).id).answer
        assert sorted([*refused, kept.by.removeprefix("person:")]) == sorted(f"expert {n}" for n in range(8))
    for box in boxes:
        box.close()


def run_together(work, count: int) -> None:
    threads = [threading.Thread(target=work, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def asking(place: str, numbers: list[int], told: Path) -> None:
    """A process that asks, and writes down what it was told. A rerun asks the same again."""

    async def all_of_them() -> None:
        async def one(n: int) -> None:
            advice = await inbox.ask(question(n), Terms(price=0.25, price_usd=1.0))
            with told.open("a") as file:
                file.write(f"{n} {advice.answer}\n")

        async with asyncio.TaskGroup() as group:
            for n in numbers:
                group.create_task(one(n))

    with Inbox(place) as inbox:
        asyncio.run(all_of_them())


def answering(place: str, name: str, seed: int) -> None:
    """A process of an expert who takes a little time for each."""
    pause = random.Random(seed)
    with Inbox(place) as inbox:
        while True:
            lease = inbox.claim(name, minutes=0.4 / 60)
            time.sleep(pause.uniform(0, 0.03))
            if lease is not None:
                try:
                    inbox.answer(lease.entry.id, f"{lease.entry.question.task_id} by {name}", by=name, lease=lease)
                except InputError:  # the lease ran out on a busy machine, and another one answered
                    continue


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signals of Unix")
def test_fifty_askers_and_five_experts_are_killed_at_random_and_nothing_is_lost(place: str, tmp_path: Path):
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tutelage.inbox", "tutelage.practice"])
    Inbox(place).close()
    chance = random.Random(7)
    shares = [list(range(first, first + 10)) for first in range(0, 50, 10)]

    def asker(n: int):
        return processes.Process(target=asking, args=(place, shares[n], tmp_path / f"told {n}"), daemon=True)

    def expert(n: int):
        return processes.Process(target=answering, args=(place, f"expert {n}", chance.randrange(1 << 30)), daemon=True)

    running = {**{("asker", n): asker(n) for n in range(5)}, **{("expert", n): expert(n) for n in range(5)}}
    for process in running.values():
        process.start()
    kills, ended = Counter(), time.monotonic() + 60
    while any(running["asker", n].is_alive() or running["asker", n].exitcode != 0 for n in range(5)):
        assert time.monotonic() < ended, "askers still wait"
        time.sleep(chance.uniform(0.02, 0.12))
        which = chance.choice(list(running))
        if kills.total() < 16 and running[which].is_alive():
            os.kill(running[which].pid, signal.SIGKILL)
            running[which].join()
            assert running[which].exitcode == -signal.SIGKILL or which[0] == "asker"
            kills[which[0]] += 1
        for (kind, n), process in list(running.items()):
            if not process.is_alive() and process.exitcode != 0:  # as a person would, the same command again
                assert process.exitcode == -signal.SIGKILL, f"{kind} {n} failed"
                running[kind, n] = asker(n) if kind == "asker" else expert(n)
                running[kind, n].start()
    for n in range(5):
        running["expert", n].kill()
        running["expert", n].join()
    assert min(kills["asker"], kills["expert"]) > 0, kills
    with Inbox(place) as inbox:
        kept = {entry.question.task_id: entry.answer.answer for entry in inbox.answered()}
        assert len(inbox.entries()) == 50
        assert inbox.entries(State.OPEN) == []
        assert inbox.charged() == (50 * 0.25, 50 * 1.0)
    assert sorted(kept) == sorted(f"t{n}" for n in range(50))
    for n, share in enumerate(shares):
        told = {line for line in (tmp_path / f"told {n}").read_text().splitlines() if line}
        assert told == {f"{number} {kept[f't{number}']}" for number in share}, "what an asker was told before it was killed still holds"
