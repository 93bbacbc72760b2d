"""Studies of agents that ask for advice: tested as streams, reported with advice rate and total score, from Python and from YAML.

The pupil of test_streams seeks advice once for each of four cities and remembers the word.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

import tutelage as tt
from test_streams import PRICE, WORDS, agent, pupil, task
from tutelage.errors import InputError
from tutelage.executor import AgileExecutor, AskWhen, action
from tutelage.inbox import Inbox, State
from tutelage.learner import Need
from tutelage.streams import load_stream, replay
from tutelage.study.advice import advice_reports
from tutelage.study.advised import advice_tables
from tutelage.study.advisors import build_advisor
from tutelage.study.config import load_agent, load_study
from tutelage.study.executors import build_executor, executor_changes, executor_with
from tutelage.study.plots import make_plots
from tutelage.study.render_html import render_html
from tutelage.study.render_terminal import print_report
from tutelage.study.report import make_report, read_report
from tutelage.study.results import ArmResult, Report, TestRow
from tutelage.study.statistics import wilson

TRAIN = [task(city, door) for city in WORDS for door in (101, 102)]
TEST = [task(city, door) for city in WORDS for door in range(1, 7)]
"""24 doors: advice is needed for 4 of them."""
NO_MEMORY = ("seek_advice", "submit_answer")


def study(**changes) -> tt.Study:
    fields = {
        "name": "doors",
        "agent": tt.Agent(model=tt.Scripted("mellon", name="scripted:mellon")),
        "train": TRAIN,
        "test": TEST,
        "grader": tt.Exact(),
        "advisor": tt.ReferenceAdvisor([*TRAIN, *TEST]),
        "agents": {"remembers": agent(), "forgets": agent(forgetful, actions=NO_MEMORY, opening=())},
    }
    return tt.Study(**{**fields, **changes})


def forgetful(messages, tools=(), sampling=None) -> str:
    told = re.match(r"seek_advice: (\w+)$", messages[-1].text)
    return f"submit_answer {told[1]}" if told else "seek_advice"


# The report


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> tuple[Path, Report]:
    """The study as it is, run once: its folder and its report."""
    folder = tmp_path_factory.mktemp("doors")
    return folder, study(out=folder).run()


def test_an_arm_with_a_memory_is_tested_as_a_stream_and_pays_for_advice(ran):
    folder, report = ran
    arms = {arm.name: arm for arm in report.arms}
    plain, remembers, forgets = arms["baseline"].advice, arms["remembers"].advice, arms["forgets"].advice
    assert (plain.price, plain.rate, plain.accuracy, plain.total) == (None, 0.0, 0.0, 0.0)
    assert (remembers.price, remembers.rate, remembers.accuracy) == (PRICE, pytest.approx(4 / 24), 1.0)
    assert (forgets.rate, forgets.accuracy, forgets.total) == (1.0, 1.0, pytest.approx(0.7))
    assert remembers.total == pytest.approx(1 - PRICE * 4 / 24)
    assert arms["remembers"].score == remembers.total  # what arms are compared by is what is left of the score
    assert arms["remembers"].ci == remembers.total_ci
    assert arms["remembers"].delta == pytest.approx(0.95)
    assert remembers.rate_ci == pytest.approx((0.0668, 0.3585), abs=1e-4)  # Wilson, 4 of 24
    assert remembers.accuracy_ci == pytest.approx((0.8620, 1.0), abs=1e-4)  # Wilson, 24 of 24
    assert {cheap.name: cheap.score for cheap in report.cheap} == {"constant": 0.25, "nearest": 1.0, "ask": pytest.approx(0.7)}
    assert [(block.first, block.sessions) for block in remembers.blocks] == [(0, 12), (12, 12)]
    assert remembers.blocks[0].rate == pytest.approx(4 / 12)  # every city stands in the first half under this seed
    assert remembers.blocks[1].rate == 0.0
    assert [block.rate for block in forgets.blocks] == [1.0, 1.0]
    assert remembers.blocks[0].total == pytest.approx(1 - PRICE / 3)
    assert "`remembers` got advice on 16.7% of the tasks (95% interval 6.7% to 35.9%) at a price of 0.3" in report.recommendation
    assert report.warnings == ()
    assert read_report(folder).arms == report.arms


async def test_running_again_asks_nobody_and_says_the_same(tmp_path):
    asked = []

    class Counting(tt.ReferenceAdvisor):
        async def ask(self, question):
            asked.append(question)
            return await super().ask(question)

    advisor = Counting([*TRAIN, *TEST])
    first = await study(out=tmp_path, advisor=advisor).arun()
    assert len(asked) == 4 + 24 + 24  # remembers, forgets, and the baseline that always asks
    again = study(out=tmp_path, advisor=advisor)
    assert await again.arun() == first
    assert len(asked) == 4 + 24 + 24 + 24
    assert again.agents["remembers"].model.calls == 0


async def test_the_streams_are_kept_and_their_sessions_can_be_run_again(tmp_path):
    one = study(out=tmp_path, seeds=(0, 3))
    await one.arun()
    assert sorted(path.name for path in (tmp_path / "streams").iterdir()) == ["remembers-seed0.jsonl", "remembers-seed3.jsonl"]
    with tt.Store(tmp_path / "experience.sqlite") as store:
        source = one.collector(store)
        run = load_stream(tmp_path / "streams" / "remembers-seed3.jsonl", one.agents["remembers"], TEST, source)
        assert (run.seed, len(run.sessions), sum(session.asked for session in run.sessions)) == (3, 24, 4)
        again = await replay(run, 5, source)
    assert again.episode.answer == run.sessions[5].experience.episode.answer
    assert again.episode.agent_version == run.sessions[5].experience.episode.agent_version
    other = [json.loads(line)["task"] for line in (tmp_path / "streams" / "remembers-seed0.jsonl").read_text().splitlines()[1:]]
    assert other != [session.task.id for session in run.sessions]  # each seed has an order of its own


async def test_seeds_are_averaged_task_by_task():
    """Under two seeds each task counts once: the rate is 8 of 48 episodes over 24 tasks, the interval that of 24 tasks."""
    report = await study(seeds=(0, 1)).arun()
    advice = {arm.name: arm.advice for arm in report.arms}
    assert advice["remembers"].rate == pytest.approx(8 / 48)
    assert next(arm.n for arm in report.arms if arm.name == "remembers") == 24
    assert sum(block.sessions for block in advice["remembers"].blocks) == 24


async def test_an_erring_advisor_caps_the_agent_and_always_asking():
    advisor = tt.ReferenceAdvisor([*TRAIN, *TEST], error_rate=0.25, seed=1)
    report = await study(advisor=advisor).arun()
    ask = next(cheap for cheap in report.cheap if cheap.name == "ask")
    forgets = next(arm for arm in report.arms if arm.name == "forgets")
    assert ask.score == pytest.approx(forgets.score)
    assert 0.2 < ask.score < 0.7


async def test_several_prices_have_a_baseline_each():
    dear = tt.Agent(model=tt.Scripted(pupil), executor=AgileExecutor(price=0.5))
    report = await study(agents={"cheap advice": agent(), "dear advice": dear}).arun()
    cheap = {one.name: one.score for one in report.cheap}
    assert list(cheap) == ["constant", "nearest", "ask at 0.3", "ask at 0.5"]
    assert (cheap["ask at 0.3"], cheap["ask at 0.5"]) == (pytest.approx(0.7), pytest.approx(0.5))
    totals = {arm.name: arm.score for arm in report.arms}
    assert totals["cheap advice"] == pytest.approx(1 - 0.3 * 4 / 24)
    assert totals["dear advice"] == pytest.approx(1 - 0.5 * 4 / 24)


async def test_without_anybody_to_ask_the_report_warns():
    report = await study(advisor=None).arun()
    assert "no `advisor`" in report.warnings[-1]
    assert "`remembers`, `forgets`" in report.warnings[-1]
    assert [cheap.name for cheap in report.cheap] == ["constant", "nearest"]
    assert {arm.advice.rate for arm in report.arms} == {0.0}


async def test_arms_without_an_executor_are_reported_as_ever(tmp_path):
    """An advisor beside agents that cannot ask changes nothing but its own mention."""
    plain = {"agents": {"other": tt.Agent(model=tt.Scripted("bleu", name="scripted:bleu"))}}
    with_, without = [await study(advisor=advisor, **plain).arun() for advisor in (tt.ReferenceAdvisor(TEST), None)]
    assert timeless(with_) == timeless(without)
    data = json.loads(with_.model_dump_json())
    assert all("advice" not in arm for arm in data["arms"])
    await study(out=tmp_path, advisor=None, **plain).arun()
    assert not (tmp_path / "streams").exists()
    assert not (tmp_path / "advisor.json").exists()
    page = (tmp_path / "report.html").read_text()
    assert "Advice" not in page
    assert "advice" not in (tmp_path / "report.md").read_text()


def timeless(report: Report) -> dict:
    data = report.model_dump(mode="json", exclude={"recommendation"})
    for arm in data["arms"]:
        arm["use"].pop("seconds")
    return data


async def test_another_advisor_needs_another_folder(ran):
    folder, _ = ran
    with pytest.raises(InputError, match=r"advisor\.json.*asked another advisor"):
        await study(out=folder, advisor=tt.ReferenceAdvisor(TEST, error_rate=0.5)).arun()
    with pytest.raises(InputError, match="asked another advisor"):
        await study(out=folder, advisor=None).arun()


def rows(asked: str, scores, price: float = PRICE) -> tuple[TestRow, ...]:
    """A row a task in the order of the stream; `x` got advice."""
    marks = zip(asked, scores, strict=True)
    return tuple(
        TestRow(task_id=f"t{n}", score=score, asked=mark == "x", paid=price if mark == "x" else 0.0, place=n)
        for n, (mark, score) in enumerate(marks)
    )


def test_rates_by_hand():
    arm = ArmResult(name="a", agent_version="v", price=PRICE, rows=rows("xx-x----x-" * 2, [1.0, 0.0, 1.0, None, 0.5] * 4))
    advice = advice_reports([arm], 0)["a"]
    # graded: the places 0 1 2 4 in every five; asked among them: 0 1 (first five), 8 is place 3 of its five and not graded
    assert advice.rate == pytest.approx(4 / 16)
    assert advice.rate_ci == wilson(4, 16)
    assert advice.accuracy == pytest.approx((1.0 + 0.0 + 1.0 + 0.5) / 4)
    assert advice.total == pytest.approx(2.5 / 4 - PRICE * 4 / 16)
    assert advice.total_ci[0] < advice.total < advice.total_ci[1]
    assert [(block.first, block.rate) for block in advice.blocks] == [(0, 2 / 8), (10, 2 / 8)]
    assert advice_reports([arm.model_copy(update={"price": None})], 0) == {}


def test_a_total_where_all_tasks_are_alike_is_bounded_and_below_zero_it_is_not():
    right = advice_reports([ArmResult(name="a", agent_version="v", price=PRICE, rows=rows("x" * 10, [1.0] * 10))], 0)["a"]
    other = 1 - 0.025 ** (1 / 10)  # ten like tasks leave room for another one with this chance
    assert right.total_ci == pytest.approx((0.7 - other * 0.7, 0.7 + other * 0.3))
    wrong = advice_reports([ArmResult(name="a", agent_version="v", price=PRICE, rows=rows("x" * 10, [0.0] * 10))], 0)["a"]
    assert (wrong.total, wrong.total_ci) == (pytest.approx(-0.3), None)


def test_comparisons_and_abstentions_are_of_total_scores():
    base = ArmResult(name="baseline", agent_version="v0", rows=rows("-" * 8, [0.0] * 8))
    arm = ArmResult(name="a", agent_version="v1", price=PRICE, rows=rows("xxxx----", [1.0] * 8))
    asked = arm.rows[0].model_copy(update={"score": None, "abstained": True})
    hidden = arm.model_copy(update={"name": "b", "rows": (asked, *arm.rows[1:])})
    report = make_report(study="s", seed=0, n_train=1, n_test=8, test_looks=1, arms=[base, arm, hidden])
    assert report.arms[1].delta == pytest.approx(0.85)
    assert report.arms[2].abstained.score == pytest.approx(((7 - 4 * 0.3) / 8, (8 - 4 * 0.3) / 8))


def test_the_section_advice_in_every_rendering(ran):
    folder, report = ran
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    assert page.count('id="advice-title">Advice</h2>') == 1
    assert '"id":"plot-advice"' in page.replace(" ", "")
    assert '"id":"plot-stream"' in page.replace(" ", "")
    for words in ("Total scores on the test tasks", "advisor's own answer (always asks)", "advice rate", "Over the stream"):
        assert words in text
    assert "| remembers | 0.3 | 0.167 | 0.067 to 0.359 | 1.000 | 0.862 to 1.000 | 0.950 |" in text.replace("**", "")
    assert "| baseline | - | - | - | 0.000 |" in text.replace("**", "")
    out = io.StringIO()
    print_report(report, Console(file=out, width=80))
    assert "Advice sought in the test tasks" in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= 80
    assert re.search(r"^remembers +0\.3 +0\.167 +0\.067 to 0\.359 +1\.000 +0\.862 to 1\.000 +0\.950$", out.getvalue(), re.MULTILINE)
    first, second = advice_tables(report)
    assert first.columns == ("arm", "price", "rate", "95% interval", "accuracy", "95% interval", "total")
    assert second.columns == ("arm", "mean", "1-12", "13-24")
    assert second.rows[:3] == (
        ("remembers", "advice rate", "0.333", "0.000"),
        ("remembers", "accuracy", "1.000", "1.000"),
        ("remembers", "total score", "0.900", "1.000"),
    )


def test_the_plots_of_advice(ran):
    _, report = ran
    arms = [ArmResult(name=arm.name, agent_version="v") for arm in report.arms]
    against, over = make_plots(report, arms, None).advice
    circles, letters = against.figure["data"]
    assert letters["text"] == ["A", "B", "C"]
    assert letters["x"] == pytest.approx([0, 4 / 24, 1])
    assert letters["y"] == pytest.approx([0, 0.95, 0.7])
    assert circles["y"] == [0, 1, 1]
    assert [line["y"] for line in over.figure["data"]] == [pytest.approx([1 / 3, 0]), [1, 1]]
    assert [line["x"] for line in over.figure["data"]] == [[6, 18]] * 2
    assert "remembers: advice 0.167, accuracy 1.000, total 0.950" in against.summary


def test_names_of_arms_cannot_break_the_page(ran):
    _, report = ran
    named = tuple(arm.model_copy(update={"name": f"<i>{arm.name}</script>"}) for arm in report.arms)
    page = render_html(report.model_copy(update={"arms": named}), [ArmResult(name=arm.name, agent_version="v") for arm in named])
    assert "<i>remembers" not in page
    assert "&lt;i&gt;remembers" in page


# Learners whose agents ask


class Doubtful:
    """Learns nothing but when to ask."""

    name, needs = "doubtful", frozenset()

    def described(self):
        return {"doubtful": 1}

    def forecast_calls(self, n_tasks):
        return 0

    async def learn(self, agent, practice):
        assert practice.advisor is not None
        practice.note(threshold=0.25)
        return agent.but(executor=agent.executor.model_copy(update={"ask_when": AskWhen(signal="similarity", threshold=0.25)}))


async def test_what_was_learned_about_when_to_ask_is_kept(tmp_path):
    make = {"agent": agent(), "agents": {}, "learners": {"doubtful": Doubtful()}, "out": tmp_path}
    first = await study(**make).arun()
    saved = json.loads((tmp_path / "agents" / "doubtful.json").read_text())
    assert saved["executor"] == {"ask_when": {"signal": "similarity", "threshold": 0.25, "samples": 5, "temperature": 0.7}}
    assert saved["agent"]["executor"]["agile"]["ask_when"] == {"signal": "similarity", "threshold": 0.25}
    again = study(**{**make, "agent": agent()})
    assert await again.arun() == first
    assert again.agent.model.calls == 0
    (tmp_path / "agent.yaml").write_text("{model: scripted:echo, knowledge: agents/doubtful.json, executor: {price: 0.4}}")
    loaded = load_agent(tmp_path / "agent.yaml").executor
    assert (loaded.price, loaded.ask_when) == (0.4, AskWhen(signal="similarity", threshold=0.25))
    (tmp_path / "agent.yaml").write_text("{model: scripted:echo, knowledge: agents/doubtful.json, executor: {ask_when: null}}")
    assert load_agent(tmp_path / "agent.yaml").executor.ask_when is None


def test_what_was_learned_about_an_executor_fits_one_with_other_settings(tmp_path):
    """Actions are told apart by name; one of a user's own is kept as it is, and what is absent need not be left out."""

    @action
    def look(session) -> str:
        """Look around."""
        return "nothing"

    base = agent(actions=(look, "seek_advice", "reflect", "submit_answer"))
    fewer = base.executor.model_copy(update={"actions": (base.executor.actions[0], "submit_answer"), "ask_when": AskWhen()})
    changes = executor_changes(base.but(executor=fewer), base)
    assert changes == {"ask_when": AskWhen().model_dump(mode="json"), "without": ["reflect", "seek_advice"]}
    assert executor_with(base.executor, json.loads(json.dumps(changes))) == fewer
    assert executor_with(AgileExecutor(actions=NO_MEMORY, opening=()), changes).actions == ("submit_answer",)
    more = base.executor.model_copy(update={"actions": (*base.executor.actions, "clear_context"), "price": 0.5})
    changes = executor_changes(base.but(executor=more), base)
    assert changes == {"price": 0.5, "actions": ["look", "seek_advice", "reflect", "submit_answer", "clear_context"]}
    assert executor_with(base.executor, changes) == more
    assert executor_changes(base, base) == {}
    assert executor_changes(tt.Agent(model="scripted:echo"), base) == {}
    section = {"actions": ["seek_advice", "submit_answer"], "price": 0.4}
    built = build_executor(section, tmp_path, {"ask_when": {"threshold": 0.2}, "without": ["seek_advice"], "price": 0.9})
    assert (built.actions, built.price, built.ask_when) == (("submit_answer",), 0.4, AskWhen(threshold=0.2))


