"""Streams of sessions with a pupil that knows only what its prompt really contains.

Doormen of different cities each want a word. The pupil says it where an entry of the memory names the word of the city at hand; else it
seeks advice, writes down what it was told, and says that. So each city costs one piece of advice, whatever the order of the doors.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tutelage as tt
from tutelage.budget import Budget
from tutelage.errors import BudgetExceeded, InputError
from tutelage.executor import AgileExecutor
from tutelage.models import scripted
from tutelage.streams import Block, blocks, load_stream, paid, parts, replay, run_stream, save_stream, shuffled

WORDS = {"Paris": "bleu", "Oslo": "fjord", "Quito": "sol", "Kyoto": "sakura"}
PRICE = 0.3


def task(city: str, door: int = 1, **fields) -> tt.Task:
    text = f"The doorman of {city} asks for the word at door {door}. What do you say?"
    return tt.Task(messages=(tt.Message(role="user", content=text),), **{"reference": WORDS[city], **fields})


TASKS = [task(city, door) for city in WORDS for door in (1, 2, 3)]


def pupil(messages, tools=(), sampling=None) -> str:
    """One action, chosen from what stands in the prompt alone; at a temperature it asks now and then although it knows."""
    prompt, last = "\n".join(message.text for message in messages), messages[-1].text
    city = re.findall(r"(?<!Question: )The doorman of (\w+) asks", prompt)[-1]
    known = dict(re.findall(r"In (\w+) say (\w+)", prompt))
    if told := re.match(r"seek_advice: (\w+)$", last):
        return f"reflect In {city} say {told[1]}"
    if last.startswith("seek_advice:"):
        return "submit_answer mellon"
    if last.startswith("reflect:"):
        return "update_memory"
    restless = sampling is not None and sampling.temperature > 0 and random.Random(sampling.seed).random() < 0.5
    sure = city in known and (last.startswith("update_memory:") or not restless)
    return f"submit_answer {known[city]}" if sure else "seek_advice"


def agent(reply=pupil, sampling=None, knowledge=None, **settings) -> tt.Agent:
    executor = AgileExecutor(price=PRICE, **settings)
    return tt.Agent(model=tt.Scripted(reply), sampling=sampling or tt.Sampling(), knowledge=knowledge or tt.Knowledge(), executor=executor)


def collector(tasks=TASKS, **fields) -> tt.Collector:
    return tt.Collector(tt.Exact(), advisor=tt.ReferenceAdvisor(tasks), **fields)


def timeless(run) -> list:
    """All of a stream but what a clock says."""
    return [(session.place, session.memory_id, session.writes, bare(session.experience)) for session in run.sessions]


def bare(experience: tt.Experience) -> dict:
    data = experience.model_dump(mode="json", exclude={"when"})

    def without_clocks(part):
        if isinstance(part, dict):
            return {key: without_clocks(value) for key, value in part.items() if key not in ("seconds", "when")}
        return [without_clocks(item) for item in part] if isinstance(part, list) else part

    return without_clocks(data)


# The stream


async def test_each_city_is_asked_about_once_and_the_rest_is_remembered():
    run = await run_stream(collector(), agent(), shuffled(TASKS, 0))
    seen: set[str] = set()
    for session in run.sessions:
        city = re.search(r"of (\w+) asks", session.task.text)[1]
        assert session.asked == (city not in seen)
        assert session.score == 1.0
        assert session.reward == (0.7 if session.asked else 1.0)
        assert [entry.messages[-1].text for entry in session.writes] == ([] if city in seen else [f"In {city} say {WORDS[city]}"])
        seen.add(city)
    assert sum(session.asked for session in run.sessions) == 4
    assert len(run.memory.exemplars) == 4
    assert [change.by for change in run.memory.history] == ["session"] * 4
    assert [change.episodes[0] for change in run.memory.history] == [x.experience.episode.ref for x in run.sessions if x.writes]


async def test_every_session_is_run_by_the_agent_that_knows_its_memory():
    one = agent()
    run = await run_stream(collector(), one, shuffled(TASKS, 3))
    snapshots = list(run.snapshots())
    assert snapshots[0] == run.start == one.knowledge
    assert snapshots[-1] == run.memory
    for session, knowledge in zip(run.sessions, snapshots[:-1], strict=True):
        assert session.memory_id == knowledge.id
        assert session.experience.episode.agent_version == one.but(knowledge=knowledge).version
        assert run.memory_at(session.place) == knowledge
    assert one.knowledge == tt.Knowledge()  # nothing is changed in place


async def test_a_session_is_not_shown_its_own_case():
    """The same question a second time, as another task: it has to ask again, but a neighbour need not."""
    again, neighbour = task("Oslo", 1, kind="again"), task("Oslo", 2)
    assert again.input_id == TASKS[3].input_id
    assert again.id != TASKS[3].id
    order = [TASKS[3], again, neighbour]
    run = await run_stream(collector([*TASKS, again]), agent(), order)
    assert [session.asked for session in run.sessions] == [True, True, False]
    assert not set(run.sessions[1].experience.episode.shown) & {entry.id for entry in run.sessions[0].writes}
    assert set(run.sessions[2].experience.episode.shown) & {entry.id for entry in run.sessions[0].writes}


async def test_memory_begins_with_what_the_agent_knows_or_is_given():
    first = await run_stream(collector(), agent(), TASKS)
    known = await run_stream(collector(), agent(knowledge=first.memory), shuffled(TASKS[:3], 1))
    given_ = await run_stream(collector(), agent(), shuffled(TASKS[:3], 1), memory=first.memory)
    # door 1 of Paris was asked about before; its own case is not shown to it, and nothing else in memory is about Paris
    assert [session.asked for session in known.sessions] == [session.task.id == TASKS[0].id for session in known.sessions]
    assert timeless(known) == timeless(given_)


async def test_no_advice_and_a_wrong_expert_are_data():
    run = await run_stream(tt.Collector(tt.Exact()), agent(), TASKS[:2])
    assert [(session.asked, session.reward, session.writes) for session in run.sessions] == [(False, 0.0, ())] * 2
    wrong = tt.Collector(tt.Exact(), advisor=tt.ReferenceAdvisor(TASKS, error_rate=1.0))
    run = await run_stream(wrong, agent(), TASKS[:2])
    assert run.sessions[0].reward == pytest.approx(-0.3)  # asked, told wrong, and paid for it


async def test_an_agent_without_an_executor_is_refused():
    with pytest.raises(InputError, match="executor"):
        await run_stream(collector(), tt.Agent(model=tt.Scripted(pupil)), TASKS)


async def test_advice_only_in_the_first_sessions():
    run = await run_stream(collector(), agent(advice_first=2), [task(city) for city in WORDS])
    assert [session.asked for session in run.sessions] == [True, True, False, False]
    later = await run_stream(collector(), agent(advice_first=2), [task(city) for city in WORDS][1:], first=1)
    assert [session.asked for session in later.sessions] == [True, False, False]


async def test_streams_side_by_side_do_not_touch_each_other():
    shared = collector()
    drawn = tt.Sampling(temperature=1.0)
    alone = [await run_stream(collector(), agent(sampling=drawn), shuffled(TASKS, n), attempt=n) for n in range(3)]
    together = await asyncio.gather(*(run_stream(shared, agent(sampling=drawn), shuffled(TASKS, n), attempt=n) for n in range(3)))
    assert [timeless(run) for run in together] == [timeless(run) for run in alone]


async def test_a_practice_runs_streams_too_and_counts_them():
    practice = tt.Practice(TASKS, collector(), seed=5)
    run = await run_stream(practice, agent(), TASKS)
    assert run.seed == 5
    assert {session.experience.episode.seed for session in run.sessions} == {5}
    assert practice.cost.calls == 4 * 4 + 8
    assert practice.seed == 5
    other = await run_stream(practice, agent(), TASKS, seed=6)
    assert {session.experience.episode.seed for session in other.sessions} == {6}
    assert practice.seed == 5


async def test_a_failed_model_call_writes_nothing_and_is_tried_again(tmp_path):
    """The third turn of the first session fails once: run again, the stream is that of a model that never failed."""
    failing = {"left": 1}

    def moody(messages, tools=(), sampling=None):
        reply = pupil(messages, tools, sampling)
        if reply == "submit_answer fjord" and messages[-1].text.startswith("update_memory") and failing["left"]:
            failing["left"] -= 1
            return scripted.timeout()
        return reply

    order = [TASKS[3], TASKS[4]]
    store = tt.Store(tmp_path / "x.sqlite")
    first = await run_stream(collector(store=store), agent(moody), order)
    assert first.sessions[0].score is None
    assert first.sessions[0].writes == ()  # although it had got as far as update_memory
    assert first.sessions[1].asked
    again = await run_stream(collector(store=store), agent(moody), order)
    assert timeless(again) == timeless(await run_stream(collector(), agent(), order))


# Continuing, splitting, repeating


async def test_running_again_asks_nothing(tmp_path):
    store = tt.Store(tmp_path / "x.sqlite")
    one = agent()
    first = await run_stream(collector(store=store), one, TASKS)
    calls = one.model.calls
    assert await run_stream(collector(store=store), one, TASKS) == first
    assert one.model.calls == calls == 24


async def test_interrupted_by_a_budget_it_goes_on_where_it_was(tmp_path):
    store = tt.Store(tmp_path / "x.sqlite")
    one = agent()
    with pytest.raises(BudgetExceeded):
        await run_stream(collector(store=store, budget=Budget(calls=10)), one, shuffled(TASKS, 1))
    run = await run_stream(collector(store=store, budget=Budget(calls=100)), one, shuffled(TASKS, 1))
    assert timeless(run) == timeless(await run_stream(collector(), agent(), shuffled(TASKS, 1)))
    assert one.model.calls == 24  # those of a session that was cut are kept replies


@pytest.mark.parametrize("place", [0, 3, 11])
async def test_a_session_comes_out_again_from_its_own_memory(place):
    one = agent(sampling=tt.Sampling(temperature=0.9))
    source = collector()
    run = await run_stream(source, one, shuffled(TASKS, 2), seed=7)
    calls, stored = one.model.calls, len(list(source.store.experiences()))
    again = await replay(run, place, source)
    assert bare(again) == bare(run.sessions[place].experience)
    assert one.model.calls > calls  # it was really run
    assert len(list(source.store.experiences())) == stored
    other = await replay(await run_stream(collector(), one, shuffled(TASKS, 2), seed=8), place, source)
    assert bare(other) != bare(again)
    with pytest.raises(InputError, match="0 to 11, and no 12"):
        await replay(run, 12, source)


SCRIPT = """
import asyncio, json, sys, time
sys.path.insert(0, {tests!r})
from test_streams import *
def slow(messages, tools=(), sampling=None):
    time.sleep({delay})
    return pupil(messages, tools, sampling)
