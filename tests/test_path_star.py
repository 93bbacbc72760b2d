"""Path-star graphs: what they are made of, sides that never meet, and grades of answers written by hand."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.environments.path_star import PathStar, PathStarGrader, draw_star, path_star_tasks, read_path
from tutelage.errors import InputError
from tutelage.records import Episode, Message, StopReason, Task

sizes = st.tuples(st.integers(2, 4), st.integers(3, 6), st.integers(0, 10))
"""Degree, length, and names to spare."""

STAR = PathStar(arms=((3, 7, 1, 4), (3, 0, 2, 5)), asked=0, edges=((3, 7), (1, 4), (3, 0), (7, 1), (0, 2), (2, 5)))


def answered(text: str | None) -> Episode:
    return Episode(task_id="t", agent_version="a", segments=(), answer=text, stop=StopReason.ANSWERED)


def test_a_graph_in_signs_by_hand():
    assert STAR.question("signs", "path") == "3,7|1,4|3,0|7,1|0,2|2,5/3,4="
    assert STAR.written("path") == "3,7,1,4"
    assert STAR.written("reversed") == "4,1,7,3"
    assert STAR.written("scratchpad") == "4,1,7,3>3,7,1,4"
    words = STAR.question("words", "path")
    assert "3 -> 7, 1 -> 4, 3 -> 0, 7 -> 1, 0 -> 2, 2 -> 5" in words
    assert "from 3 to 4" in words


@given(size=sizes, seed=st.integers(0, 2**32))
def test_a_star_is_arms_that_share_their_start_alone(size, seed):
    degree, length, spare = size
    nodes = degree * (length - 1) + 1 + spare
    star = draw_star(Random(seed), degree, length, nodes)
    assert len(star.arms) == degree
    assert {len(arm) for arm in star.arms} == {length}
    assert {arm[0] for arm in star.arms} == {star.path[0]}
    inner = [node for arm in star.arms for node in arm[1:]]
    assert len({star.path[0], *inner}) == degree * (length - 1) + 1, "no node stands twice"
    assert all(0 <= node < nodes for node in inner)
    assert sorted(star.edges) == sorted(edge for arm in star.arms for edge in pairwise(arm))
    onwards = dict(edge for edge in star.edges if edge[0] != star.path[0])
    walked = [star.path[1]]
    while walked[-1] in onwards:
        walked.append(onwards[walked[-1]])
    assert walked == list(star.path[1:]), "after the first step every edge is plain"


def test_the_arm_that_is_asked_for_cannot_be_told_from_the_edges():
    """Of many graphs the goal ends each arm about as often, and its first edge stands as often before the other's as behind it."""
    stars = [draw_star(Random(seed), 2, 4, 7) for seed in range(2000)]
    assert 900 < sum(star.asked for star in stars) < 1100
    first = sum(star.edges.index((star.path[0], star.path[1])) < star.edges.index(star.arms[1 - star.asked][:2]) for star in stars)
    assert 900 < first < 1100


def test_tasks_are_different_graphs_the_same_for_a_seed():
    tasks = path_star_tasks(50, 3, degree=2, length=4, nodes=12)
    assert tasks == path_star_tasks(50, 3, degree=2, length=4, nodes=12)
    assert tasks != path_star_tasks(50, 4, degree=2, length=4, nodes=12)
    assert len({task.id for task in tasks}) == 50
    assert {task.kind for task in tasks} == {"degree 2, length 4"}


def graph_of(task: Task) -> frozenset[str]:
    return frozenset(task.text.partition("/")[0].split("|"))


def test_no_graph_is_on_both_sides():
    train = path_star_tasks(300, 0, length=4, form="signs", side="train")
    test = path_star_tasks(100, 1, length=4, form="signs", side="test")
    assert not {graph_of(task) for task in train} & {graph_of(task) for task in test}
    assert len({graph_of(task) for task in train}) == 300, "different graphs, and not one in two orders"


def test_the_side_is_the_graphs_own():
    """Neither the goal nor the order of edges and arms moves a graph to the other side."""
    other = PathStar(arms=STAR.arms[::-1], asked=0, edges=STAR.edges[::-1])
    assert other.path == (3, 0, 2, 5)
    assert other.side == STAR.side


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"degree": 1}, "degree"),
        ({"length": 2}, "length"),
        ({"degree": 2, "length": 5, "nodes": 8}, "nodes"),
        ({"order": "backwards"}, "order"),
        ({"form": "sign"}, "form"),
        ({"side": "left"}, "side"),
        ({"n": 0}, "n"),
        ({"n": 61, "length": 3, "nodes": 5}, "n"),
    ],
)
def test_what_cannot_be_is_refused(options, field):
    given = {"n": 5, "seed": 0, **options}
    with pytest.raises(InputError) as wrong:
        path_star_tasks(given.pop("n"), given.pop("seed"), **given)
    assert wrong.value.field == field


def test_all_graphs_of_five_names_are_found():
    """Of 5 names for 2 arms of 3: 5 starts, and 4 x 3 / 2 x 2 x 1 ways to part the others into two ordered pairs, which are 12."""
    with pytest.raises(InputError, match="only 60 different graphs"):
        path_star_tasks(61, 0, degree=2, length=3)


@pytest.mark.parametrize(
    ("order", "answer", "score", "first"),
    [
        ("path", "3,7,1,4", 1, 1),
        ("path", "Let me see: 3 to 7?\n3 -> 7 -> 1 -> 4", 1, 1),
        ("path", "3,7,1", 0, 1),
        ("path", "3,0,2,5", 0, 0),
        ("path", "3,0,1,4", 0, 0),
        ("path", "4,1,7,3", 0, 0),
        ("path", "none", 0, 0),
        ("path", "9" * 5000, 0, 0),
        ("reversed", "4,1,7,3", 1, 1),
        ("reversed", "3,7,1,4", 0, 0),
        ("scratchpad", "4,1,7,3>3,7,1,4", 1, 1),
        ("scratchpad", "5,2,0,3>3,7,1,4", 1, 1),
        ("scratchpad", "4,1,7,3>3,0,2,5", 0, 0),
        ("scratchpad", "3,7,1,4", 1, 1),
    ],
)
async def test_grades_by_hand(order, answer, score, first):
    task = Task(
        messages=(Message(role="user", content="?"),),
        reference=STAR.written(order),
        environment={"path": list(STAR.path), "order": order},
    )
    grader = PathStarGrader()
    grader.check(task)
    grade = await grader.grade(task, answered(answer))
    assert (grade.score, grade.parts["first_step"]) == (score, first)


async def test_references_are_right_and_silence_is_not():
    for order in ("path", "reversed", "scratchpad"):
        for form in ("words", "signs"):
            (task,) = path_star_tasks(1, 0, order=order, form=form)
            assert (await PathStarGrader().grade(task, answered(task.reference))).score == 1
            assert (await PathStarGrader().grade(task, answered(None))).score == 0


def test_other_tasks_cannot_be_graded():
    with pytest.raises(InputError, match="path_star_tasks"):
        PathStarGrader().check(Task(messages=(Message(role="user", content="?"),), reference="3"))


@given(st.text(max_size=40))
def test_any_answer_can_be_read(text):
    assert all(node >= 0 for node in read_path(text, "path"))