async def test_a_learner_that_changes_no_executor_keeps_nothing_about_it(tmp_path):
    await study(agent=agent(), agents={}, learners={"fixed": tt.Exemplars(k=1)}, out=tmp_path).arun()
    assert "executor" not in json.loads((tmp_path / "agents" / "fixed.json").read_text())
    assert Need.WEIGHTS not in tt.Exemplars(k=1).needs


# Who is asked


async def test_a_model_that_advises_is_metered_and_its_price_is_part_of_the_costs(monkeypatch, tmp_path):
    price = tt.Price(input=1.0, output=1.0)
    big = tt.Scripted(lambda m, t, s: WORDS[re.search(r"of (\w+) asks", m[-1].text)[1]], name="scripted:big", price=price)
    monkeypatch.setattr("tutelage.collector.load_model", lambda name, adapter=None: big)
    advisor = build_advisor({"model": {"model": "scripted:big"}}, tasks=TEST, place=tmp_path / "x", folder=tmp_path)
    one = study(advisor=advisor, agents={"remembers": agent()}, out=tmp_path)
    report = await one.arun()
    assert report.arms[1].advice.accuracy == 1.0
    assert report.arms[1].use.usd > 0 == report.arms[0].use.usd
    with tt.Store(tmp_path / "experience.sqlite") as store:
        usage, usd = store.spent("doors")
    assert big.calls == 24  # the sessions' questions are among those of the baseline that always asks? no: they are put otherwise
    assert usage.calls >= big.calls
    assert usd > 0


