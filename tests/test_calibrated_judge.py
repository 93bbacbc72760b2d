"""Calibrated judges: scripted judges whose confidence and errors are written into the answers, so that every number is known beforehand."""

from __future__ import annotations

import json
import math
import re

import pytest

import tutelage as tt
from tutelage.errors import BudgetExceeded, GraderError, InputError, ModelFailed
from tutelage.graders.agreement import majority
from tutelage.graders.calibrated_judge import CalibratedJudge, calibrate, load_calibrated
from tutelage.graders.certificate import Rule, differences, read_certificates
from tutelage.graders.combine import grade_episode
from tutelage.graders.judge import Judge
from tutelage.graders.judge_case import Case
from tutelage.graders.judge_confidence import Source
from tutelage.graders.judge_labels import gather, simulated_annotators
from tutelage.graders.judge_pairwise import PairwiseJudge
from tutelage.graders.labels import Labelled, votes
from tutelage.records import Completion, Message, Segment, Step, StopReason, TokenChoice

SAYS = re.compile(r"says (\d) sure (\d+)")


def reads(messages, *_) -> str:
    """A judge that finds its verdict and its confidence in the answer."""
    found = SAYS.findall(messages[-1].text)[-1]
    return json.dumps({"why": "it is written there", "score": int(found[0]), "confidence": int(found[1])})


def judge(reply=reads, name="scripted:judge", **options) -> Judge:
    return Judge(tt.Scripted(reply, name=name), "It is right.", **{"scale": 1, **options})


def item(number: int, said: int, sure: int, label="right", annotator="", kind="right_wrong") -> Labelled:
    text = f"answer {number} says {said} sure {sure}"
    return Labelled(id=f"i{number}", kind=kind, task="What?", answers=(text,), label=label, annotator=annotator)


def sixty() -> list[Labelled]:
    """40 items at .9 on which the judge is right; 20 at .5 of which it has every second wrong."""
    sure = [item(number, 1, 90) for number in range(40)]
    return sure + [item(number, 1, 50, "right" if number % 2 else "wrong") for number in range(40, 60)]


def task() -> tt.Task:
    return tt.Task(messages=(Message(role="user", content="What?"),))


def episode(answer: str) -> tt.Episode:
    step = Step(completion=Completion(message=Message(role="assistant", content=answer)))
    return tt.Episode(
        task_id=task().id, agent_version="a" * 16, segments=(Segment(context=(), steps=(step,)),), answer=answer, stop=StopReason.ANSWERED
    )


# calibrating


async def test_the_threshold_is_the_last_confidence_before_the_bound_fails():
    calibrated = await calibrate(judge(), sixty(), 0.1, 0.1, domain="doors")
    found, certificate = calibrated.certificate.calibration, calibrated.certificate
    assert (found.threshold, found.n, found.accepted, found.errors, found.min_items) == (0.9, 60, 40, 0, 30)
    assert found.coverage == pytest.approx(40 / 60)
    assert found.bound == pytest.approx(1 - 0.1 ** (1 / 40))  # no error in 40: the rate at which that has probability .1
    assert (certificate.domain, certificate.calls, certificate.usd, certificate.unjudged) == ("doors", 1.0, 0.0, 0)
    assert certificate.sources == ("the confidence that the model states",)
    text = "\n".join(certificate.lines())
    assert "agreement of at least 0.9 where it decides, with probability 0.9" in text
    assert "0.9 or more: 40 of 60 items (66.7%), of which 0 disagree" in text
    assert "60 items of doors" in text


