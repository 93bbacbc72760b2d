"""The task source `path_star`: find the one arm of a star that leads to the goal.

    tasks = path_star_tasks(200, seed=0, degree=2, length=5, nodes=20)

A path-star graph G(degree, length) has a start from which `degree` arms go out, of `length` nodes each with the start among them. Asked for
is the path from the start to the end of one arm, the goal (Bachmann & Nagarajan 2024, arXiv:2403.06963). Read from the goal every step is
plain; read from the start the first step needs the whole arm, and each one after it only an edge. So a model that learns each word of the
path from those before it learns the edges and guesses the first step: it is right once in `degree` times.

In `signs` a question is the edges in random order, start and goal, as the paper has it, and the answer the path:

    3,7|1,4|3,0|7,1|0,2|2,5/3,4=        3,7,1,4

`order` says how the answer is written: the `path`; `reversed`, from the goal to the start; or `scratchpad`, from the goal to the start and
then the path itself (`4,1,7,3>3,7,1,4`), which leaves nothing to guess; only what stands after the last `>` is graded.

Different from the paper: names are drawn from 0 to `nodes` - 1 without putting any back, so that all arms are apart, and by default there
are as many names as nodes; every graph, whatever its goal and the order of its edges, belongs to one side, `train` or `test`, by a hash of
itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from random import Random
from typing import Literal, get_args

from tutelage.errors import InputError
from tutelage.graders.text import answer_of, no_answer, short
from tutelage.records import Episode, Grade, Message, Task, content_id
from tutelage.suggest import unknown

Order = Literal["path", "reversed", "scratchpad"]
ORDERS: tuple[Order, ...] = get_args(Order)
Form = Literal["words", "signs"]
Side = Literal["any", "train", "test"]

TEST_SHARE = 5
"""One in so many graphs belongs to the side `test`."""

_TRIES = 50  # for each task asked for: few names make few graphs
_ASK = """\
Arrows lead from a start to several ends, over paths that share no point but the start. These are all arrows:
{edges}