async def test_people_are_asked_through_the_inbox_of_the_run(tmp_path):
    advisor = build_advisor("inbox", tasks=TEST, place=tmp_path / "experience.sqlite", folder=tmp_path)

    async def answer_everything():
        while True:
            await asyncio.sleep(0.02)
            if not (tmp_path / "experience.sqlite").exists():
                continue
            with Inbox(tmp_path / "experience.sqlite") as inbox:
                for entry in inbox.entries(State.OPEN):
                    city = re.search(r"of (\w+) asks", entry.question.text)[1]
                    inbox.answer(entry.id, WORDS[city], by="anna")

    person = asyncio.create_task(answer_everything())
    report = await study(advisor=advisor, agents={"remembers": agent()}, out=tmp_path).arun()
    person.cancel()
    assert report.arms[1].advice.rate == pytest.approx(4 / 24)
    assert [cheap.name for cheap in report.cheap] == ["constant", "nearest"]  # nobody is asked 24 questions for a baseline
    with tt.Store(tmp_path / "experience.sqlite") as store:
        advice = [advice for x in store.experiences() for advice in x.episode.advice]
    assert {(one.by, one.price) for one in advice} == {("person:anna", PRICE)}


async def test_where_no_person_answers_in_time_another_advisor_does(tmp_path):
    spec = {"inbox": {"seconds": 0, "fallback": {"reference": {"error_rate": 0.0}}}}
    advisor = build_advisor(spec, tasks=[*TRAIN, *TEST], place=tmp_path / "experience.sqlite", folder=tmp_path)
    report = await study(advisor=advisor, agents={"remembers": agent()}, out=tmp_path).arun()
    assert report.arms[1].advice.accuracy == 1.0
    with Inbox(tmp_path / "experience.sqlite") as inbox:
        assert [entry.state for entry in inbox.entries()] == [State.LAPSED] * 4