async def test_it_grades_where_it_is_sure_and_abstains_elsewhere():
    calibrated = await calibrate(judge(), sixty(), 0.1, 0.1)
    sure = await calibrated.grade(task(), episode("says 0 sure 95"))
    assert (sure.score, sure.confidence, sure.abstained, sure.words) == (0.0, 0.95, False, "it is written there")
    unsure = await calibrated.grade(task(), episode("says 1 sure 89"))
    assert (unsure.score, unsure.confidence, unsure.abstained) == (None, 0.89, True)
    assert "0.89, and 0.9 is needed" in unsure.words
    at_the_threshold = await calibrated.grade(task(), episode("says 1 sure 90"))
    assert at_the_threshold.score == 1.0
    nothing = await calibrated.grade(task(), episode(" "))
    assert (nothing.score, nothing.confidence) == (0.0, 1.0)


async def test_a_judge_that_passes_nothing_abstains_always_and_is_not_asked():
    coin = [item(number, 1, 90, "right" if number % 2 else "wrong") for number in range(40)]
    one = judge()
    calibrated = await calibrate(one, coin, 0.1, 0.1)
    assert calibrated.certificate.calibration.threshold is None
    before = one.model.calls
    grade = await calibrated.grade(task(), episode("says 1 sure 100"))
    assert (grade.score, grade.abstained) == (None, True)
    assert "abstains always" in grade.words
    assert one.model.calls == before
    assert any("abstains always" in line for line in calibrated.certificate.lines())


async def test_a_confidence_from_another_source_than_in_the_calibration_is_not_accepted():
    calibrated = await calibrate(judge(), sixty(), 0.1, 0.1)
    stated = await calibrated.judge.opinion(Case(question="What?", answers=("says 1 sure 95",)))
    assert calibrated.accepts(stated)
    ballots = tuple(ballot.model_copy(update={"source": Source.SAMPLED}) for ballot in stated.ballots)
    sampled = stated.model_copy(update={"ballots": ballots})
    assert not calibrated.accepts(sampled)
    assert "comes from the probability of the sampled token, and it was calibrated on the confidence that the model states" in (
        calibrated.unsure(sampled)
    )
    assert calibrated.accepts(await calibrated.judge.opinion(Case(question="What?", answers=("",)))), "a rule needs no calibration"


async def test_confidences_of_two_sources_in_one_calibration_are_warned_of():
    def token(messages, tools, sampling):
        """For the first twenty items its server lists likely tokens."""
        sure = int(SAYS.findall(messages[-1].text)[-1][1]) / 100
        listed = {"1": math.log(sure), "0": math.log(1 - sure)} if "answer 1" in messages[-1].text else {}
        said = TokenChoice(text="1", logprob=math.log(sure), likeliest=listed)
        return Completion(message=Message(role="assistant", content="1"), choices=(said,))

    one = Judge(tt.Scripted(token, name="endpoint:x"), "It is right.", scale=1, confidence="token", explain=False)
    found = (await calibrate(one, sixty(), 0.1, 0.1)).certificate
    assert len(found.sources) == 2
    assert any("now from one source and now from another" in warning for warning in found.warnings)


async def test_fewer_than_thirty_items_for_a_threshold_is_warned_of():
    calibrated = await calibrate(judge(), sixty(), 0.1, 0.1, min_items=22)
    assert any("22 items were tested" in warning for warning in calibrated.certificate.warnings)


async def test_items_on_which_the_judge_fails_are_counted_and_never_accepted():
    def fails(messages, *_):
        return ModelFailed("down") if re.search(r"answer 5[0-9]", messages[-1].text) else reads(messages)

    calibrated = await calibrate(judge(fails), sixty(), 0.1, 0.1)
    found = calibrated.certificate
    assert (found.unjudged, found.calibration.n, found.calibration.abstained) == (10, 60, 10)
    assert any("failed on 10 of 60" in warning for warning in found.warnings)
    with pytest.raises(GraderError, match="failed on all of 60 cases; the last time: the judge's model failed: down"):
        await calibrate(judge(lambda *_: ModelFailed("down")), sixty(), 0.1, 0.1)