Which path leads from {start} to {goal}? {how}"""
_HOW = {
    "path": "Write its points in order, from {start} to {goal}, with commas between them, and nothing else.",
    "reversed": "Write its points backwards, from {goal} to {start}, with commas between them, and nothing else.",
    "scratchpad": "Write its points backwards, from {goal} to {start}, with commas between them, then >, then the same points in order.",
}


@dataclass(frozen=True)
class PathStar:
    """A graph with its question. arms: each from the start on, the asked one too; edges: all of them, in the order of the question."""

    arms: tuple[tuple[int, ...], ...]
    asked: int
    edges: tuple[tuple[int, int], ...]

    @property
    def path(self) -> tuple[int, ...]:
        """The answer, from the start to the goal."""
        return self.arms[self.asked]

    @cached_property
    def side(self) -> Literal["train", "test"]:
        """Which side the graph belongs to."""
        return "test" if int(content_id(sorted(self.arms)), 16) % TEST_SHARE == 0 else "train"

    def written(self, order: Order) -> str:
        """The answer, in signs."""
        path, back = (",".join(map(str, nodes)) for nodes in (self.path, self.path[::-1]))
        return {"path": path, "reversed": back, "scratchpad": f"{back}>{path}"}[order]

    def question(self, form: Form, order: Order) -> str:
        """What is asked."""
        if form == "signs":
            return "|".join(f"{tail},{head}" for tail, head in self.edges) + f"/{self.path[0]},{self.path[-1]}="
        how = _HOW[order].format(start=self.path[0], goal=self.path[-1])
        edges = ", ".join(f"{tail} -> {head}" for tail, head in self.edges)
        return _ASK.format(edges=edges, start=self.path[0], goal=self.path[-1], how=how)


def draw_star(random: Random, degree: int, length: int, nodes: int) -> PathStar:
    """A graph of its own names, with its edges in random order and one arm asked for."""
    start, *others = random.sample(range(nodes), degree * (length - 1) + 1)
    size = length - 1
    arms = tuple((start, *others[size * arm : size * (arm + 1)]) for arm in range(degree))
    edges = [edge for arm in arms for edge in pairwise(arm)]
    random.shuffle(edges)
    return PathStar(arms, random.randrange(degree), tuple(edges))


def path_star_tasks(
    n: int,
    seed: int,
    *,
    degree: int = 2,
    length: int = 5,
    nodes: int | None = None,
    order: Order = "path",
    form: Form = "words",
    side: Side = "any",
) -> tuple[Task, ...]:
    """`n` tasks on different graphs, drawn by `seed`; `kind` is the graph's size.

    nodes: how many names there are (None: as many as a graph has nodes). Graphs of the side `test` are different from those of the side
    `train` whatever seed they were drawn with. Grade with `path_star`. Raises `InputError` for impossible options, and where there are
    fewer than `n` graphs.
    """
    names = degree * (length - 1) + 1 if nodes is None else nodes
    check_size(degree, length, names)
    _check(n, order, form, side)
    random = Random(f"path_star/{seed}")
    found: dict[str, PathStar] = {}
    for _ in range(_TRIES * n):
        if len(found) == n:
            break
        star = draw_star(random, degree, length, names)
        if side in ("any", star.side):
            found.setdefault(content_id(sorted(star.arms)), star)
    if len(found) < n:
        raise InputError(f"only {len(found)} different graphs were found, and {n} are asked for; take more nodes", field="n")
    return tuple(_task(star, order, form, f"path_star?seed={seed}:{number}") for number, star in enumerate(found.values(), 1))


def check_size(degree: int, length: int, nodes: int) -> None:
    """Raise `InputError` for a graph that cannot be."""
    if degree < 2:
        raise InputError(f"with fewer than two arms there is nothing to find, and degree is {degree}", field="degree")
    if length < 3:
        raise InputError(
            f"an arm has its start, its end and something between: length is 3 or more, and here it is {length}", field="length"
        )
    needed = degree * (length - 1) + 1
    if nodes < needed:
        raise InputError(f"{degree} arms of {length} nodes that share their start need {needed} names, and nodes is {nodes}", field="nodes")


def _check(n: int, order: str, form: str, side: str) -> None:
    if n < 1:
        raise InputError(f"at least one task is needed, and n is {n}", field="n")
    options: Sequence[tuple[str, str, tuple[str, ...]]] = (
        ("order", order, ORDERS),
        ("form", form, ("words", "signs")),
        ("side", side, ("any", "train", "test")),
    )
    for name, value, known in options:
        if value not in known:
            raise InputError(unknown(f"one of `{name}`", value, known), field=name)


def _task(star: PathStar, order: Order, form: Form, source: str) -> Task:
    return Task(
        messages=(Message(role="user", content=star.question(form, order)),),
        reference=star.written(order),
        kind=f"degree {len(star.arms)}, length {len(star.path)}",
        environment={"path": list(star.path), "order": order},
        source=source,
    )


@dataclass(frozen=True)
class PathStarGrader:
    """1 where the answer is the path of a `path_star` task, in the order that the task asks for.

    Only the numbers of the last line count, and of those what stands after the last `>`. parts: `first_step`, 1 where the node after the
    start is the right one, wherever the answer goes from there.
    """

    name: str = field(default="path_star", kw_only=True)

    async def grade(self, task: Task, episode: Episode) -> Grade:
        """1 or 0."""
        path, order = _asked(task)
        answer = answer_of(episode)
        if not answer:
            return no_answer(episode)
        found = read_path(answer, order)
        first = float(found[1:2] == path[1:2])
        if found == path:
            return Grade(score=1.0, words="correct", parts={"first_step": first})
        words = "it is no path from the start to the goal" if first else "the first step leads into another arm"
        return Grade(score=0.0, words=f"{words}: {short(answer)}", parts={"first_step": first})

    def check(self, task: Task) -> None:
        """A task of `path_star` is needed."""
        _asked(task)


def read_path(answer: str, order: Order) -> list[int]:
    """The nodes of an answer, from start to goal."""
    lines = answer.strip().splitlines()
    last = (lines[-1] if lines else "").replace("->", " ").rpartition(">")[2]
    found = [int(digits[:18]) for digits in re.findall(r"[0-9]+", last)]
    return found[::-1] if order == "reversed" else found


def _asked(task: Task) -> tuple[list[int], Order]:
    path = task.environment.get("path")
    order = next((order for order in ORDERS if order == task.environment.get("order")), None)
    if isinstance(path, list) and order is not None:
        return [int(str(node)) for node in path], order
    raise InputError("the task holds no path; make tasks with path_star_tasks", file=task.source, field="environment")