async def test_an_expert_who_explains_is_handed_over_in_short(tmp_path):
    tasks = [one.model_copy(update={"reference": [one.reference, f"It is {one.reference}."]}) for one in TEST]
    advisor = build_advisor({"reference": {"say": "long"}}, tasks=tasks, place=tmp_path, folder=tmp_path)
    question = tt.Question(text="?", task_id=tasks[0].id)
    assert (await advisor.ask(question)).answer == "It is bleu."
    assert (await advisor.in_short.ask(question)).answer == "bleu"
    erring = build_advisor({"reference": {"say": "long", "error_rate": 0.5}}, tasks=tasks, place=tmp_path, folder=tmp_path)
    for one in tasks:
        asked = tt.Question(text="?", task_id=one.id)
        long, short = (await erring.ask(asked)).answer, (await erring.in_short.ask(asked)).answer
        assert (one.reference[0] in long) == (one.reference[0] == short)


# YAML

DOORS = '''
import tutelage as tt
from tutelage.executor import action

WORDS = {"Paris": "bleu", "Oslo": "fjord", "Quito": "sol", "Kyoto": "sakura"}

def doors(n, seed):
    cities = [city for city in WORDS for _ in range(n // 4)]
    texts = [f"The doorman of {city} asks for the word at door {door}." for door, city in enumerate(cities)]
    asked = [(tt.Message(role="user", content=text),) for text in texts]
    return [tt.Task(messages=messages, reference=WORDS[city]) for messages, city in zip(asked, cities)]

@action
def look(session) -> str:
    """Look around."""
    return "nothing"

class Oracle:
    """Knows the words."""
    name, price = "oracle", 0.0
    def __init__(self, tasks, shout: bool = False):
        self.words = {task.id: task.reference.upper() if shout else task.reference for task in tasks}
    async def ask(self, question):
        return None

def nobody():
    return 3
'''
AGENT = """
  model: scripted:echo
  executor:
    actions: [seek_advice, reflect, update_memory, predict_answer, submit_answer]
    opening: [retrieve_memory]
    price: 0.2
    form: text
    retrieval: {choose: text, k: 2}
    ask_when: {signal: agreement, samples: 3, threshold: 0.6}
"""