async def test_an_interrupted_calibration_goes_on_where_it_was():
    model = tt.Scripted(reads, name="scripted:judge")
    one = Judge(model, "It is right.", scale=1)
    store = tt.Store(":memory:")

    def bound(calls: int | None) -> Judge:
        collector = tt.Collector(lambda *_: 1.0, store=store, budget=tt.Budget(calls=calls))
        return one.bind(lambda which: collector.model_named(which.name, lambda: which))

    with pytest.raises(BudgetExceeded):
        await calibrate(bound(25), sixty(), 0.1, 0.1)
    assert model.calls == 25
    calibrated = await calibrate(bound(None), sixty(), 0.1, 0.1)
    assert model.calls == 60
    assert calibrated.certificate.calibration.threshold == 0.9


async def test_peoples_majority_counts_and_their_own_agreement_is_stated():
    crowd = [one.model_copy(update={"annotator": name}) for one in sixty() for name in ("Ann", "Bob", "Cem")]
    # Cem sees it the other way on the first ten, Ann and Bob outvote Cem
    crowd = [one.model_copy(update={"label": "wrong"}) if one.annotator == "Cem" and int(one.id[1:]) < 10 else one for one in crowd]
    split = [
        item(99, 1, 90, "right", "Ann"),
        item(99, 1, 90, "wrong", "Bob"),
        item(98, 1, 90, "right", "Ann"),
        item(98, 1, 90, "wrong", "Ann"),
    ]
    certificate = (await calibrate(judge(), [*crowd, *split], 0.1, 0.1)).certificate
    assert (certificate.calibration.n, certificate.calibration.errors, certificate.left_out) == (60, 0, 2)
    assert certificate.people.annotators == 3
    assert 0.5 < certificate.people.krippendorff < 1
    assert any("`Ann` labelled 1 item in two ways" in warning for warning in certificate.warnings)
    assert f"{certificate.people.krippendorff:.2f}" in "\n".join(certificate.lines())


async def test_one_class_of_labels_is_warned_of():
    certificate = (await calibrate(judge(), [item(number, 1, 90) for number in range(40)], 0.1, 0.1)).certificate
    assert any("labels of one class" in warning for warning in certificate.warnings)


async def test_scores_agree_on_the_same_side_or_within_a_distance():
    def scored(label: float) -> list[Labelled]:
        return [item(number, 3, 90, label, kind="score") for number in range(40)]

    one = judge(scale=4)  # says .75
    for rule, label, errors in [
        (Rule(), 0.6, 0),
        (Rule(), 0.4, 40),
        (Rule(success=0.8), 0.79, 0),
        (Rule(success=0.7), 0.6, 40),
        (Rule(within=0.15), 0.6, 0),
        (Rule(within=0.14), 0.6, 40),
        (Rule(score_range=(1, 5)), 4.0, 0),
        (Rule(score_range=(1, 5), within=0), 4.0, 0),
    ]:
        found = (await calibrate(one, scored(label), 0.1, 0.1, rule=rule)).certificate.calibration
        assert (found.threshold is None) is (errors > 0), (rule, label)
    with pytest.raises(InputError, match=re.escape("score_range: [1, 5]")):
        await calibrate(one, scored(4.0), 0.1, 0.1)


def test_people_of_scores_are_averaged():
    rows = [item(1, 1, 1, 2.0, "Ann", "score"), item(1, 1, 1, 5.0, "Bob", "score"), item(1, 1, 1, 1.0, "Cem", "score")]
    gathered = gather([*rows, item(1, 1, 1, 3.0, "Cem", "score")], score_range=(1, 5))
    assert gathered.cases[0].label == pytest.approx((3.5 - 1) / 4)  # Cem said two things


# pairs


def pair(number: int, label: str, sure: int = 90, better: int = 1) -> Labelled:
    answers = (f"first {number} good{better} sure {sure}", f"second {number}")
    return Labelled(id=f"p{number}", kind="pairwise", task="What?", answers=answers, label=label)


