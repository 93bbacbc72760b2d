"""Judges as graders: in studies (with what their abstentions leave open), for reinforcement, for pairs, and for insights."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tutelage as tt
from tutelage import registry
from tutelage.errors import BudgetExceeded, GraderError, InputError, ModelFailed
from tutelage.graders.calibrated_judge import CalibratedJudge, calibrate
from tutelage.graders.cascade import Cascade, calibrate_cascade
from tutelage.graders.judge import Judge
from tutelage.graders.judge_pairwise import PairwiseJudge
from tutelage.graders.labels import Labelled
from tutelage.graders.load import make_grader
from tutelage.learners.judged_pairs import judged_pairs, pair_judge
from tutelage.learners.policy_settings import read_policy_settings
from tutelage.learners.rollouts import LeftOut, Reading, read_rollouts
from tutelage.records import Completion, Episode, Experience, Grade, Message, Sampling, Segment, Step, StopReason, TokenTrace
from tutelage.study.abstentions import abstentions
from tutelage.study.report import make_report
from tutelage.study.results import ArmResult, TestRow


def reads(messages, *_) -> str:
    """A judge that finds its verdict and confidence in the answer."""
    said, sure = re.findall(r"says (\d) sure (\d+)", messages[-1].text)[-1]
    return json.dumps({"why": "it is written there", "score": int(said), "confidence": int(sure)})


def labelled() -> list[Labelled]:
    """40 items at .9 on which the judge is right; 20 at .5 of which it has every second wrong."""
    rows = [(n, 90, "right") for n in range(40)] + [(n, 50, "right" if n % 2 else "wrong") for n in range(40, 60)]
    return [
        Labelled(id=f"i{n}", kind="right_wrong", task="What?", answers=(f"answer {n} says 1 sure {sure}",), label=label)
        for n, sure, label in rows
    ]


async def calibrated() -> CalibratedJudge:
    """Decides from a confidence of .9 on."""
    return await calibrate(Judge(tt.Scripted(reads, name="scripted:judge"), "It is right.", scale=1), labelled(), 0.1, 0.1)


def tasks(n: int, start: int = 0) -> list[tt.Task]:
    return [tt.Task(messages=(Message(role="user", content=f"Question {number}?"),)) for number in range(start, start + n)]


# studies


def arm(name: str, *scores: float | str | None) -> ArmResult:
    """`x`: the grader abstained. None: it failed."""
    rows = [TestRow(task_id=f"t{n}", score=None if score == "x" else score, abstained=score == "x") for n, score in enumerate(scores)]
    return ArmResult(name=name, agent_version=name, rows=tuple(rows))


def test_the_bounds_take_every_abstention_for_a_failure_and_for_a_success():
    found = abstentions([arm("base", 0.0, 1.0, 0.0, "x"), arm("new", 1.0, 1.0, "x", "x"), arm("third", 1.0, 1.0, 1.0, None)], 0)
    assert (found["base"].n, found["base"].episodes, found["base"].score) == (1, 4, (0.25, 0.5))
    assert found["base"].delta is None
    assert (found["new"].n, found["new"].score) == (2, (0.5, 1.0))
    # worst: 1 1 0 0 against 0 1 0 1; best: 1 1 1 1 against 0 1 0 0
    assert found["new"].delta == (0.0, 0.75)
    assert found["new"].delta_ci[0] < 0 < found["new"].delta_ci[1]
    assert (found["third"].n, found["third"].score) == (0, (1.0, 1.0)), "what a failed grader left is not filled"
    assert found["third"].delta == pytest.approx((2 / 3, 2 / 3)), "its fourth task is graded here nowhere"


def test_the_interval_holds_both_ends():
    found = abstentions([arm("base", *[1.0] * 30, *[0.0] * 30, *["x"] * 20)], 0)["base"]
    assert found.score == (30 / 80, 50 / 80)
    alone = [abstentions([arm("base", *[1.0] * ones, *[0.0] * (80 - ones))], 0) for ones in (30, 50)]
    assert alone == [{}, {}], "without abstentions there is nothing to say"
    assert found.ci[0] < 30 / 80 < 50 / 80 < found.ci[1]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, "x"]), min_size=1, max_size=8), st.lists(st.floats(0, 1), min_size=8, max_size=8))
def test_whatever_the_abstentions_would_have_been_lies_within_the_bounds(scores, truth):
    found = abstentions([arm("base", *scores)], 0)
    if "x" not in scores:
        assert found == {}
        return
    mean = sum(truth[n] if score == "x" else score for n, score in enumerate(scores)) / len(scores)
    low, high = found["base"].score
    assert low - 1e-9 <= mean <= high + 1e-9


def test_scores_without_bounds_leave_nothing_to_say():
    assert abstentions([arm("base", 2.0, "x")], 0) == {}


def test_the_report_says_what_abstentions_hide():
    base, new = arm("base", *[0.0] * 30, *["x"] * 10), arm("new", *[1.0] * 36, *["x"] * 4)
    report = make_report(study="s", seed=0, n_train=1, n_test=40, test_looks=1, arms=[base, new])
    assert [one.n for one in report.arms] == [30, 36]
    assert report.arms[1].score == 1.0
    assert report.arms[1].abstained.score == (0.9, 1.0)
    # new's last four are zero and base's last ten are one: 30 gained, 4 lost of 40
    assert report.arms[1].abstained.delta == ((30 - 4) / 40, 1.0)
    words = report.recommendation
    assert "The grader abstained from 10 of 40 episodes (25%) of `base`; its score is that of the others." in words
    assert "Were all of these failures it would be 0.900, were all successes 1.000" in words
    assert "Whatever the abstentions hide, `new` changes the baseline's score by +0.650 to +1.000" in words
    assert "a gain in every case" in words
    assert "Episodes that were not graded" not in words
    assert json.loads(report.model_dump_json())["arms"][0]["abstained"]["n"] == 10


def test_a_gain_that_abstentions_could_undo_is_said_to_depend_on_them():
    report = make_report(
        study="s", seed=0, n_train=1, n_test=40, test_looks=1, arms=[arm("base", *[0.0] * 40), arm("new", *[1.0] * 12, *["x"] * 28)]
    )
    assert "by +0.300 to +1.000" in report.recommendation
    assert "a gain in every case" in report.recommendation
    undone = make_report(
        study="s",
        seed=0,
        n_train=1,
        n_test=40,
        test_looks=1,
        arms=[arm("base", *[0.0] * 10, *["x"] * 30), arm("new", *[1.0] * 10, *["x"] * 30)],
    )
    assert "by -0.500 to +1.000" in undone.recommendation
    assert "whether that is a gain depends on what they hide" in undone.recommendation


def test_a_report_without_abstentions_is_what_it_was():
    report = make_report(study="s", seed=0, n_train=1, n_test=2, test_looks=1, arms=[arm("base", 1.0, None), arm("new", 1.0, 0.0)])
    assert "abstain" not in report.recommendation
    assert "abstained" not in report.model_dump_json()
    assert "Episodes that were not graded: 1 of 2 in `base`" in report.recommendation


async def test_a_study_reports_the_abstentions_of_each_arm(tmp_path):
    def says(sure):
        return tt.Agent(
            model=tt.Scripted(lambda messages, *_: f"says 1 sure {sure(messages[-1].text)}", name=f"scripted:{sure.__name__}"),
        )

    def half(asked):
        return 95 if int(re.search(r"\d+", asked)[0]) % 2 else 60

    def all_(asked):
        return 95

    study = tt.Study(
        agent=says(half), agents={"sure": says(all_)}, train=tasks(2), test=tasks(10, 100), grader=await calibrated(), out=tmp_path / "run"
    )
    report = await study.arun()
    base, sure = report.arms
    assert (base.n, base.score, base.abstained.n, base.abstained.score) == (5, 1.0, 5, (0.5, 1.0))
    assert (sure.n, sure.abstained.n, sure.abstained.delta) == (10, 0, (0.0, 0.5))
    assert "abstained from 5 of 10 episodes (50%) of `baseline`" in (tmp_path / "run" / "report.md").read_text()


async def test_the_last_escalation_is_in_the_runs_inbox_and_its_grades_are_taken_later(tmp_path, monkeypatch):
    monkeypatch.setitem(registry.GRADERS, "person", "tutelage.inbox.grading:person_grader")
    cascade = await calibrate_cascade([(await calibrated()).judge], labelled(), 0.1, 0.1)
    run = tmp_path / "run"
    whole = Cascade(cascade.levels, make_grader({"person": {"inbox": str(run), "text": "Is it true?"}}))
    assert whole.name.endswith("+person")

    def half(messages, *_):
        return f"says 1 sure {95 if int(re.search(r'[0-9]+', messages[-1].text)[0]) % 2 else 60}"

    agent = tt.Agent(model=tt.Scripted(half, name="scripted:half"))

    async def report():
        return (await tt.Study(agent=agent, train=tasks(2), test=tasks(10, 100), grader=whole, out=run).arun()).arms[0]

    assert (await report()).n == 5
    with tt.Inbox(run / "experience.sqlite") as inbox:
        waiting = [entry for entry in inbox.entries() if entry.answer is None]
        assert [entry.question.text for entry in waiting] == ["Is it true?"] * 5
        for number, entry in enumerate(waiting):
            inbox.answer(entry.id, "wrong" if number < 2 else "right", by="Ann")
    again = await report()
    assert (again.n, again.score) == (10, 0.8)


# reinforcement


def sampled(score: float | None, confidence: float | None, attempt: int, *, abstained: bool = False) -> Experience:
    trace = TokenTrace(prompt_ids=(1, 2), completion_ids=(3,), logprobs=(-0.5,))
    step = Step(completion=Completion(message=Message(role="assistant", content="x"), tokens=trace))
    episode = Episode(
        task_id="t",
        agent_version="v",
        segments=(Segment(context=(), steps=(step,)),),
        answer="x",
        stop=StopReason.ANSWERED,
        attempt=attempt,
    )
    grade = Grade(score=score, confidence=confidence, abstained=abstained)
    return Experience(episode=episode, grade=grade, when=datetime(2026, 1, 1, tzinfo=UTC))


def test_rollouts_of_an_unsure_judge_are_left_out_and_counted():
    rows = [sampled(1.0, 0.9, 0), sampled(0.0, 0.6, 1), sampled(0.0, 0.7, 2), sampled(None, 0.4, 3, abstained=True), sampled(1.0, None, 4)]
    found = read_rollouts(rows, Reading(min_confidence=0.7))
    assert found.rewards == [1.0, 0.0, 1.0], "at the bound it stays, and so does a grade without a confidence"
    assert found.left_out == {LeftOut.UNSURE: 1, LeftOut.ABSTAINED: 1}
    assert read_rollouts(rows).left_out == {LeftOut.ABSTAINED: 1}


def test_the_setting_is_read_and_is_no_new_setting_where_it_is_not_used():
    assert not {"min_confidence", "weigh_by_confidence"} & set(read_policy_settings({}, "rlvr").described())
    assert read_policy_settings({"weigh_by_confidence": True}, "rlvr").described()["weigh_by_confidence"] is True
    given = read_policy_settings({"min_confidence": 0.8}, "rlvr")
    assert given.described()["min_confidence"] == 0.8
    with pytest.raises(InputError, match="min_confidence"):
        read_policy_settings({"min_confidence": 80}, "rlvr")


def test_samples_weigh_as_much_as_the_judge_is_sure():
    rows = [sampled(1.0, 0.9, 0), sampled(0.0, 0.6, 1), sampled(1.0, None, 2)]
    assert [one.weight for one in read_rollouts(rows).samples] == [1.0, 1.0, 1.0], "only where it is asked for"
    found = read_rollouts(rows, Reading(weigh=True))
    assert [one.weight for one in found.samples] == [0.9, 0.6, 1.0], "a grade without a confidence weighs 1"
    assert found.rewards == [1.0, 0.0, 1.0], "rewards are what they are"
    both = read_rollouts(rows, Reading(weigh=True, min_confidence=0.7))
    assert ([one.weight for one in both.samples], both.left_out) == ([0.9, 1.0], {LeftOut.UNSURE: 1})
    for no_share in (1.5, -0.1, float("nan")):
        with pytest.raises(InputError, match="weigh_by_confidence needs a confidence from 0 to 1"):
            read_rollouts([sampled(1.0, no_share, 0)], Reading(weigh=True))


@pytest.mark.torch
@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_an_advantage_is_multiplied_by_the_confidence(algorithm):
    pytest.importorskip("torch", reason="extra `train` is not installed")
    from tutelage.training.policy_batch import Batch
    from tutelage.training.policy_gradient import PolicyGradient, Sample

    def samples(*weights: float) -> list[Sample]:
        rewards = (1.0, 0.0, 0.0)
        return [
            Sample((7, 8, 9)[: 2 + (n == 1)], (False, True, True)[: 2 + (n == 1)], "t", f"e{n}", reward, weight=weight)
            for n, (reward, weight) in enumerate(zip(rewards, weights, strict=True))
        ]

    settings = PolicyGradient(algorithm=algorithm, scale_rewards="none")
    measured = {"old": np.zeros(4), "values": np.array([0.5, 0.25, 0.25, 0.0])} if algorithm == "ppo" else {}
    sure, facts = Batch.of(samples(1, 1, 1), None).targets(settings, measured, foreign=False)
    unsure, weighed = Batch.of(samples(0.9, 0.5, 0), None).targets(settings, measured, foreign=False)
    assert unsure.advantages.tolist() == pytest.approx((sure.advantages * sure.advantages.new([0.9, 0.5, 0.5, 0])).tolist())
    assert unsure.weights.tolist() == sure.weights.tolist()
    if algorithm == "grpo":  # the mean of the group is 1/3, and counts all alike; the second episode has two tokens
        assert unsure.advantages.tolist() == pytest.approx([0.9 * 2 / 3, -0.5 / 3, -0.5 / 3, 0], abs=1e-6)
    else:
        assert unsure.returns.tolist() == sure.returns.tolist(), "the value function learns from all alike"
    assert "weight" not in facts
    assert weighed["weight"] == pytest.approx((0.9 + 0.5 + 0) / 3)


def test_weights_are_shares_and_an_episode_has_one():
    from tutelage.training.policy_gradient import Sample, by_episode

    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        Sample((1, 2), (False, True), "t", "e", 1.0, weight=1.1)
    with pytest.raises(InputError, match="several groups, rewards or weights"):
        by_episode([Sample((1, 2), (False, True), "t", "e", 1.0, weight=weight) for weight in (0.5, 1.0)])


# pairs


def compares(messages, *_):
    """Prefers the higher number, as sure as the numbers are apart; a fall in the prompt's own order of showing does not matter."""
    shown = [int(number) for number in re.findall(r"value (\d+)", messages[-1].text)[-2:]]
    if 13 in shown:
        return ModelFailed("down")
    verdict = 0 if abs(shown[0] - shown[1]) == 1 else 1 if shown[0] > shown[1] else 2
    return json.dumps({"why": "", "verdict": verdict, "confidence": 95 if abs(shown[0] - shown[1]) > 4 else 60})