def write(folder: Path, rest: str = "", agent: str = AGENT) -> Path:
    (folder / "doors.py").write_text(DOORS)
    path = folder / "study.yaml"
    path.write_text(f"name: s\nagent:{agent}\ntasks: {{from: doors.py:doors, train: 8, test: 8}}\ngrader: exact\n{rest}\n")
    return path


def test_a_study_file_names_the_executor_and_the_advisor(tmp_path):
    loaded = load_study(write(tmp_path, "advisor: {reference: {error_rate: 0.1, seed: 4}}"), out=tmp_path / "run")
    executor = loaded.agent.executor
    assert (executor.price, executor.form, executor.opening) == (0.2, "text", ("retrieve_memory",))
    assert executor.retrieval == tt.Retrieval(choose="text", k=2)
    assert executor.ask_when == AskWhen(signal="agreement", samples=3, threshold=0.6)
    assert (loaded.advisor.name, loaded.advisor.error_rate, loaded.advisor.seed) == ("reference", 0.1, 4)
    loaded.check()
    assert load_study(write(tmp_path, agent=" {model: scripted:echo, executor: {}}")).agent.executor == AgileExecutor()
    assert load_study(write(tmp_path, "advisor: {doors.py:Oracle: {shout: true}}")).advisor.words.popitem()[1] == "SAKURA"
    assert load_study(write(tmp_path, "advisor: inbox")).advisor.name == "person"
    big = load_study(write(tmp_path, "advisor: {model: {model: scripted:echo, sampling: {max_tokens: 9}}}")).advisor
    assert (big.name, big.sampling.max_tokens) == ("model:scripted:echo", 9)


