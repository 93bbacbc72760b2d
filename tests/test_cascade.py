"""Cascades of scripted judges whose verdicts and confidences are written into the answers, one pair of numbers for each judge."""

from __future__ import annotations

import json
import re

import pytest

import tutelage as tt
from tutelage.errors import GraderError, InputError, ModelFailed, ModelUnavailable
from tutelage.graders.calibrated_judge import CalibratedJudge, calibrate, load_calibrated
from tutelage.graders.cascade import Cascade, calibrate_cascade, expected, load_cascade, summarise
from tutelage.graders.combine import grade_episode
from tutelage.graders.judge import Judge
from tutelage.graders.judge_case import Case
from tutelage.graders.judge_pairwise import PairwiseJudge
from tutelage.graders.labels import Labelled
from tutelage.prices import Price
from tutelage.records import Completion, Grade, Message, Segment, Step, StopReason


def reads(mark: str):
    """A judge that finds its own verdict and confidence in the answer: `cheap 1 90`, `strong 0 80`."""

    def reply(messages, *_):
        found = re.findall(rf"{mark} (\d|x) (\d+)", messages[-1].text)[-1]
        if found[0] == "x":
            return ModelFailed("down")
        return json.dumps({"why": f"{mark} says so", "score": int(found[0]), "confidence": int(found[1])})

    return reply


def judge(mark: str, price: float = 0.0) -> Judge:
    model = tt.Scripted(reads(mark), name=f"scripted:{mark}", price=Price(input=price, output=price))
    return Judge(model, "It is right.", scale=1)


def item(number: int, cheap: str, strong: str, label="right") -> Labelled:
    text = f"answer {number} cheap {cheap} strong {strong}"
    return Labelled(id=f"i{number}", kind="right_wrong", task="What?", answers=(text,), label=label)


def hundred() -> list[Labelled]:
    """Of 100 items the cheap judge is sure and right on 40; of the other 60 the strong one is sure and right on 40; the rest is a toss."""
    easy = [item(number, "1 90", "0 99") for number in range(40)]
    hard = [item(number, "1 50", "0 80", "wrong") for number in range(40, 80)]
    return easy + hard + [item(number, "1 50", "1 60", "right" if number % 2 else "wrong") for number in range(80, 100)]


def task() -> tt.Task:
    return tt.Task(messages=(Message(role="user", content="What?"),))


def episode(answer: str) -> tt.Episode:
    step = Step(completion=Completion(message=Message(role="assistant", content=answer)))
    return tt.Episode(
        task_id=task().id, agent_version="a" * 16, segments=(Segment(context=(), steps=(step,)),), answer=answer, stop=StopReason.ANSWERED
    )


async def made(**options) -> Cascade:
    return await calibrate_cascade([judge("cheap"), judge("strong", 10.0)], hundred(), 0.1, 0.1, **options)


def with_then(cascade: Cascade, then) -> Cascade:
    return Cascade(cascade.levels, tt.grader.as_grader(then))


async def test_each_level_is_calibrated_on_what_the_earlier_ones_leave_over():
    cascade = await made(domain="doors")
    first, second = (level.certificate for level in cascade.levels)
    assert (first.calibration.n, first.calibration.accepted, first.calibration.threshold) == (100, 40, 0.9)
    assert (second.calibration.n, second.calibration.accepted, second.calibration.threshold) == (60, 40, 0.8)
    assert (first.calibration.delta, second.calibration.delta) == (0.05, 0.05)  # split: both together promise 1 - .1
    assert (first.after, second.after) == ((), (first.id,))
    assert cascade.levels[1].judge.model.calls == 60
    lines = cascade.lines()
    assert "agreement of at least 0.9 where they decide, with probability 0.9" in lines[0]
    assert lines[1].startswith("80 of 100 items decided (coverage 80.0%), 20 left to whoever comes then; an item takes 1.6 calls, ")
    assert lines[-1] == "then: abstains"


async def test_what_a_cascade_may_be_expected_to_do():
    cascade = await made()
    certificates = [level.certificate for level in cascade.levels]
    found = expected(certificates)
    assert (found.n, found.decided, found.calls) == (100, 80, pytest.approx(1.6))
    assert found.usd == pytest.approx(0.6 * certificates[1].usd), "the cheap one is free, and the strong one is asked about 60 of 100"
    priceless = certificates[1].model_copy(update={"usd": None})
    assert expected([certificates[0], priceless]).usd is None
    silent = certificates[1].model_copy(update={"calibration": certificates[1].calibration.model_copy(update={"threshold": None})})
    assert (expected([certificates[0], silent]).decided, expected([certificates[0], silent]).calls) == (40, 1.0)


async def test_the_strong_judge_on_all_items_would_have_got_another_threshold():
    alone = await calibrate(judge("strong"), hundred(), 0.1, 0.1)
    assert alone.certificate.calibration.threshold is None  # it is sure and wrong where the cheap one decides