def compares(messages, *_) -> str:
    """Prefers the answer that says good1, sure as it says; told good2 it prefers the other, told good0 the one that stands first."""
    shown = re.findall(r"(first|second) \d+(?: good(\d) sure (\d+))?", messages[-1].text)[-2:]
    place, (_, better, sure) = next((place, found) for place, found in enumerate(shown, 1) if found[1])
    verdict = {"1": place, "2": 3 - place, "0": 1}[better]
    return json.dumps({"why": "", "verdict": verdict, "confidence": int(sure)})


async def test_a_judge_of_pairs_is_calibrated_with_its_bias_measured():
    labelled = [pair(number, "a" if number % 2 else "b", better=1 if number % 2 else 2) for number in range(40)]
    labelled += [pair(number, "a", better=0) for number in range(40, 60)]
    one = PairwiseJudge(tt.Scripted(compares, name="scripted:judge"), "It is right.")
    calibrated = await calibrate(one, labelled, 0.1, 0.1)
    found = calibrated.certificate
    assert (found.calibration.threshold, found.calibration.accepted, found.calls) == (pytest.approx(0.9), 40, 2.0)
    assert found.place.flips.value == pytest.approx(20 / 60)
    assert found.length.beyond.n == 60
    assert any("changes with the order of the answers: 33.3%" in line for line in found.lines())
    opinion = await calibrated.opinion(Case(question="What?", answers=("second 3", "first 3 good1 sure 95")))
    assert opinion.verdict == "b"
    assert calibrated.accepts(opinion)
    with pytest.raises(InputError, match="cannot grade a single one"):
        calibrated.check(task())
    no_ties = PairwiseJudge(tt.Scripted(compares, name="scripted:judge"), "It is right.", ties=False)
    tied = [one.model_copy(update={"label": "tie"}) if one.id == "p1" else one for one in labelled]
    assert any("1 pairs a tie" in warning for warning in (await calibrate(no_ties, tied, 0.1, 0.1)).certificate.warnings)


# bad input


async def refused(words: str, labelled, one: Judge | PairwiseJudge | None = None, **options) -> None:
    used = one or judge()
    with pytest.raises(InputError, match=words):
        await calibrate(used, labelled, **{"alpha": 0.1, "delta": 0.1, **options})
    assert used.model.calls == 0  # before anything is spent


async def test_labels_that_do_not_do_are_refused_before_anything_is_spent():
    await refused("22 are needed", sixty()[:20])
    await refused("30 at least", sixty()[:25])
    tied = [
        one.model_copy(update={"annotator": who, "label": label}) for one in sixty() for who, label in (("Ann", "right"), ("Bob", "wrong"))
    ]
    await refused("0 labelled items cannot show .* People did not settle on 60 others, which are left out", tied)
    await refused("between 0 and 1", sixty(), alpha=1.0)
    await refused("between 0 and 1", sixty(), delta=math.nan)
    await refused("no labelled items", [])
    await refused("reads single answers, and the labels are of pairs", [pair(number, "a") for number in range(40)])
    await refused("compares two answers", sixty(), PairwiseJudge(tt.Scripted(compares, name="scripted:judge"), "It is right."))
    await refused("several kinds", [*sixty(), pair(1, "a")])
    textless = [Labelled(id=f"i{number}", kind="right_wrong", label="right", source="votes.csv:7") for number in range(40)]
    await refused("votes.csv:7: field `answer`: the item `i0` has no answer", textless)
    await refused("the item `i0` has none", sixty(), judge(reference=True))


async def test_references_reach_the_judge_by_item():
    one = judge(reference=True)
    await calibrate(one, [item.model_copy(update={"reference": f"reference {item.id[1:]}"}) for item in sixty()], 0.1, 0.1)
    assert "reference 7" in next(request.messages[-1].text for request in one.model.requests if "answer 7 " in request.messages[-1].text)


async def test_examples_of_the_annotators_are_not_calibrated_on():
    people = simulated_annotators(sixty()[:10], n=2, k=3)
    one = judge(confidence="votes", annotators=people)
    await refused("examples of the judge's simulated annotators", sixty(), one)
    await refused("30 at least", sixty()[10:38], one)