def test_other_agents_vary_the_executor_key_by_key(tmp_path):
    rest = """
agents:
  no reflection: {executor: {without: [reflect]}}
  no memory: {executor: {without: [retrieve_memory, update_memory, reflect]}}
  no advice: {executor: {without: [seek_advice], ask_when: null}}
  at the start: {executor: {advice_first: 50}}
  dearer: {executor: {price: 0.5}}
  plain: {executor: null}
  looks: {executor: {actions: [doors.py:look, submit_answer]}}
"""
    loaded = load_study(write(tmp_path, rest))
    made = {name: one.executor for name, one in loaded.agents.items()}
    assert made["no reflection"].actions == ("seek_advice", "update_memory", "predict_answer", "submit_answer")
    assert made["no reflection"].price == 0.2
    assert (made["no memory"].actions, made["no memory"].opening) == (("seek_advice", "predict_answer", "submit_answer"), ())
    assert "seek_advice" not in made["no advice"].actions
    assert made["no advice"].ask_when is None
    assert (made["at the start"].advice_first, made["dearer"].price, made["plain"]) == (50, 0.5, None)
    assert [item if isinstance(item, str) else item.name for item in made["looks"].actions] == ["look", "submit_answer"]
    assert len({one.version for one in (loaded.agent, *loaded.agents.values())}) == 8