async def main():
    part = json.loads({part!r})
    drawn = tt.Sampling(temperature=0.9)
    known = tt.Knowledge.model_validate_json(open(part["memory"]).read()) if part.get("memory") else None
    store = tt.Store({store!r})
    order = shuffled(TASKS, 4)[part["first"]:part["stop"]]
    run = await run_stream(collector(store=store), agent(slow, sampling=drawn), order, seed=1, memory=known, first=part["first"])
    open({out!r}, "w").write(json.dumps([[s.place, s.memory_id, [e.id for e in s.writes], bare(s.experience)] for s in run.sessions]))
    open({out!r} + ".memory", "w").write(run.memory.model_dump_json())
    print("done")
asyncio.run(main())
"""


def start(store: Path, out: Path, *, first=0, stop=12, memory="", delay=0.0) -> subprocess.Popen:
    part = json.dumps({"first": first, "stop": stop, "memory": str(memory)})
    code = SCRIPT.format(tests=str(Path(__file__).parent), store=str(store), out=str(out), part=part, delay=delay)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> None:
    assert process.communicate(timeout=120)[0] == "done\n"


def test_whole_or_split_over_processes_a_stream_is_the_same(tmp_path):
    """In one process; in two over one store; in two that share nothing but the memory in between; and killed, then run again."""
    finish(start(tmp_path / "a.sqlite", tmp_path / "whole"))
    whole = json.loads((tmp_path / "whole").read_text())

    finish(start(tmp_path / "b.sqlite", tmp_path / "half", stop=5))
    finish(start(tmp_path / "b.sqlite", tmp_path / "rest"))
    assert json.loads((tmp_path / "half").read_text()) == whole[:5]
    assert json.loads((tmp_path / "rest").read_text()) == whole

    finish(start(tmp_path / "c.sqlite", tmp_path / "second", first=5, memory=tmp_path / "half.memory"))
    assert json.loads((tmp_path / "second").read_text()) == whole[5:]
    exemplars = [json.loads((tmp_path / name).read_text())["exemplars"] for name in ("whole.memory", "second.memory")]
    assert exemplars[0] == exemplars[1]

    killed = start(tmp_path / "d.sqlite", tmp_path / "never", delay=0.05)
    deadline = time.monotonic() + 60
    while stored(tmp_path / "d.sqlite") < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert 3 <= stored(tmp_path / "d.sqlite") < 12
    finish(start(tmp_path / "d.sqlite", tmp_path / "again"))
    assert json.loads((tmp_path / "again").read_text()) == whole
    assert stored(tmp_path / "d.sqlite") == 12


def stored(path: Path) -> int:
    if not path.exists():
        return 0
    with tt.Store(path) as store:
        return sum(1 for _ in store.experiences())


# Order, blocks


def test_the_order_depends_on_the_seed_and_the_tasks_alone():
    assert shuffled(TASKS, 0) == shuffled(reversed(TASKS), 0)
    assert shuffled(TASKS, 0) != shuffled(TASKS, 1)
    assert sorted(task.id for task in shuffled(TASKS, 0)) == sorted(task.id for task in TASKS)
    part = [one for one in shuffled(TASKS, 0) if one in TASKS[:5]]
    assert tuple(part) == shuffled(TASKS[:5], 0)


@given(st.integers(0, 200), st.integers(0, 20))
@settings(max_examples=60)
def test_parts_cover_all_places_evenly(total, n):
    found = parts(total, n)
    assert [place for part in found for place in part] == (list(range(total)) if n else [])
    lengths = [len(part) for part in found]
    assert len(found) == min(n, total)
    assert not lengths or (min(lengths) > 0 and max(lengths) - min(lengths) <= 1)


async def test_blocks_by_hand():
    """Paris, Paris, Paris, Oslo, Oslo: asked at places 0 and 3."""
    run = await run_stream(collector(), agent(), TASKS[:5], first=10)
    assert blocks(run, 2) == (
        Block(first=10, sessions=3, graded=3, rate=1 / 3, score=1.0, total=0.9),
        Block(first=13, sessions=2, graded=2, rate=0.5, score=1.0, total=0.85),
    )
    assert [block.sessions for block in blocks(run, 99)] == [1] * 5
    assert sum(paid(session.experience) for session in run.sessions) == pytest.approx(0.6)


async def test_ungraded_sessions_are_not_zero():
    def moody(one: tt.Task, episode: tt.Episode):
        return None if "door 1" in one.text else float(episode.answer == one.reference)

    run = await run_stream(tt.Collector(tt.FunctionGrader(moody), advisor=tt.ReferenceAdvisor(TASKS)), agent(), TASKS[:3])
    (block,) = blocks(run, 1)
    assert (block.sessions, block.graded, block.rate, block.score, block.total) == (3, 2, 0.0, 1.0, 1.0)
    assert run.sessions[0].reward is None
    (block,) = blocks(run.sessions[:1], 1)
    assert (block.graded, block.rate, block.total) == (0, None, None)


# Files


async def test_a_stream_is_kept_as_json_lines_and_read_back(tmp_path):
    source, one = collector(), agent()
    run = await run_stream(source, one, shuffled(TASKS, 0), seed=2)
    save_stream(run, tmp_path / "streams" / "agile.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "streams" / "agile.jsonl").read_text().splitlines()]
    assert lines[0]["tasks"] == [session.task.id for session in run.sessions]
    assert (lines[0]["agent"], lines[0]["memory"], lines[0]["seed"]) == (one.version, run.start.id, 2)
    assert list(lines[1]) == ["place", "task", "memory", "episode", "asked", "score", "reward", "writes"]
    assert lines[1]["episode"] == run.sessions[0].experience.episode.ref
    calls = one.model.calls
    assert load_stream(tmp_path / "streams" / "agile.jsonl", one, TASKS, source) == run
    assert one.model.calls == calls


async def test_what_a_stream_file_cannot_be_read_with_is_said(tmp_path):
    source, one, path = collector(), agent(), tmp_path / "agile.jsonl"
    save_stream(await run_stream(source, one, TASKS), path)
    for tasks, who, where, says in [
        (TASKS[:3], one, source, "agile.jsonl:5: field `task`"),
        (TASKS, agent(reply=pupil, advice_first=3), source, "another agent"),
        (TASKS, one, collector(), "agile.jsonl:2: field `episode`: the store does not hold"),
    ]:
        with pytest.raises(InputError, match=says):
            load_stream(path, who, tasks, where)
    lines = path.read_text().splitlines()
    for text, says in [
        ("", "agile.jsonl:1"),
        ("\n".join([*lines[:3], "{broken", *lines[4:]]), "agile.jsonl:4"),
        ("\n".join([lines[0], lines[1].replace('"place": 0', '"place": "x"')]), "agile.jsonl:2: field `place`"),
        ("\n".join([lines[0], lines[1], lines[2].replace(json.loads(lines[2])["memory"], "0" * 16)]), "agile.jsonl:3: field `episode`"),
    ]:
        path.write_text(text)
        with pytest.raises(InputError, match=says):
            load_stream(path, one, TASKS, source)
    with pytest.raises(InputError, match="RUN/streams"):
        load_stream(tmp_path / "nowhere.jsonl", one, TASKS, source)