async def test_the_first_level_that_is_sure_decides():
    cascade = await made()
    cheap, strong = (level.judge.model for level in cascade.levels)
    before = cheap.calls, strong.calls
    grade = await cascade.grade(task(), episode("cheap 1 95 strong 0 99"))
    assert (grade.score, grade.words, grade.parts["level"]) == (1.0, "cheap says so", 1.0)
    assert (cheap.calls, strong.calls) == (before[0] + 1, before[1])
    grade = await cascade.grade(task(), episode("cheap 1 60 strong 0 85"))
    assert (grade.score, grade.confidence, grade.parts["level"]) == (0.0, 0.85, 2.0)
    assert (grade.parts["level_1_confidence"], grade.parts["level_2_confidence"]) == (0.6, 0.85)
    assert (grade.parts["level_1_usd"], grade.parts["level_2_calls"]) == (0.0, 1.0)
    assert grade.parts["level_2_usd"] > 0
    grade = await cascade.grade(task(), episode("cheap 1 60 strong 0 70"))
    assert (grade.score, grade.abstained, grade.parts["level"]) == (None, True, 0.0)
    assert "level 1: the judge is not sure enough: its confidence is 0.6, and 0.9 is needed" in grade.words


async def test_what_no_judge_decides_goes_on_to_the_grader_after_them():
    cascade = await made()
    asked: list[str] = []

    def person(of: tt.Task, attempt: tt.Episode) -> tuple[float | None, str]:
        asked.append(attempt.answer)
        return (0.5, "so so") if "answered" in attempt.answer else (None, "waits for a person")

    whole = with_then(cascade, person)
    assert whole.name != cascade.name
    assert (await whole.grade(task(), episode("cheap 1 95 strong 1 1"))).score == 1.0
    assert asked == []
    grade = await whole.grade(task(), episode("answered cheap 1 60 strong 0 70"))
    assert (grade.score, grade.words, grade.parts["level"]) == (0.5, "so so", 3.0)
    waiting = await whole.grade(task(), episode("cheap 1 60 strong 0 70"))
    assert (waiting.score, waiting.abstained, waiting.parts["level"]) == (None, False, 0.0)  # so that it is graded again later
    assert waiting.words == "waits for a person"


async def test_a_level_that_fails_passes_the_case_on():
    cascade = await made()
    grade = await cascade.grade(task(), episode("cheap x 0 strong 1 85"))
    assert (grade.score, grade.parts["level"]) == (1.0, 2.0)
    assert "level_1_calls" not in grade.parts
    nobody = await grade_episode(cascade, task(), episode("cheap x 0 strong 1 10"))
    assert "grader failed: GraderError: the judge's model failed: down" in nobody.words
    assert not nobody.abstained
    grade = await with_then(cascade, lambda *_: 1.0).grade(task(), episode("cheap x 0 strong 1 10"))
    assert grade.parts["level"] == 3.0


async def test_a_level_that_abstains_always_is_passed_over():
    toss = [item(number, "1 90", "1 95", "right") for number in range(60)]
    toss = [
        one.model_copy(update={"answers": (one.answers[0].replace("cheap 1 90", f"cheap {number % 2} 90"),)})
        for number, one in enumerate(toss)
    ]
    cascade = await calibrate_cascade([judge("cheap"), judge("strong")], toss, 0.1, 0.1)
    assert cascade.levels[0].certificate.calibration.threshold is None
    cheap = cascade.levels[0].judge.model
    before = cheap.calls
    grade = await cascade.grade(task(), episode("cheap 1 99 strong 1 99"))
    assert (grade.score, grade.parts["level"], cheap.calls) == (1.0, 2.0, before)
    assert "level 1: the judge abstains always" in (await cascade.grade(task(), episode("cheap 1 99 strong 1 5"))).words


async def test_where_nothing_is_left_over_later_levels_decide_nothing():
    certain = [item(number, "1 90", "1 95") for number in range(60)]
    cascade = await calibrate_cascade([judge("cheap"), judge("strong")], certain, 0.1, 0.1)
    assert cascade.levels[1].judge.model.calls == 0
    assert cascade.levels[1].certificate.calibration.threshold is None
    assert cascade.levels[1].certificate.calls == 0.0


async def test_what_the_grades_say_of_the_cascade():
    cascade = with_then(await made(), lambda _, attempt: 1.0 if "person" in attempt.answer else None)
    answers = [
        "cheap 1 95 strong 1 1",
        "cheap 1 95 strong 1 1",
        "cheap 1 10 strong 1 90",
        "cheap 1 1 strong 1 1 person",
        "cheap 1 1 strong 1 1",
    ]
    grades = [await cascade.grade(task(), episode(answer)) for answer in answers]
    found = summarise([*grades, Grade(score=1.0)], 2)
    assert (found.n, found.then, found.undecided) == (5, 1, 1)
    assert [(level.asked, level.decided, level.calls) for level in found.levels] == [(5, 2, 5), (3, 1, 3)]
    assert found.levels[1].usd == pytest.approx(sum(grade.parts.get("level_2_usd") or 0 for grade in grades))
    assert found.lines()[0] == "level 1: asked 5, decided 2 of 5 (40.0%), 5 calls, 0.0000 USD"
    unknown = [grade.model_copy(update={"parts": {**grade.parts, "level_1_usd": None}}) for grade in grades]
    assert summarise(unknown, 2).levels[0].usd is None
    assert "cost unknown" in summarise(unknown, 2).lines()[0]
    assert summarise([], 2).lines()[-1] == "undecided: 0 of 0"