def pairwise() -> PairwiseJudge:
    return PairwiseJudge(tt.Scripted(compares, name="scripted:pairs"), "The number is higher.")


async def calibrated_pairs() -> CalibratedJudge:
    rows = [Labelled(id=f"p{n}", kind="pairwise", task="?", answers=(f"value {n}", f"value {n + 20}"), label="b") for n in range(20, 60)]
    rows += [
        Labelled(id=f"q{n}", kind="pairwise", task="?", answers=(f"value {n}", f"value {n + 3}"), label="ab"[n % 2]) for n in range(20, 40)
    ]
    return await calibrate(pairwise(), rows, 0.1, 0.1)


def practice_of(n: int, calls: int | None = None) -> tt.Practice:
    return tt.Practice(tasks(n), tt.Collector(tt.FunctionGrader(lambda *_: 0.0), budget=tt.Budget(calls=calls)))


async def attempts(practice: tt.Practice, values: list[int]) -> list[Experience]:
    said = iter(values * len(practice.tasks))
    agent = tt.Agent(model=tt.Scripted(lambda *_: f"value {next(said)}"), sampling=Sampling(temperature=1.0))
    return await practice.collect(agent, attempts=len(values))


async def test_a_pairwise_judge_gives_the_pairs():
    practice = practice_of(1)
    found = await judged_pairs(await attempts(practice, [30, 40, 50]), practice, pairwise(), per_task=3)
    said = sorted((row.chosen[0].text, row.rejected[0].text, row.weight) for _, row in found.rows)
    assert said == [("value 40", "value 30", 0.95), ("value 50", "value 30", 0.95), ("value 50", "value 40", 0.95)]
    assert {key for key, _ in found.rows} == {practice.tasks[0].input_id}
    assert found.facts == {"judge_pairs": 3, "judge_ties": 0, "judge_abstained": 0, "judge_failed": 0}
    assert practice.cost.calls == 3 + 2 * 3, "three attempts, and each pair in both orders, are what learning cost"


