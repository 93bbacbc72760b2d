"""Learning from a stream: what it stores, and how it comes back when the world changes."""

from __future__ import annotations

import random
from itertools import pairwise
from statistics import fmean

import pytest

import tutelage as tt
from tutelage.errors import InputError
from tutelage.history import add
from tutelage.knowledge import Insight
from tutelage.learners.stream import Stream, fall_began

SUBJECTS = ("billing", "shipping", "returns", "access")
DESKS = ("north", "south", "east", "west")
NOTHING = tt.Knowledge()
FILLERS = [f"{a}{b}" for a in "abcdefgh" for b in "klmnopq"]


def tickets(n: int, flip: int, seed: int, kinds: bool = False) -> list[tt.Task]:
    """Tickets of four subjects, each for one desk; from number `flip` on each subject belongs to the next desk."""
    drawn = random.Random(seed)
    found = []
    for number in range(n):
        subject = drawn.randrange(4)
        words = [f"{SUBJECTS[subject]}{letter}" for letter in drawn.sample("abcdefgh", 3)] + drawn.sample(FILLERS, 3)
        text = " ".join(drawn.sample(words, 6))
        desk = DESKS[(subject + (number >= flip)) % 4]
        kind = SUBJECTS[subject] if kinds else None
        found.append(tt.Task(messages=(tt.Message(role="user", content=text),), reference=desk, kind=kind))
    return found


def follower(messages, tools, sampling) -> str:
    """Answers as the most similar case in the prompt was answered; knows nothing else."""
    asked = set(messages[-1].text.split())
    best, answer = -1, "no idea"
    for question, reply in pairwise(messages):
        if question.role == "user" and reply.role == "assistant" and len(asked & set(question.text.split())) >= best:
            best, answer = len(asked & set(question.text.split())), reply.text
    return answer


async def run(tasks, learner: Stream, reply=follower, knowledge: tt.Knowledge = NOTHING, **options):
    training = tt.Practice(tasks, tt.Collector(tt.Exact(), **options))
    learned = await learner.learn(tt.Agent(model=tt.Scripted(reply), knowledge=knowledge), training)
    return learned, training


@pytest.mark.parametrize("seed", range(3))
async def test_after_the_rule_flips_it_recovers_and_a_memory_without_decay_does_not(seed: int):
    """20 waves, the flip after 10. Level before: the last four waves before it; after: waves 4 to 9 after it."""
    tasks = tickets(160, 80, seed)
    scores = {}
    for decay in (True, False):
        _, training = await run(tasks, Stream(decay=decay))
        scores[decay] = training.facts["stream_scores"]
        assert training.cost.calls == 160
        assert bool(training.facts["stream_changes"]) == decay
    assert scores[True][:10] == scores[False][:10]  # nothing is forgotten while nothing changes
    before = fmean(scores[True][6:10])
    assert before > 0.8
    assert max(scores[True][10], scores[False][10]) < 0.2
    assert fmean(scores[True][14:]) > before - 0.1
    assert fmean(scores[False][14:]) < before - 0.4


async def test_only_the_kind_whose_scores_fell_is_forgotten():
    calm, changing = tickets(400, 400, 1, kinds=True), tickets(400, 240, 1, kinds=True)
    tasks = [new if new.kind == "billing" else old for old, new in zip(calm, changing, strict=True)]
    learned, training = await run(tasks, Stream())
    assert len(training.facts["stream_changes"]) == 1
    kept = [case.kind for case in learned.knowledge.exemplars]
    assert kept.count("billing") < sum(task.kind == "billing" for task in tasks) * 0.7
    assert kept.count("access") > sum(task.kind == "access" for task in tasks) * 0.9


async def test_without_kinds_the_cases_whose_solution_went_wrong_are_forgotten():
    """Only billing moves, from north to south; nobody says which ticket is about what."""
    calm, changing = tickets(320, 320, 1, kinds=True), tickets(320, 160, 1, kinds=True)
    mixed = [new if new.kind == "billing" else old for old, new in zip(calm, changing, strict=True)]
    tasks = [task.model_copy(update={"kind": None}) for task in mixed]
    learned, training = await run(tasks, Stream())
    grown, stuck = await run(tasks, Stream(decay=False))
    said = [case.messages[-1].text for case in learned.knowledge.exemplars]
    before = [case.messages[-1].text for case in grown.knowledge.exemplars]
    assert said.count("north") < 0.5 * before.count("north")
    assert said.count("east") > 0.9 * before.count("east")
    assert fmean(training.facts["stream_scores"][-10:]) > 0.95
    assert fmean(stuck.facts["stream_scores"][-10:]) < 0.9