EXECUTOR = "\n  model: scripted:echo\n  executor:\n    "


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        (" {model: scripted:echo, executor: {prize: 1}}", r"study.yaml:2: field `agent.executor.prize`.*Did you mean `?price"),
        (f"{EXECUTOR}price: -1", r"study.yaml:5: field `agent.executor.price`"),
        (f"{EXECUTOR}form: x", r"study.yaml:5: field `agent.executor.form`"),
        (f"{EXECUTOR}actions: [seek_advise, submit_answer]", r"study.yaml:5: field `agent.executor.actions`.*seek_advice"),
        (f"{EXECUTOR}actions: seek_advice", r"study.yaml:5: field `agent.executor.actions`.*a list of names"),
        (f"{EXECUTOR}without: [fly]", r"study.yaml:5: field `agent.executor.without`.*reflect"),
        (f"{EXECUTOR}without: [predict_answer, submit_answer]", r"study.yaml:4: field `agent.executor.actions`.*gives an answer"),
        (f"{EXECUTOR}ask_when: {{signal: mood}}", r"study.yaml:5: field `agent.executor.ask_when.signal`"),
        (f"{EXECUTOR}actions: [doors.py:doors]", r"study.yaml:5: field `agent.executor.actions`.*tutelage.action"),
        ("\n  model: scripted:echo\n  executor: 3", r"study.yaml:4: field `agent.executor`"),
    ],
)
def test_mistakes_in_the_executor_are_located(agent, words, tmp_path):
    with pytest.raises(InputError, match=words):
        load_study(write(tmp_path, agent=agent))


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("agents:\n  a:\n    executor: {pric: 1}", r":16: field `agents.a.executor.pric`"),
        ("advisor: refrence", r":14: field `advisor`.*reference"),
        ("advisor:\n  reference:\n    error_rate: 3", r":16: field `advisor.reference.error_rate`.*from 0 to 1"),
        ("advisor:\n  reference:\n    errors: 3", r":16: field `advisor.reference.errors`"),
        ("advisor:\n  reference:\n    price: 3", r":16: field `advisor.reference.price`.*in its executor"),
        ("advisor:\n  reference:\n    say: loud", r":16: field `advisor.reference.say`"),
        ("advisor: {model: {}}", r":14: field `advisor.model`.*missing a required argument: 'model'"),
        ("advisor: {model: {model: x, sampling: {heat: 1}}}", r":14: field `advisor.model`"),
        ("advisor: {inbox: {seconds: -1}}", r":14: field `advisor.inbox`"),
        ("advisor: {inbox: {fallback: inbox}}", r":14: field `advisor.inbox.fallback`.*the same people"),
        ("advisor: {reference: {}, model: {}}", r":14: field `advisor`.*one advisor"),
        ("advisor: {reference: 3}", r":14: field `advisor.reference`"),
        ("advisor: doors.py:nobody", r":14: field `advisor`.*gives no advisor"),
        ("advisor: doors.py:WORDS", r":14: field `advisor`.*neither an advisor"),
    ],
)
def test_mistakes_in_the_advisor_are_located(rest, words, tmp_path):
    with pytest.raises(InputError, match=f"study.yaml{words}"):
        load_study(write(tmp_path, rest))