async def test_ties_failures_and_like_answers_give_no_pair():
    practice = practice_of(1)
    found = await judged_pairs(await attempts(practice, [30, 31, 13, 30]), practice, pairwise(), per_task=9)
    assert found.rows == []
    assert found.counts == {"pairs": 0, "ties": 2, "abstained": 0, "failed": 3}
    with pytest.raises(GraderError, match="failed on all of 1 pairs"):
        await judged_pairs(await attempts(practice_of(1), [13, 30]), practice_of(1), pairwise())


async def test_a_calibrated_judge_gives_only_what_it_may_decide():
    practice = practice_of(1)
    found = await judged_pairs(await attempts(practice, [30, 33, 40]), practice, await calibrated_pairs(), per_task=9)
    assert sorted((row.chosen[0].text, row.rejected[0].text) for _, row in found.rows) == [
        ("value 40", "value 30"),
        ("value 40", "value 33"),
    ]
    assert found.counts["abstained"] == 1


async def test_so_many_pairs_a_task_and_the_same_ones_again():
    practice = practice_of(3)
    tried = await attempts(practice, [30, 40, 50, 60])
    found = await judged_pairs(tried, practice, pairwise(), per_task=2)
    assert [sum(key == task.input_id for key, _ in found.rows) for task in practice.tasks] == [2, 2, 2]
    calls = practice.cost.calls
    assert (await judged_pairs(tried, practice, pairwise(), per_task=2)).rows == found.rows
    assert practice.cost.calls == 2 * calls - 12, "counted as learning's cost again"