# simulated annotators


def by(name: str, count: int) -> list[Labelled]:
    return [item(number, 1, 50, "right" if number % 2 else "wrong", name) for number in range(count)]


def test_people_are_simulated_by_their_own_labels():
    labelled = [*by("Ann", 6), *by("Bob", 5), *by("Cem", 2)]
    people = simulated_annotators(labelled, n=2, k=4)
    assert {one.name for one in people} == {"Ann", "Bob"}
    assert all(len(one.examples) == 4 for one in people)
    assert people == simulated_annotators(list(reversed(labelled)), n=2, k=4)
    assert people != simulated_annotators(labelled, n=2, k=4, seed=1)
    assert all(example.label in (0.0, 1.0) for one in people for example in one.examples)
    with pytest.raises(InputError, match="3 people with 4 labelled items each are to be simulated, and there are 2"):
        simulated_annotators(labelled, n=3, k=4)
    contrary = [*by("Ann", 4), item(0, 1, 50, "right", "Ann")]  # its first vote was wrong
    with pytest.raises(InputError, match="there are 0"):
        simulated_annotators(contrary, n=1, k=4)


def test_where_nobody_is_named_subsets_are_drawn():
    people = simulated_annotators(by("", 8), n=3, k=3)
    assert [one.name for one in people] == ["subset 1", "subset 2", "subset 3"]
    assert len({one.examples for one in people}) == 3
    crowd = [*by("Ann", 8), *by("Bob", 8), item(0, 1, 50, "right", "Cem"), item(0, 1, 50, "right", "Dan"), item(0, 1, 50, "right", "Eve")]
    settled = majority(votes(crowd)).labels
    drawn = [example for one in simulated_annotators(crowd, n=5, k=5, people=False) for example in one.examples]
    assert settled["i0"] == "right"
    assert {example.label for example in drawn if "answer 0 " in example.case.answers[0]} == {1.0}
    with pytest.raises(InputError, match="only 3 items have a label"):
        simulated_annotators(by("", 3), n=2, k=3)
    assert len(simulated_annotators(by("", 3), n=1, k=3)) == 1
    for n, k in ((0, 3), (3, 0)):
        with pytest.raises(InputError, match="at least one annotator"):
            simulated_annotators(by("", 8), n=n, k=k)


def test_pairs_make_examples_of_pairs():
    labelled = [pair(number, label) for number, label in enumerate(["a", "b", "tie", "a"])]
    (one,) = simulated_annotators(labelled, n=1, k=4)
    assert sorted(str(example.label) for example in one.examples) == ["a", "a", "b", "tie"]
    assert all(len(example.case.answers) == 2 for example in one.examples)


# files


def saved(tmp_path, calibrated: CalibratedJudge):
    path = tmp_path / "judge.json"
    calibrated.save(path)
    return path


async def test_what_is_saved_is_loaded_again(tmp_path):
    people = simulated_annotators([item(number, 1, 50, "right", f"P{number % 3}") for number in range(100, 112)], n=3, k=2)
    one = judge(confidence="stated", annotators=people, max_chars=5_000)
    calibrated = await calibrate(one, sixty(), 0.1, 0.2, domain="doors")
    path = saved(tmp_path, calibrated)
    assert load_calibrated(path, judge=one).certificate == calibrated.certificate
    again = load_calibrated(path, model=one.model, domain="doors")
    assert again.name == calibrated.name == f"calibrated:{calibrated.certificate.id}"
    assert again.judge.version == one.version
    assert again.judge.options == one.options
    grade = await again.grade(task(), episode("says 1 sure 95"))
    assert grade.score == 1.0
    pairs = PairwiseJudge(tt.Scripted(compares, name="scripted:judge"), "It is right.", ties=False)
    of_pairs = await calibrate(pairs, [pair(number, "a") for number in range(40)], 0.1, 0.1)
    remade = load_calibrated(saved(tmp_path, of_pairs), model=pairs.model)
    assert isinstance(remade.judge, PairwiseJudge)
    assert remade.certificate == of_pairs.certificate