async def test_a_cascade_is_saved_and_loaded(tmp_path):
    cascade = await made(domain="doors")
    path = tmp_path / "cascade.json"
    cascade.save(path)
    judges = [level.judge for level in cascade.levels]
    again = load_cascade(path, judges=judges, domain="doors")
    assert again.name == cascade.name
    assert [level.certificate for level in again.levels] == [level.certificate for level in cascade.levels]
    with pytest.raises(InputError, match="its model is scripted:strong, and was scripted:cheap"):
        load_cascade(path, judges=judges[::-1])
    with pytest.raises(InputError, match="2 levels, and 1 judges"):
        load_cascade(path, judges=judges[:1])
    with pytest.raises(InputError, match="not for `windows`"):
        load_cascade(path, judges=judges, domain="windows")
    with pytest.raises(InputError, match="holds a `cascade` grader"):
        load_calibrated(path)


async def test_levels_that_were_not_calibrated_together_are_refused():
    cascade = await made()
    alone = await calibrate(judge("strong"), hundred(), 0.1, 0.1)
    for levels, words in [
        ([], "one judge at least"),
        (cascade.levels[::-1], "level 1 was not calibrated"),
        (cascade.levels[1:], "level 1 was not calibrated"),
        ([cascade.levels[0], alone], "level 2 was not calibrated"),
    ]:
        with pytest.raises(InputError, match=words):
            Cascade(levels)
    assert Cascade(cascade.levels[:1]).name != cascade.name  # the first by itself is still what it was


async def test_bad_input_is_refused_before_anything_is_spent():
    cheap, pairs = judge("cheap"), PairwiseJudge("scripted:echo", "It is right.")
    for judges, labelled, words in [
        ([], hundred(), "one judge at least"),
        ([cheap, pairs], hundred(), "either single answers or pairs"),
        ([cheap, judge("strong")], hundred()[:28], "29 are needed|30 at least"),  # 22 would do for one level
    ]:
        with pytest.raises(InputError, match=words):
            await calibrate_cascade(judges, labelled, 0.1, 0.1)
    assert cheap.model.calls == 0


async def test_a_bound_cascade_asks_the_models_it_is_given():
    cascade = with_then(await made(), lambda *_: 1.0)
    given = {name: tt.Scripted(reads(name.partition(":")[2]), name=name) for name in ("scripted:cheap", "scripted:strong")}
    before = [level.judge.model.calls for level in cascade.levels]
    bound = cascade.bind(lambda which: given[which.name])
    assert (await bound.grade(task(), episode("cheap 1 1 strong 1 90"))).parts["level"] == 2.0
    assert [level.judge.model.calls for level in cascade.levels] == before
    assert [model.calls for model in given.values()] == [1, 1]
    assert bound.name == cascade.name


async def test_a_model_that_is_gone_ends_the_run():
    cascade = await made()
    gone = cascade.bind(lambda which: tt.Scripted(ModelUnavailable("gone"), name=which.name))
    with pytest.raises(ModelUnavailable):
        await grade_episode(gone, task(), episode("cheap 1 1 strong 1 1"))
    with pytest.raises(GraderError):
        await cascade.decide(Case(question="", answers=("cheap x 1 strong x 1",)))


async def test_what_the_levels_need_is_checked():
    cascade = await made()
    cascade.check(task())
    with_then(cascade, lambda *_: 1.0).check(task())
    pairs = [
        Labelled(id=f"p{number}", kind="pairwise", task="What?", answers=(f"yes {number}", f"no {number}"), label="a")
        for number in range(60)
    ]

    def first_letter(messages, *_):
        shown = re.findall(r"(yes|no) \d+", messages[-1].text)[-2:]
        return json.dumps({"why": "", "verdict": 1 + shown.index("yes"), "confidence": 90})

    of_pairs = PairwiseJudge(tt.Scripted(first_letter, name="scripted:pairs"), "It is right.")
    compared = await calibrate_cascade([of_pairs, of_pairs], pairs, 0.1, 0.1)
    decision = await compared.decide(Case(question="What?", answers=("no 1", "yes 1")))
    assert (decision.level, decision.opinion.verdict) == (1, "b")
    with pytest.raises(InputError, match="cannot grade a single one"):
        compared.check(task())
    assert isinstance(compared.levels[0], CalibratedJudge)