async def test_the_judges_calls_are_within_the_budget():
    practice = practice_of(1, calls=5)
    with pytest.raises(BudgetExceeded):
        await judged_pairs(await attempts(practice, [30, 40, 50]), practice, pairwise(), per_task=3)


async def test_a_judge_of_pairs_is_made_from_what_a_study_says(tmp_path):
    made = pair_judge({"model": "scripted:echo", "criteria": "Finer."})
    assert isinstance(made, PairwiseJudge)
    one = await calibrated_pairs()
    assert pair_judge(one) is one
    for spec, reason in [
        ({"model": "scripted:echo", "criteria": "x", "kind": "score"}, "compares two answers"),
        ({"criteria": "x"}, "field `judge.model`: Field required"),
        ({"model": "scripted:echo", "criteria": ""}, "the criterion is empty"),
        (await calibrated(), "compares two answers"),
        (3, "compares two answers"),
        ("nothing.json", "no such file"),
    ]:
        with pytest.raises(InputError, match=re.escape(reason)):
            pair_judge(spec, tmp_path)


# insights


async def test_insights_are_drawn_from_what_the_judge_decides_and_from_nothing_else():
    """The agent fails where a judge is sure, mends it by reflecting; what the judge abstains from is neither failure nor success."""
    seen: list[str] = []

    def pupil(messages, tools, sampling):
        asked = messages[-1].text
        if "The failed attempt:" in asked:
            return "Put the word behind it."
        number = int(re.search(r"Question (\d+)", asked)[1])
        if number % 2:
            return f"answer {number} says 1 sure 60"
        return f"answer {number} says {int('Put the word behind it.' in asked)} sure 95"

    def extractor(messages, tools, sampling):
        seen.append(messages[-1].text)
        return "ADD 1: Put the word behind it."

    practice = tt.Practice(tasks(6), tt.Collector(await calibrated()))
    agent = tt.Agent(model=tt.Scripted(pupil, name="scripted:pupil"))
    learned = await tt.ExpeL(extract_with=tt.Scripted(extractor, name="scripted:extractor"), choose="text", k=0).learn(agent, practice)
    assert [insight.text for insight in learned.knowledge.insights] == ["Put the word behind it."]
    assert seen
    assert not re.search(r"answer [135] says", "".join(seen)), "an abstention teaches nothing"