async def test_a_judge_that_changed_loses_its_certificate(tmp_path, monkeypatch):
    one = judge()
    path = saved(tmp_path, await calibrate(one, sixty(), 0.1, 0.1, domain="doors"))
    other_model = tt.Scripted(reads, name="scripted:newer")
    for changed, words in [
        (judge(name="scripted:newer"), "its model is scripted:newer, and was scripted:judge"),
        (Judge(one.model, "It is kind.", scale=1), "its criteria changed"),
        (judge(scale=2), "its option `scale` changed"),
        (PairwiseJudge(one.model, "It is right."), "for a judge of kind judge, and this one is of kind pairwise"),
    ]:
        with pytest.raises(InputError, match=words) as refusal:
            load_calibrated(path, judge=changed)
        assert str(path) in str(refusal.value)
        with pytest.raises(InputError, match=words):
            CalibratedJudge(changed, load_calibrated(path, judge=one).certificate)
    with pytest.raises(InputError, match="its model is scripted:newer"):
        load_calibrated(path, model=other_model)
    for domain in ("windows", ""):
        with pytest.raises(InputError, match=f"the certificate is for `doors`, and not for `{domain}`"):
            load_calibrated(path, judge=one, domain=domain)
    monkeypatch.setattr("tutelage.graders.judge_prompts._SYSTEM", "Judge well.")
    with pytest.raises(InputError, match="the prompts of judges changed"):
        load_calibrated(path, judge=judge())


def test_differences_of_the_same_judge_are_none():
    assert differences(judge().described(), judge().described()) == []


async def test_a_file_that_was_touched_promises_nothing(tmp_path):
    one = judge()
    path = saved(tmp_path, await calibrate(one, sixty(), 0.1, 0.1))
    content = json.loads(path.read_text())
    content["certificates"][0]["calibration"]["threshold"] = 0.1
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="was changed after it was written"):
        load_calibrated(path, judge=one)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read as JSON"),
        ("[1]", "no file of a calibrated judge"),
        ('{"format": 2, "kind": "calibrated", "certificates": []}', "the format 2, and this version reads 1"),
        ('{"format": 1, "kind": "cascade", "certificates": []}', "holds a `cascade` grader"),
        ('{"format": 1, "kind": "calibrated", "certificates": [{"id": "x"}]}', "Field required"),
        ('{"format": 1, "kind": "calibrated", "certificates": [5]}', "Field required"),
        ('{"format": 1, "kind": "calibrated", "certificates": []}', "one certificate that stands by itself"),
    ],
)
def test_files_that_are_none(tmp_path, text, words):
    path = tmp_path / "judge.json"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        load_calibrated(path)
    with pytest.raises(InputError, match="no such file"):
        read_certificates(tmp_path / "jugde.json", "calibrated")


# in a study


async def test_abstentions_are_not_graded_and_not_asked_again():
    one = judge()
    calibrated = await calibrate(one, sixty(), 0.1, 0.1)
    before = one.model.calls
    agent = tt.Agent(model=tt.Scripted(lambda messages, *_: messages[-1].text, name="scripted:agent"))
    tasks = [tt.Task(messages=(Message(role="user", content=f"says 1 sure {sure}"),)) for sure in (95, 60)]
    collector = tt.Collector(calibrated)
    practice = tt.Practice(tasks, collector)
    for _ in range(2):
        grades = [experience.grade for experience in await practice.collect(agent)]
        assert [grade.score for grade in grades] == [1.0, None]
        assert [grade.abstained for grade in grades] == [False, True]
    assert one.model.calls == before + 2
    broken = await grade_episode(CalibratedJudge(one, calibrated.certificate), task(), episode("says nothing"))
    assert not broken.abstained
    assert "grader failed" in broken.words