def test_a_sweep_over_prices_by_changes(tmp_path):
    path = write(tmp_path, "advisor: reference")
    prices = [load_study(path, changes=[f"agent.executor.price={price}"]).agent.executor.price for price in (0.1, 0.5)]
    assert prices == [0.1, 0.5]


# The page of the docs

PAGE = Path(__file__).parent.parent / "docs" / "agile.md"


def code(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_python_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "example"}
    for block in code("python"):
        exec(compile(block, "agile.md", "exec"), names)  # noqa: S102 (our own example)
    first, *rest = capsys.readouterr().out.splitlines()
    assert [float(word) for word in first.split()] == pytest.approx([1 / 6, 1.0, 0.95])
    assert len(rest) == 4


def test_the_studies_of_the_page_can_be_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = tmp_path / "runs" / "shop-agile" / "agents" / "agile-ppo.json"
    known.parent.mkdir(parents=True)
    known.write_text(tt.Knowledge(insights=(tt.Insight(text="Be brief."),)).model_dump_json())
    first, learners, ablations = code("yaml")
    for text in (first + learners, ablations):
        (tmp_path / "study.yaml").write_text(text)
        loaded = load_study(tmp_path / "study.yaml", check_models=False)
        assert loaded.agent.executor.price == 0.3
        assert loaded.advisor.name == "reference"
        if not loaded.learners:
            assert len({str(one.executor and one.executor.described()) for one in (loaded.agent, *loaded.agents.values())}) == 7
        else:
            assert list(loaded.learners) == ["ask-agreement", "agile_imitation", "agile-ppo", "grpo-value"]
