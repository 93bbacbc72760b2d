"""The monitor kept beside a certificate: its log can be replayed, is only added to, and what it withdrew is refused with the reason."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

import tutelage as tt
from tutelage.errors import InputError, StoreError
from tutelage.graders.audit import Audit, replay
from tutelage.graders.calibrated_judge import CalibratedJudge, calibrate, load_calibrated
from tutelage.graders.cascade import Cascade, calibrate_cascade, load_cascade
from tutelage.graders.certificate import Certificate
from tutelage.graders.judge import Judge
from tutelage.graders.labels import Labelled
from tutelage.graders.load import make_grader
from tutelage.graders.monitored import Drawn, Trail, log_of, promise_of, require_standing


def reads(messages, *_) -> str:
    said, sure = re.findall(r"says (\d) sure (\d+)", messages[-1].text)[-1]
    return json.dumps({"why": "", "score": int(said), "confidence": int(sure)})


def judge(name: str = "scripted:judge") -> Judge:
    return Judge(tt.Scripted(reads, name=name), "It is right.", scale=1)


def items(n: int = 60) -> list[Labelled]:
    texts = [f"answer {number} says 1 sure {90 if number < 40 else 50}" for number in range(n)]
    labels = ["right" if number < 40 or number % 2 else "wrong" for number in range(n)]
    return [
        Labelled(id=f"i{n}", kind="right_wrong", task="What?", answers=(text,), label=label)
        for n, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]


@pytest.fixture
async def calibrated(tmp_path: Path) -> CalibratedJudge:
    found = await calibrate(judge(), items(), 0.1, 0.1)
    found.save(tmp_path / "judge.json")
    return found


def trail_of(tmp_path: Path, *certificates: Certificate) -> Trail:
    return Trail(tmp_path / "judge.json", certificates)


def look(trail: Trail, number: int, agrees: bool) -> None:
    item = f"item {number}"
    trail.draw(Drawn(promise=trail.promise.id, item=item, says=1.0, rate=0.1, when=datetime.now(UTC)))
    trail.audit(item, 1.0 if agrees else 0.0, agrees=agrees, annotator="Ann")


def test_the_promise_of_one_judge_and_of_a_cascade(calibrated):
    alone = promise_of([calibrated.certificate])
    assert (alone.id, alone.alpha, alone.delta) == (calibrated.certificate.id, 0.1, 0.1)


async def test_a_cascade_promises_for_all_levels_together():
    cascade = await calibrate_cascade([judge("scripted:a"), judge("scripted:b")], [*items(), *items_more()], 0.1, 0.1)
    promise = promise_of([level.certificate for level in cascade.levels])
    assert (promise.alpha, promise.delta) == (0.1, 0.1)
    assert promise.id not in [level.certificate.id for level in cascade.levels]
    assert cascade.name == f"cascade:{promise.id}"
    assert Cascade(cascade.levels, tt.FunctionGrader(lambda *_: 1.0, "people")).name == f"cascade:{promise.id}+people"


def items_more() -> list[Labelled]:
    return [one.model_copy(update={"id": f"more {one.id}", "task": "What else?"}) for one in items()]


def test_the_log_says_all_and_is_replayed(tmp_path, calibrated):
    trail = trail_of(tmp_path, calibrated.certificate)
    seen = [True, False, True, True, False]
    for number, agrees in enumerate(seen):
        look(trail, number, agrees)
    expected = replay([Audit(item=str(n), agrees=agrees) for n, agrees in enumerate(seen)], 0.1, 0.1)
    again = trail_of(tmp_path, calibrated.certificate)
    assert again.monitor == trail.monitor == expected
    assert again.history[-1] == expected
    assert [one.n for one in again.history] == [1, 2, 3, 4, 5]
    assert [json.loads(line)["did"] for line in log_of(tmp_path / "judge.json").read_text().splitlines()] == ["drawn", "audited"] * 5


def test_only_what_was_drawn_counts_and_only_once(tmp_path, calibrated):
    trail = trail_of(tmp_path, calibrated.certificate)
    with pytest.raises(InputError, match="`chosen` was not drawn"):
        trail.audit("chosen", 1.0, agrees=True)
    look(trail, 1, agrees=True)
    before = trail.path.read_bytes()
    trail.audit("item 1", 0.0, agrees=False)
    assert trail.path.read_bytes() == before, "the first word on an item stands"
    trail.draw(Drawn(promise=trail.promise.id, item="item 2", says=1.0, rate=0.1, when=datetime.now(UTC)))
    assert [one.item for one in trail.waiting] == ["item 2"]


def test_a_withdrawn_certificate_is_refused_with_the_reason(tmp_path, calibrated):
    file = tmp_path / "judge.json"
    trail = trail_of(tmp_path, calibrated.certificate)
    for number in range(4):
        look(trail, number, agrees=False)
    assert trail.withdrawn() == ""
    assert load_calibrated(file, judge=judge()).name == calibrated.name
    for number in range(4, 30):
        look(trail, number, agrees=number > 10)
    with pytest.raises(InputError, match="may not decide any more: its certificate was withdrawn on") as refused:
        load_calibrated(file, judge=judge())
    assert refused.value.field == "grader"
    at = trail.monitor.withdrawn_at
    assert f"people disagree with {at} of {at} audited verdicts (100%), and at most 10% was promised" in refused.value.message
    assert "10 to 1 is enough" in refused.value.message
    with pytest.raises(InputError, match="withdrawn"):
        make_grader({"calibrated": {"file": "judge.json", "judge": judge()}}, tmp_path)
    assert trail.monitor.n == 30, "what follows is counted and changes nothing"


async def test_a_cascade_is_refused_too(tmp_path):
    judges = [judge("scripted:a"), judge("scripted:b")]
    cascade = await calibrate_cascade(judges, [*items(), *items_more()], 0.1, 0.1)
    cascade.save(tmp_path / "judge.json")
    trail = trail_of(tmp_path, *(level.certificate for level in cascade.levels))
    for number in range(12):
        look(trail, number, agrees=False)
    with pytest.raises(InputError, match="withdrawn"):
        load_cascade(tmp_path / "judge.json", judges=judges)


async def test_a_new_calibration_begins_anew_and_the_same_one_does_not(tmp_path, calibrated):
    trail = trail_of(tmp_path, calibrated.certificate)
    for number in range(12):
        look(trail, number, agrees=False)
    (await calibrate(judge(), items(), 0.1, 0.1)).save(tmp_path / "judge.json")
    with pytest.raises(InputError, match="withdrawn"):
        load_calibrated(tmp_path / "judge.json", judge=judge())  # the same labels prove nothing new
    fresh = await calibrate(judge(), items_more(), 0.1, 0.1)
    fresh.save(tmp_path / "judge.json")
    assert load_calibrated(tmp_path / "judge.json", judge=judge()).certificate.id == fresh.certificate.id
    assert trail_of(tmp_path, fresh.certificate).monitor.n == 0


def test_half_a_line_that_a_crash_left_says_nothing_and_goes(tmp_path, calibrated):
    trail = trail_of(tmp_path, calibrated.certificate)
    look(trail, 1, agrees=True)
    whole = trail.path.read_bytes()
    trail.path.write_bytes(whole + b'{"did": "audi')
    again = trail_of(tmp_path, calibrated.certificate)
    assert again.monitor == trail.monitor
    look(again, 2, agrees=False)
    assert again.path.read_bytes().startswith(whole)
    assert trail_of(tmp_path, calibrated.certificate).monitor.disagreements == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("not json", ":1: not valid JSON"),
        ('{"did": "forgotten"}', "field `did`: no event of an audit that this version knows: 'forgotten'"),
        ('{"did": "audited", "promise": "p"}', ":1: field `item`: Field required"),
        ("[]", "an array"),
    ],
)
def test_a_log_that_is_something_else_is_refused(tmp_path, calibrated, line, reason):
    log_of(tmp_path / "judge.json").write_text(line + "\n")
    with pytest.raises(InputError, match=re.escape(reason)):
        require_standing(tmp_path / "judge.json", [calibrated.certificate])


def test_a_log_that_cannot_be_written_says_so(tmp_path, calibrated):
    trail = trail_of(tmp_path, calibrated.certificate)
    log_of(tmp_path / "judge.json").mkdir()
    with pytest.raises((StoreError, InputError), match="cannot be"):
        look(trail, 1, agrees=True)