async def test_a_rule_that_experience_contradicts_goes():
    """The student obeys the rule in its prompt; the world stops obeying it half-way."""

    def reply(messages, tools, sampling):
        return "north" if "Send all to north" in messages[0].text else follower(messages, tools, sampling)

    tasks = [
        tt.Task(
            messages=(tt.Message(role="user", content=f"ticket {n} about {FILLERS[n % 50]}"),), reference="north" if n < 80 else "south"
        )
        for n in range(320)
    ]
    rule = Insight(text="Send all to north")
    learned, training = await run(tasks, Stream(), reply, add(tt.Knowledge(), [rule], by="expel"))
    assert learned.knowledge.insights == ()
    assert fmean(training.facts["stream_scores"][-5:]) > 0.9
    assert any("contradicted" in change.note for change in learned.knowledge.history if change.entry_id == rule.id)
    still, stuck = await run(tasks, Stream(decay=False), reply, add(tt.Knowledge(), [rule], by="expel"))
    assert still.knowledge.insights == (rule,)
    assert stuck.facts["stream_scores"][-1] == 0
    mine, _ = await run(tasks, Stream(), reply, add(tt.Knowledge(), [rule], by="person"))
    assert mine.knowledge.insights == (rule,)


async def test_the_newer_of_two_near_duplicates_stays():
    tasks = [
        tt.Task(messages=(tt.Message(role="user", content=text),), reference=desk)
        for text, desk in (("where is the red car", "north"), ("Where is the red car?", "south"), ("where is the blue van", "east"))
    ]
    learned, _ = await run(tasks, Stream(wave=1, max_similarity=0.9))
    assert [case.messages[-1].text for case in learned.knowledge.exemplars] == ["south", "east"]
    assert "superseded by the newer" in next(change.note for change in learned.knowledge.history if change.action == "remove")
    grown, _ = await run(tasks, Stream(wave=1, max_similarity=0.9, decay=False))
    assert len(grown.knowledge.exemplars) == 3


async def test_sources_windows_and_what_is_not_graded():
    tasks = tickets(24, 24, 3)
    both, _ = await run(tasks, Stream())
    own, _ = await run(tasks, Stream(source="success"))
    assert {case.origin for case in both.knowledge.exemplars} == {"success", "reference"}
    assert own.knowledge.exemplars == ()  # who knows nothing has no success to learn from
    newest, _ = await run(tasks, Stream(decay=False, window=5))
    assert [case.task_id for case in newest.knowledge.exemplars] == [task.id for task in tasks[-5:]]
    nothing = tt.Practice(tasks, tt.Collector(tt.FunctionGrader(lambda task, episode: None)))
    learned = await Stream().learn(tt.Agent(model=tt.Scripted(follower)), nothing)
    assert (learned.knowledge.entries, nothing.facts["stream_scores"]) == ((), [None, None, None])


async def test_a_window_spares_what_people_hold():
    case = (await run(tickets(1, 1, 9), Stream()))[0].knowledge.exemplars[0]
    learned, _ = await run(tickets(24, 24, 3), Stream(window=2), knowledge=add(tt.Knowledge(), [case], by="person"))
    assert len(learned.knowledge.exemplars) == 3
    assert learned.knowledge.exemplars[0] == case


async def test_it_does_not_depend_on_timing_and_continues_what_was_interrupted():
    tasks = tickets(40, 20, 2)
    versions = {(await run(tasks, Stream(), concurrency=n))[0].version for n in (1, 16)}
    assert len(versions) == 1
    store = tt.Store(":memory:")
    with pytest.raises(tt.InputError):
        await run(tasks, Stream(), reply=[*["north"] * 10], store=store)  # the script ends in the second wave
    pupil = tt.Scripted(lambda *_: "north")
    training = tt.Practice(tasks, tt.Collector(tt.Exact(), store=store))
    await Stream().learn(tt.Agent(model=pupil), training)
    assert pupil.calls == 30


async def test_an_empty_stream_teaches_nothing():
    learned, training = await run([], Stream())
    assert (learned.knowledge.entries, training.facts["stream_scores"]) == ((), [])


def test_a_fall_is_found_where_it_began_and_chance_is_no_fall():
    good, bad = [1.0] * 8, [0.0] * 8
    assert fall_began([good] * 6 + [bad]) == 6
    assert fall_began([good] * 6 + [bad] * 3) == 6
    assert fall_began([bad] * 6 + [good] * 6) is None
    assert fall_began([good] * 6 + [[0.0]]) is None
    assert fall_began([]) is fall_began([good]) is None
    drawn = random.Random(0)
    alarms = 0
    for _ in range(100):
        waves: list[list[float]] = []
        for _ in range(25):
            waves.append([float(drawn.random() < 0.7) for _ in range(8)])
        alarms += fall_began(waves) is not None
    assert alarms <= 5


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"choose": "fixed"}, "fixed cases would always be the oldest"),
        ({"choose": "magic"}, "text, meaning or fused"),
        ({"source": "reference"}, "success or both"),
        ({"k": 0}, "k must be"),
        ({"wave": 0}, "wave must be"),
        ({"wave": 2.5}, "wave must be"),
        ({"window": 0}, "window must be"),
        ({"half_life": 0}, "half-life"),
        ({"floor": 1}, "floor must lie"),
    ],
)
def test_wrong_options(options: dict, match: str):
    with pytest.raises(InputError, match=match):
        Stream(**options)


def test_it_is_a_learner_whose_settings_are_told():
    assert isinstance(Stream(), tt.Learner)
    assert Stream().described() != Stream(decay=False).described()
    assert Stream().described()["stream"]["wave"] == 8
    assert Stream().forecast_calls(10) == 10