# the benchmark on real labelled text

TOKENS = '''
import math, re
from tutelage.records import Completion, Message, TokenTrace

def reply(messages, tools, sampling, mark="p"):
    """Held to a digit it says how likely that digit is, as the solution tells."""
    digit = sampling.json_schema["enum"][0]
    right = float(re.findall(mark + r"=([.0-9]+)", messages[-1].text)[-1])
    said = Message(role="assistant", content=str(digit))
    logprob = math.log(right if digit else 1 - right)
    return Completion(message=said, seconds=0.1, tokens=TokenTrace(prompt_ids=(1,), completion_ids=(2,), logprobs=(logprob,)))

def strong(messages, tools, sampling):
    return reply(messages, tools, sampling, "q").model_copy(update={"seconds": 1.0})
'''


def test_the_benchmark_asks_once_and_its_arithmetic_can_be_followed(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    monkeypatch.chdir(tmp_path)
    import judge_gsm8k as benchmark

    Path("tokens.py").write_text(TOKENS)
    rows = []
    for n in range(40):  # sure and right on the first solution, a coin on the second, on which the strong one is right
        row = {"question": f"Q{n}", "ground_truth": "1"}
        row["6b_finetuning"] = {"is_correct": n % 2 == 0, "solution": f"p={0.95 if n % 2 == 0 else 0.05} q=.9"}
        row["6b_verification"] = {"is_correct": n % 4 < 2, "solution": f"p=0.6 q={0.98 if n % 4 < 2 else 0.02}"}
        rows.append(json.dumps(row))
    Path("data.jsonl").write_text("\n".join(rows))
    items = benchmark.read_items(Path("data.jsonl"), 40, reference=False)
    assert len({item.case.question for item in items}) == 40, "one solution of each question before a second one"
    models = ["scripted:tokens.py", "scripted:tokens.py?function=strong"]
    argv = ["x", "--models", *models, "--data", "data.jsonl", "--items", "80", "--times", "5", "--out", "out", "--json", "found.json"]
    monkeypatch.setattr("sys.argv", argv)
    benchmark.main()
    found = json.loads(Path("found.json").read_text())
    weak, strong = found["judges"]
    assert (sum(weak["correct"]), sum(strong["correct"])) == (60, 60)
    assert (weak["seconds"], strong["seconds"]) == (pytest.approx(0.2), pytest.approx(2.0)), "two calls an item"
    assert found["settings"]["alpha 0.1, delta 0.1"]["strongest, never abstains"]["coverage"] == 1.0
    naive = found["settings"]["alpha 0.1, delta 0.1"]["cascade, confidence >= 1 - alpha"]
    assert naive["coverage"] == 1.0
    assert naive["cost"] == pytest.approx(naive["level 1"] * 0.1 + naive["level 2"] * 1.1)
    levels = [
        benchmark.Level("a", np.array([0.9, 0.4, np.nan, 0.9]), np.array([True, True, True, False]), 1.0, {}),
        benchmark.Level("b", np.array([0.1, 0.8, 0.7, 0.1]), np.array([True, False, True, True]), 10.0, {}),
    ]
    assert benchmark.decided(levels, [0.5, 0.75], range(4)) == ([2, 1], 2, 4 * 1.0 + 2 * 10.0)
    assert benchmark.decided(levels, [None, 0.75], range(4)) == ([0, 1], 1, 40.0)
    capsys.readouterr()
