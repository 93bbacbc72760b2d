"""Worth: true effects are found with honest intervals, by a student that knows only what its prompt contains."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.testing import assert_allclose

import tutelage as tt
from tutelage import worth as worth_module
from tutelage.commands.worth import print_worth
from tutelage.errors import InputError, SealedError
from tutelage.history import add
from tutelage.knowledge import Evidence, Insight, Reflection
from tutelage.study.learned import read_any_learned
from tutelage.worth import REST, Worth, draw_subsets, episodes_needed, estimate_effects, measure_worth, with_worth

GOOD, BAD, USELESS, ONE, TWIN = (
    Insight(text=text) for text in ("Carry the one.", "Guess.", "Be polite.", "Mind the sign.", "Watch the minus.")
)
TASKS = 24


def task(number: int) -> tt.Task:
    return tt.Task(messages=(tt.Message(role="user", content=f"Sum {number}"),), reference="right")


def luck(text: str) -> float:
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 16**8


def student(messages, tools, sampling) -> str:
    """Right on a share of the tasks that depends on the rules in the prompt: 0.3, +0.4 good, -0.2 bad, +0.2 with either of the twins."""
    rules = messages[0].text if messages[0].role == "system" else ""
    share = 0.3 + 0.4 * (GOOD.text in rules) - 0.2 * (BAD.text in rules) + 0.2 * (ONE.text in rules or TWIN.text in rules)
    return "right" if luck(messages[-1].text) < share else "wrong"


def agent(*insights: Insight, reply=student, **knowledge) -> tt.Agent:
    return tt.Agent(model=tt.Scripted(reply), knowledge=add(tt.Knowledge(**knowledge), insights, by="test"))


def practice(n: int = TASKS, grader=None, **options) -> tt.Practice:
    return tt.Practice([task(number) for number in range(n)], tt.Collector(grader or tt.Exact()), **options)


# What is found


async def test_help_harm_and_use_are_told_apart():
    found = {worth.id: worth for worth in await measure_worth(agent(GOOD, BAD, USELESS, ONE, TWIN), practice(60))}
    for entry, true in ((GOOD, 0.4), (BAD, -0.2), (USELESS, 0.0), (ONE, 0.1), (TWIN, 0.1)):
        worth = found[entry.id]
        assert worth.low <= true <= worth.high, (entry.text, worth)
        assert worth.high - worth.low < 0.45
        assert (worth.n, worth.tasks, worth.kind, worth.text) == (480, 60, "insight", entry.text)
    order = list(found)
    assert (order[0], order[-1]) == (GOOD.id, BAD.id)
    assert found[GOOD.id].verdict == "helps"
    assert found[BAD.id].verdict == "harms"
    assert found[USELESS.id].verdict == "not shown"
    assert found[GOOD.id].p < 0.001 < found[USELESS.id].p


async def test_it_repeats_and_costs_what_it_says_and_is_not_run_twice():
    pupil, training = agent(GOOD, BAD), practice(10)
    first = await measure_worth(pupil, training, draws=4)
    calls = pupil.model.calls
    assert training.cost.calls == episodes_needed(pupil.knowledge, 10, 4) == 40
    assert calls <= 40  # equal prompts are answered from the cache
    assert await measure_worth(pupil, training, draws=4) == first
    assert (pupil.model.calls, training.cost.calls) == (calls, 40)
    assert await measure_worth(pupil, practice(10), draws=4) == first
    assert await measure_worth(pupil, practice(10, seed=1), draws=4) != first


async def test_broken_variants_find_nothing(monkeypatch):
    async def verdicts(pupil: tt.Agent) -> set[str]:
        return {worth.verdict for worth in await measure_worth(pupil, practice(60))}

    assert await verdicts(agent(GOOD, BAD)) == {"helps", "harms"}
    assert await verdicts(agent(GOOD, BAD, reply=lambda messages, *_: "right" if luck(messages[-1].text) < 0.5 else "wrong")) == {
        "not shown"
    }
    with monkeypatch.context() as broken:  # the subset is drawn and then ignored
        broken.setattr(worth_module, "_agent_with", lambda agent, units, included: agent)
        assert await verdicts(agent(GOOD, BAD)) == {"not shown"}
    with monkeypatch.context() as broken:  # all in or all out: help and harm cannot be told apart
        broken.setattr(worth_module, "draw_subsets", lambda n, draws, keep, generator: np.tile(np.arange(draws) % 2 == 0, (n, 1)).T)
        assert len({worth.effect for worth in await measure_worth(agent(GOOD, BAD), practice(60))}) == 1


async def test_a_case_with_a_stand_in_is_worth_little_and_the_effect_is_on_tasks_that_it_reaches():
    """A task names its city; the student is right where a case of that city is shown. Rome has one case, Oslo two."""

    def reply(messages, tools, sampling):
        city = messages[-1].text.split()[1]
        return "right" if any(city in message.text for message in messages[:-1]) else "wrong"

    def exemplar(text: str) -> tt.Exemplar:
        messages = (tt.Message(role="user", content=text), tt.Message(role="assistant", content="done"))
        return tt.Exemplar(task_id=text, input_id=text, text=text, messages=messages)

    cases = [exemplar("Visit Rome museum"), exemplar("Visit Oslo museum"), exemplar("See Oslo harbour"), exemplar("Unrelated words")]
    knowledge = add(tt.Knowledge(retrieval=tt.Retrieval(choose="text", k=1)), cases, by="test")
    tasks = [
        tt.Task(messages=(tt.Message(role="user", content=f"Trip {city} {n}"),), reference="right")
        for n in range(20)
        for city in ("Rome", "Oslo")
    ]
    pupil = tt.Agent(model=tt.Scripted(reply), knowledge=knowledge)
    found = {worth.text: worth for worth in await measure_worth(pupil, tt.Practice(tasks, tt.Collector(tt.Exact())))}
    rome, oslo, other = (found[f"{case.text}\ndone"] for case in (cases[0], cases[1], cases[3]))
    assert (rome.effect, rome.tasks, rome.n) == (pytest.approx(1), 20, 160)
    assert rome.low == pytest.approx(1 - 2 * (1 - 0.025 ** (1 / 20)))
    assert 0.3 < oslo.effect < 0.7
    assert (other.effect, other.n, other.verdict) == (None, 0, "never reached")


async def test_beyond_the_top_the_rest_is_measured_as_one():
    def exemplar(n: int) -> tt.Exemplar:
        messages = (tt.Message(role="user", content=f"Sum 1{n}"), tt.Message(role="assistant", content=f"case {n}"))
        return tt.Exemplar(task_id=str(n), input_id=str(n), text=f"Sum 1{n}", messages=messages)

    knowledge = add(tt.Knowledge(retrieval=tt.Retrieval(choose="fixed", k=2)), [exemplar(n) for n in range(5)], by="test")
    pupil = tt.Agent(model=tt.Scripted(student), knowledge=add(knowledge, [GOOD], by="test"))
    found = await measure_worth(pupil, practice(12), top=2)
    assert {worth.kind: worth.id for worth in found if worth.kind == "group"} == {"group": REST}
    assert {worth.id for worth in found} == {exemplar(0).id, exemplar(1).id, GOOD.id, REST}
    assert next(worth.text for worth in found if worth.id == REST).startswith("the 3 exemplars")
    assert len(await measure_worth(pupil, practice(2), draws=2, top=None)) == 6
    assert [worth.id for worth in await measure_worth(pupil, practice(2), draws=2, top=0) if worth.kind == "group"] == [REST]
    applied = with_worth(pupil.knowledge, found)
    assert REST not in applied.evidence
    assert applied.id == pupil.knowledge.id


# Attacks


async def test_nothing_known_costs_nothing():
    pupil, training = agent(), practice()
    assert await measure_worth(pupil, training) == ()
    assert await measure_worth(agent(GOOD), practice(0)) == ()
    assert (pupil.model.calls, training.cost.calls, episodes_needed(pupil.knowledge, 24)) == (0, 0, 0)


async def test_one_entry_all_pinned_and_duplicate_ids():
    (worth,) = await measure_worth(agent(GOOD), practice(40))
    assert worth.verdict == "helps"
    assert worth.low < 0.4 < worth.high
    twice = tt.Knowledge(insights=(GOOD, GOOD), pinned=frozenset({GOOD.id}))
    (same,) = await measure_worth(agent(GOOD).but(knowledge=twice), practice(40))
    assert same == worth
    assert with_worth(twice, [same]).evidence[GOOD.id].worth == worth.effect


async def test_not_graded_is_not_zero():
    nothing = tt.FunctionGrader(lambda task, episode: None)
    (worth,) = await measure_worth(agent(GOOD), practice(grader=nothing))
    assert (worth.effect, worth.low, worth.n, worth.p, worth.verdict) == (None, None, 0, None, "never reached")
    assert with_worth(agent(GOOD).knowledge, [worth]).evidence == {}
    rarely = tt.FunctionGrader(lambda task, episode: None if luck(task.text) < 0.5 else float(episode.answer == "right"))
    (half,) = await measure_worth(agent(GOOD), practice(60, grader=rarely))
    assert 0 < half.n < 480
    assert half.n == half.tasks * 8


@pytest.mark.parametrize("score", [0.0, 1.0, 0.01])
async def test_constant_scores_say_nothing_and_claim_no_certainty(score: float):
    constant = tt.FunctionGrader(lambda task, episode: score)
    found = await measure_worth(agent(GOOD, BAD), practice(10, grader=constant))
    for worth in found:
        assert worth.effect == pytest.approx(0)
        assert worth.low == pytest.approx(-(1 - 0.025**0.1))
        assert (worth.p, worth.verdict) == (1.0, "not shown")


async def test_one_task_gives_no_interval_and_scores_beyond_1_no_bounds():
    (worth,) = await measure_worth(agent(GOOD), practice(1))
    assert (worth.tasks, worth.low, worth.p, worth.verdict) == (1, None, None, "not shown")
    big = tt.FunctionGrader(lambda task, episode: 5.0 if GOOD.text in episode.segments[0].context[0].text else 2.0)
    (scaled,) = await measure_worth(agent(GOOD), practice(6, grader=big))
    assert (scaled.effect, scaled.low) == (pytest.approx(3), None)


async def test_more_entries_than_runs():
    rules = [Insight(text=f"Rule number {n}.") for n in range(30)]
    found = await measure_worth(agent(GOOD, *rules), practice(8), draws=2)
    assert len(found) == 31
    assert all(worth.n == 16 and worth.low is not None for worth in found)
    assert sum(worth.verdict in ("helps", "harms") for worth in found if worth.id != GOOD.id) == 0


async def test_reflections_are_left_out_too():
    notes = [Reflection(task_id=task(n).id, input_id=task(n).input_id, task_text=task(n).text, attempt=0, text="slow down") for n in (0, 1)]
    pupil = agent().but(knowledge=add(tt.Knowledge(), notes, by="test"))
    found = await measure_worth(pupil.but(model=tt.Scripted(lambda m, *_: "right" if "slow down" in m[-1].text else "no")), practice(4))
    assert [(worth.kind, worth.effect, worth.tasks) for worth in found] == [("reflection", 1.0, 1)] * 2


async def test_test_tasks_are_refused():
    with pytest.raises(SealedError):
        await measure_worth(agent(GOOD), practice(2, sealed=frozenset({task(9).input_id})), tasks=[task(9)])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"draws": 3}, "even number"),
        ({"draws": 0}, "even number"),
        ({"keep": 0}, "between 0 and 1"),
        ({"keep": 1}, "between 0 and 1"),
        ({"keep": 0.9, "draws": 4}, "in all runs or in none"),
        ({"top": -1}, "cannot be negative"),
    ],
)
async def test_options_that_make_no_design(options: dict, match: str):
    with pytest.raises(InputError, match=match):
        await measure_worth(agent(GOOD), practice(), **options)


# The design and the estimate


@pytest.mark.parametrize(("keep", "draws"), [(0.5, 8), (0.5, 2), (0.75, 8), (0.9, 10)])
def test_each_entry_is_in_its_share_of_the_runs(keep: float, draws: int):
    drawn = draw_subsets(50, draws, keep, np.random.default_rng(0))
    assert (drawn.sum(axis=0) == round(keep * draws)).all()
    assert len({tuple(column) for column in drawn.T}) > 1
    if keep == 0.5:
        assert (drawn[0::2] == ~drawn[1::2]).all()
        assert 0 < drawn[0].sum() < 50


def test_an_estimate_by_hand():
    """Two tasks, one entry: +1 and +0.5; the jackknife over two tasks gives an error of 0.25, times t(1 df) = 12.706."""
    found = estimate_effects(np.array([0, 0, 1, 1]), np.array([[1], [0], [1], [0]], dtype=bool), np.array([1.0, 0.0, 0.5, 0.0]))
    assert_allclose([found.effect[0], found.low[0], found.high[0]], [0.75, 0.75 - 12.7062 * 0.25, 0.75 + 12.7062 * 0.25], rtol=1e-4)
    assert_allclose(found.p[0], 2 * (0.5 - np.arctan(3) / np.pi))
    assert (found.runs[0], found.tasks[0]) == (4, 2)


def test_least_squares_equals_refitting_without_each_task():
    rng = np.random.default_rng(5)
    x = np.concatenate([draw_subsets(3, 8, 0.5, rng) for _ in range(6)])
    task_numbers, y = np.repeat(np.arange(6), 8), rng.random(48)
    centred = x - np.repeat(x.reshape(6, 8, 3).mean(axis=1), 8, axis=0)
    effect, moves = worth_module._least_squares(centred, y, task_numbers, 6)
    for left_out in range(6):
        rows = task_numbers != left_out
        refitted = np.linalg.lstsq(centred[rows], y[rows], rcond=None)[0]
        assert_allclose(effect + moves[left_out], refitted, atol=1e-10)


def simulate(rng: np.random.Generator, n_tasks: int, effects: np.ndarray, draws: int = 8, keep: float = 0.5, reach: float = 1.0):
    """Scores with known mean effects that vary over tasks, tasks of unequal difficulty, and noise."""
    p = len(effects)
    x = np.concatenate([draw_subsets(p, draws, keep, rng) for _ in range(n_tasks)])
    task_numbers, own = np.repeat(np.arange(n_tasks), draws), effects + 0.15 * rng.standard_normal((n_tasks, p))
    reached = rng.random((n_tasks, p)) < reach
    mean = rng.normal(0.5, 0.3, n_tasks)[task_numbers] + (x * (own * reached)[task_numbers]).sum(axis=1)
    return estimate_effects(task_numbers, x, mean + 0.3 * rng.standard_normal(len(x)), reached)


@pytest.mark.parametrize(
    ("n_tasks", "p", "options"),
    [(30, 6, {}), (6, 3, {"draws": 4}), (8, 40, {}), (30, 6, {"keep": 0.75}), (40, 8, {"reach": 0.4})],
    ids=["plenty", "few tasks", "more entries than pairs", "keep most", "each reaches some tasks"],
)
def test_intervals_cover_the_truth_and_estimates_are_unbiased(n_tasks: int, p: int, options: dict):
    """95% of the intervals hold the truth, within what chance allows over so many simulations (their entries are nearly independent)."""
    rng, true = np.random.default_rng(1), np.linspace(-0.3, 0.3, p)
    times = 120
    found = [simulate(rng, n_tasks, true, **options) for _ in range(times)]
    covered = np.mean([(one.low <= true) & (true <= one.high) for one in found])
    assert abs(covered - 0.95) < 3.5 * np.sqrt(0.95 * 0.05 / (times * min(p, 8))), covered
    errors = np.array([one.effect - true for one in found])
    assert (np.abs(errors.mean(axis=0)) < 4 * errors.std(axis=0) / np.sqrt(times)).all()
    false_alarms = np.mean(
        [one.p[np.abs(true).argmin()] < 0.05 for one in [simulate(rng, n_tasks, 0 * true, **options) for _ in range(times)]]
    )
    assert false_alarms < 0.13


def test_holm_by_hand():
    assert_allclose(worth_module._holm(np.array([0.04, np.nan, 0.01, 0.03])), [0.06, np.nan, 0.03, 0.06])


def test_verdicts():
    def verdict(low, high, p, effect=0.0):
        return Worth(id="a", kind="insight", text="t", effect=effect, low=low, high=high, p=p).verdict

    assert verdict(0.1, 0.2, 0.01) == "helps"
    assert verdict(0.1, 0.2, 0.2) == "seems to help"
    assert verdict(-0.2, -0.1, 0.01) == "harms"
    assert verdict(-0.2, -0.1, None) == "seems to harm"
    assert verdict(-0.2, 0.1, 0.01) == verdict(None, None, None) == "not shown"


def test_worth_goes_into_the_evidence_beside_what_is_there():
    knowledge = agent(GOOD, BAD).knowledge.model_copy(update={"evidence": {GOOD.id: Evidence(supported=3)}})
    measured = [
        Worth(id=GOOD.id, kind="insight", text="", effect=0.2, low=0.1, high=0.3, n=80, tasks=10, p=0.01),
        Worth(id="x", kind="", text=""),
    ]
    after = with_worth(knowledge, measured)
    assert after.evidence == {GOOD.id: Evidence(supported=3, worth=0.2, low=0.1, high=0.3, n=80)}


# The command


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """A study whose learner, exemplars, brings what a scripted model imitates."""
    lines = [json.dumps({"messages": [{"role": "user", "content": f"Sum {n}"}], "reference": "right"}) for n in range(16)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines[:8]) + "\n")
    (tmp_path / "test.jsonl").write_text("\n".join(lines[8:]) + "\n")
    study = {
        "name": "sums",
        "agent": {"model": "scripted:imitate"},
        "tasks": {"train": "train.jsonl", "test": "test.jsonl"},
        "grader": "exact",
        "learners": [{"exemplars": {"choose": "text", "k": 2}}],
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    return tmp_path / "study.yaml"


def test_the_command_says_the_price_measures_and_applies(study_file: Path, monkeypatch, capsys):
    monkeypatch.chdir(study_file.parent)
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(InputError, match="run the study first"):
        print_worth(study_file, "exemplars-text")
    tt.load_study(study_file).run()
    with pytest.raises(InputError, match=r"no learned arm is called `other`.*exemplars-text"):
        print_worth(study_file, "other")
    path = study_file.parent / "runs" / "sums" / "agents" / "exemplars-text.json"
    before = read_any_learned(path)
    worths = print_worth(study_file, "exemplars-text", draws=2)
    out = capsys.readouterr().out
    assert out.index("16 episodes: 8 training tasks x 2 draws") < out.index("Worth of each entry")
    assert len(worths) == 8
    assert worths[0].id in out
    assert read_any_learned(path) == before
    assert print_worth(study_file, "exemplars-text", draws=2, apply=True) == worths
    assert "written to" in capsys.readouterr().out
    after = read_any_learned(path)
    assert after.knowledge.id == before.knowledge.id
    assert after.knowledge.evidence[worths[0].id].worth == worths[0].effect
    with pytest.raises(InputError, match="even number"):
        print_worth(study_file, "exemplars-text", draws=3)
