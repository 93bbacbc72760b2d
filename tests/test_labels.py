"""Labelled items: reading human preferences of several shapes, bad files, writing, splitting."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tutelage.errors import InputError, StoreError
from tutelage.graders.agreement import Vote, majority
from tutelage.graders.labels import (
    Item,
    Labelled,
    append_labelled,
    label_warnings,
    read_items,
    read_labelled,
    split_labelled,
    votes,
    write_labelled,
)

PAIRS = """\
question_id,question,answer_1,answer_2,winner,judge
1,Which?,this,that,model_a,ann
1,Which?,this,that,model_b,bob
2,"More, or less?",more,less,tie,ann
"""
MAPPING = {"id": "question_id", "task": "question", "a": "answer_1", "b": "answer_2", "label": "winner", "annotator": "judge"}


def file(folder: Path, text: str, name: str = "votes.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def rows(folder: Path, *given: dict, name: str = "votes.jsonl") -> Path:
    return file(folder, "".join(json.dumps(row) + "\n" for row in given), name)


def refused(path: Path, columns=None, read=read_labelled, **options) -> str:
    with pytest.raises(InputError) as caught:
        read(path, columns, **options)
    return str(caught.value)


def test_pairs_from_a_csv_with_one_mapping(tmp_path):
    found = read_labelled(file(tmp_path, PAIRS), MAPPING)
    assert found[0] == Labelled(
        id="1", kind="pairwise", task="Which?", answers=("this", "that"), label="a", annotator="ann", source=f"{tmp_path}/votes.csv:2"
    )
    assert votes(found) == (Vote("1", "ann", "a"), Vote("1", "bob", "b"), Vote("2", "ann", "tie"))
    assert found[2].task == "More, or less?"
    assert majority(votes(found)).tied == ("1",)


def test_the_same_from_json_lines_and_tabs(tmp_path):
    lines = PAIRS.splitlines()[:3]
    objects = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    expected = [one.model_copy(update={"source": None}) for one in read_labelled(file(tmp_path, PAIRS), MAPPING)[:2]]
    tabs = file(tmp_path, "\n".join(line.replace(",", "\t") for line in lines), "votes.tsv")
    for path in (rows(tmp_path, *objects), tabs):
        assert [one.model_copy(update={"source": None}) for one in read_labelled(path, MAPPING)] == expected


def test_a_column_for_each_annotator(tmp_path):
    path = file(tmp_path, "id,text,ann,bob,cy\n1,x,right,wrong,\n2,y,,,\n3,z,0,1,TRUE\n")
    found = read_labelled(path, {"id": "id", "answer": "text", "label": ["ann", "bob", "cy"]})
    assert [(one.id, one.annotator, one.label) for one in found] == [
        ("1", "ann", "right"),
        ("1", "bob", "wrong"),
        ("3", "ann", "wrong"),
        ("3", "bob", "right"),
        ("3", "cy", "right"),
    ]
    assert [one.id for one in read_items(path, {"id": "id", "answer": "text", "label": ["ann", "bob", "cy"]})] == ["1", "2", "3"]


def test_names_with_dots_look_inside_objects(tmp_path):
    path = rows(tmp_path, {"question": "2 + 2?", "small": {"is_correct": False, "solution": "5"}}, {"question": "1?", "small.x": 1})
    columns = {"task": "question", "answer": "small.solution", "label": "small.is_correct"}
    assert "votes.jsonl:2: field `answer`: the answer is empty" in refused(path, columns)
    (one,) = read_labelled(rows(tmp_path, {"question": "2 + 2?", "small": {"is_correct": False, "solution": "5"}}), columns)
    assert (one.kind, one.label, one.answers) == ("right_wrong", "wrong", ("5",))


@pytest.mark.parametrize(
    ("written", "kind", "label"),
    [(True, "right_wrong", "right"), (0, "right_wrong", "wrong"), ("Correct", "right_wrong", "right"), ("1.0", "right_wrong", "right"),
     (3, "score", 3.0), ("4.5", "score", 4.5), (0.5, "score", 0.5), (-1, "score", -1.0)],
)  # fmt: skip
def test_the_kind_of_single_answers_is_read_off_their_labels(tmp_path, written, kind, label):
    (one,) = read_labelled(rows(tmp_path, {"id": 1, "answer": "x", "label": written}))
    assert (one.kind, one.label, type(one.label)) == (kind, label, type(label))


def test_one_score_makes_them_all_scores_and_the_kind_may_be_said(tmp_path):
    path = rows(tmp_path, {"id": 1, "label": 1}, {"id": 2, "label": 3})
    assert [one.label for one in read_labelled(path)] == [1.0, 3.0]
    ones = rows(tmp_path, {"id": 1, "label": 1}, name="ones.jsonl")
    assert read_labelled(ones)[0].label == "right"
    assert read_labelled(ones, kind="score")[0].label == 1.0
    assert "says neither right nor wrong" in refused(path, kind="right_wrong")


def test_labels_of_pairs_without_texts(tmp_path):
    found = read_labelled(rows(tmp_path, {"id": "x", "label": "model_b"}, {"id": "y", "label": "tie (bothbad)"}))
    assert [(one.kind, one.label, one.answers) for one in found] == [("pairwise", "b", ()), ("pairwise", "tie", ())]


def test_how_a_file_writes_its_labels_can_be_said(tmp_path):
    path = rows(tmp_path, {"id": 1, "a": "x", "b": "y", "label": "1"}, {"id": 2, "a": "x", "b": "z", "label": 2})
    assert "votes.jsonl:1: field `label`: '1' says neither a, b nor tie; say with `values` what it means (1=a)" in refused(path)
    assert [one.label for one in read_labelled(path, values={"1": "a", "2": "b"})] == ["a", "b"]


def test_items_without_an_id_are_named_by_their_content(tmp_path):
    path = rows(tmp_path, *[{"task": "q", "answer": answer, "label": 1, "annotator": who} for answer in "xy" for who in ("ann", "bob")])
    found = read_labelled(path)
    assert len({one.id for one in found}) == 2
    assert found[0].id == found[1].id
    assert [one.answers for one in read_items(path)] == [("x",), ("y",)]


def test_what_is_no_text_is_written_as_json_and_when_is_a_date(tmp_path):
    (one,) = read_labelled(
        rows(tmp_path, {"id": 7, "task": [{"role": "user", "content": "é"}], "answer": 4, "label": 1, "when": "2026-11-21T10:00:00Z"})
    )
    assert (one.id, one.task, one.answers, one.when.year) == ("7", '[{"role": "user", "content": "é"}]', ("4",), 2026)


@pytest.mark.parametrize(
    ("given_rows", "said"),
    [
        ([], "votes.jsonl: there is nothing in it"),
        ([{"id": 1}], "votes.jsonl: field `label`: there is no label in it"),
        ([{"id": 1, "label": ""}], "there is no label in it"),
        ([{"id": 1, "label": 1}, {"id": " ", "label": 1}], "votes.jsonl:2: field `id`: every item needs an id"),
        ([{"label": 1}], "votes.jsonl:1: field `id`: neither an id nor a text"),
        ([{"id": 1, "lable": 1}], "votes.jsonl:1: field `lable`: unknown key. Did you mean `label`?"),
        ([{"id": 1, "label": "maybe"}], "votes.jsonl:1: field `label`: 'maybe' says neither right nor wrong"),
        ([{"id": 1, "label": 3}, {"id": 2, "label": "good"}], "votes.jsonl:2: field `label`: a score must be a number, and this is 'good'"),
        ([{"id": 1, "label": "nan"}], "a score must be a number"),
        ([{"id": 1, "a": "x", "b": "", "label": "a"}], "votes.jsonl:1: field `b`: the answer is empty"),
        ([{"id": 1, "a": "x", "b": "y", "label": "a"}, {"id": 2, "a": "x", "label": "a"}], "votes.jsonl:2: Value error, an item of kind"),
        ([{"id": 1, "label": 1, "when": "yesterday"}], "votes.jsonl:1: field `when`"),
        ([{"id": 1, "answer": "x", "label": 1}, {"id": 1, "answer": "y", "label": 1}], "votes.jsonl:2: field `id`: the id `1` stands for"),
        ([{"format": "tutelage.label/9", "id": "1"}], "this version reads 'tutelage.label/1'"),
    ],
)  # fmt: skip
def test_bad_files_are_refused_with_the_place(tmp_path, given_rows, said):
    assert said in refused(rows(tmp_path, *given_rows))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"idd": "question_id"}, "Did you mean `id`"),
        ({"label": "winner"}, "which column is the `id`"),
        ({"id": "question_id", "label": "winer"}, "field `columns.label`: `winer` is not a column of this file. Did you mean `winner`?"),
        ({"id": "question_id", "label": ["winner", "nobody"]}, "`nobody` is not a column"),
        ({"id": ["question_id"], "label": "winner"}, "only `label` may list several"),
        ({"a": "answer_1", "label": "winner"}, "both `a` and `b`"),
        ({"a": "answer_1", "b": "answer_2", "answer": "question", "label": "winner"}, "no `answer`"),
    ],
)
def test_a_wrong_mapping_is_refused(tmp_path, columns, said):
    assert said in refused(file(tmp_path, PAIRS), columns)


def test_files_that_are_not_there_or_not_readable(tmp_path):
    assert "no such file" in refused(tmp_path / "votes.csv")
    assert "votes.csv:2: 2 cells where the header has 6" in refused(file(tmp_path, PAIRS.splitlines()[0] + "\n1,2\n"), MAPPING)
    assert "nothing in it" in refused(file(tmp_path, "", "empty.jsonl"), MAPPING)
    assert "nothing in it" in refused(file(tmp_path, "", "empty.jsonl"), read=read_items)
    assert "not valid JSON" in refused(file(tmp_path, '{"id": 1,', "broken.jsonl"))


def test_a_label_must_fit_its_kind():
    for kind, label in [("pairwise", "right"), ("right_wrong", "a"), ("right_wrong", 1.0), ("score", "3"), ("score", float("nan"))]:
        with pytest.raises(ValueError, match="is no label of kind"):
            Labelled(id="1", kind=kind, label=label)
    with pytest.raises(ValueError, match="has not 1 answers"):
        Item(id="1", kind="pairwise", answers=("x",))


def test_what_is_written_is_read_back(tmp_path):
    found = read_labelled(file(tmp_path, PAIRS), MAPPING)
    bare = Item(id="9", kind="pairwise", task="open \ud800", answers=("x", "y"))
    path = tmp_path / "kept" / "labels.jsonl"
    write_labelled(path, [*found, bare])
    again = read_labelled(path)
    assert [one.model_dump(exclude={"source"}) for one in again] == [one.model_dump(exclude={"source"}) for one in found]
    items = read_items(path)
    assert [one.id for one in items] == ["1", "2", "9"]
    assert {type(one) for one in items} == {Item}
    append_labelled(path, Labelled(**bare.model_dump() | {"task": "open ?"}, label="b", annotator="ann"))
    assert read_labelled(path)[-1].label == "b"


def test_labels_are_appended_one_by_one_and_a_cut_line_stays_alone(tmp_path):
    path = tmp_path / "new" / "labels.jsonl"
    one = Labelled(id="1", kind="score", label=2.0)
    append_labelled(path, one)
    append_labelled(path, one.model_copy(update={"id": "2"}))
    assert [item.id for item in read_labelled(path)] == ["1", "2"]
    with path.open("a") as cut:
        cut.write('{"format": "tutel')
    append_labelled(path, one.model_copy(update={"id": "3"}))
    assert "labels.jsonl:3: not valid JSON" in refused(path)
    assert json.loads(path.read_text().splitlines()[3])["id"] == "3"
    with pytest.raises(StoreError, match="cannot be written"):
        append_labelled(tmp_path, one)


def some(n: int, task: str = "") -> list[Labelled]:
    return [
        Labelled(id=str(i), kind="right_wrong", task=task and f"{task} {i}", label="right", annotator=who) for i in range(n) for who in "pq"
    ]


def test_a_split_keeps_items_together_and_repeats_exactly():
    labelled = some(100)
    split = split_labelled(labelled, 0.3, seed=1)
    sides = [{one.id for one in side} for side in split]
    assert [len(side) for side in sides] == [30, 70]
    assert not sides[0] & sides[1]
    assert len(split.calibration) == 60, "both labels of every item"
    assert split_labelled(labelled[::-1], 0.3, seed=1).calibration == split.calibration[::-1], "the order of the file does not matter"
    assert split_labelled(labelled, 0.3, seed=2) != split
    larger = {one.id for one in split_labelled(labelled, 0.6, seed=1).calibration}
    assert sides[0] < larger


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), min_size=8, max_size=40), st.floats(0.2, 0.8), st.integers(0, 5))
@settings(max_examples=60, suppress_health_check=[HealthCheck.filter_too_much])
def test_no_question_is_on_both_sides(pairs, share, seed):
    swapped = [("x", "y"), ("y", "x"), ("x", "z"), ("z", "z")]
    labelled = [Labelled(id=f"{q}/{n}", kind="pairwise", task=f"q{q}", answers=swapped[n], label="a") for q, n in pairs]
    try:
        split = split_labelled(labelled, share, seed)
    except InputError as error:
        assert "leave one side empty" in str(error)
        return
    assert len(split.calibration) + len(split.test) == len(labelled)
    assert not {one.content for one in split.calibration} & {one.content for one in split.test}
    assert {one.id for one in split.calibration}.isdisjoint(one.id for one in split.test)


def test_a_swapped_pair_is_the_same_question():
    one = Labelled(id="1", kind="pairwise", task="q", answers=("x", "y"), label="a")
    other = Labelled(id="2", kind="pairwise", task="q", answers=("y", "x"), label="b")
    assert one.content == other.content
    with pytest.raises(InputError, match=r"2 items \(1 different ones\) leave one side empty"):
        split_labelled([one, other])


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(InputError, match="calibration"):
        split_labelled(some(4), share)


def test_too_few_items_to_split():
    with pytest.raises(InputError, match="1 items"):
        split_labelled(some(1))
    with pytest.raises(InputError, match="0 items"):
        split_labelled([])


def test_what_a_person_should_know_before_calibrating():
    assert label_warnings(some(3)) == (
        "labels of one class: every item is `right`, so a judge that always says so would agree with people",
    )
    fields = {"kind": "right_wrong"}
    labelled = [
        Labelled(id="1", label="right", annotator="ann", **fields),
        Labelled(id="1", label="wrong", annotator="bob", **fields),
        Labelled(id="2", label="right", annotator="ann", **fields),
        Labelled(id="2", label="wrong", annotator="ann", **fields),
        Labelled(id="3", label="wrong", **fields),
        Labelled(id="4", label="right", **fields),
        Labelled(id="4", label="wrong", **fields),
        Labelled(id="5", label="right", **fields),
    ]
    assert label_warnings(labelled) == (
        "1 of 5 items have no majority and are left out",
        "`ann` labelled 1 item in two ways; these votes do not count",
        "the unnamed annotator labelled 1 item in two ways; these votes do not count",
    )
    assert label_warnings([]) == ()


@pytest.mark.data
def test_right_and_wrong_solutions_of_a_public_file(data):
    path = data / "gsm8k" / "model_solutions.jsonl"
    if not path.is_file():
        pytest.skip("no gsm8k/model_solutions.jsonl in the benchmark data")
    columns = {"task": "question", "answer": "175b_verification.solution", "label": "175b_verification.is_correct"}
    found = read_labelled(path, columns)
    assert len(found) > 500
    assert {one.label for one in found} == {"right", "wrong"}
    split = split_labelled(found, 0.5, seed=0)
    assert not {one.content for one in split.calibration} & {one.content for one in split.test}
