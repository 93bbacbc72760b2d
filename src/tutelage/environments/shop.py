"""A shop that can be asked: products in a database, questions about them, and rules of the shop that stand nowhere.

Facts and searches are answered by SQL. Reasoning questions ("Can I hang the Norvik Halo 210 in my bathroom?") need a rule of this shop
as well ("a lamp is cleared for bathrooms if its IP rating is at least 44"), which neither the table nor the prompt gives away. Each
rule comes back over many questions, so an agent that keeps what it was told can apply it. The shape follows ProductQA (Feng et al.
2024, "AGILE"); products, questions and rules here are generated from a seed, and which threshold a rule has depends on it too.

    tasks = shop_tasks(300, seed=0)          # one shop: split these for training and test, since another seed is another shop
    environment = ShopEnvironment            # a factory, as `run_episode` and a study take it
    grader = ShopGrader()                    # also grades without an environment, so constant answers can be scored
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from tutelage.environments.shop_answers import (
    grade_ids,
    grade_if,
    read_ids,
    read_yes_no,
    says_choice,
    says_quantity,
    without,
)
from tutelage.environments.shop_catalogue import GROUPS
from tutelage.environments.shop_questions import KINDS, Question, facts, reasonings, searches
from tutelage.environments.shop_store import Shop, open_shop
from tutelage.errors import InputError, ToolError
from tutelage.graders.text import answer_of, no_answer
from tutelage.records import Episode, Grade, Message, Task
from tutelage.suggest import unknown
from tutelage.tools.sql import ReadOnlySQL

_HOW = (
    "Some questions are decided by rules of this shop. Answer with yes or no, with the value and its unit, or with the product ids of all "
    "that fit, separated by commas (none where nothing fits), and with nothing else."
)


class ShopEnvironment:
    """The shop of the task's seed. Its one tool is `sql`, over the table of the question's group; the opening shows that table."""

    def __init__(self) -> None:
        self._task: Task | None = None
        self._sql: ReadOnlySQL | None = None

    def reset(self, task: Task) -> str:
        """Open the shop. `task.environment` is as `shop_tasks` makes it (`InputError` where it is not)."""
        shop, group = _shop_of(task)
        self._task, self._sql = task, _reader(shop.seed, shop.products, group)
        return f"You serve the customers of a shop. The tool `sql` reads its table:\n{self._sql.schema}\n{_HOW}"

    def sql(self, query: str) -> str:
        """Ask the shop's product database with one SELECT statement (SQLite).

        Args:
            query: The SELECT statement.
        """
        if self._sql is None:
            raise ToolError("the shop is not open yet")
        return self._sql.query(query)

    def grade(self, episode: Episode) -> Grade | None:
        """The grade by `grade_shop_answer`; None before `reset`."""
        return grade_shop_answer(self._task, episode) if self._task else None


@dataclass(frozen=True)
class ShopGrader:
    """Grades answers to tasks of `shop_tasks`, with or without an environment; see `grade_shop_answer`."""

    name: str = field(default="shop", kw_only=True)

    async def grade(self, task: Task, episode: Episode) -> Grade:
        """1 or 0; of searches precision and recall are parts."""
        return grade_shop_answer(task, episode)

    def check(self, task: Task) -> None:
        """A task of `shop_tasks` is needed."""
        _shop_of(task)


def shop_tasks(
    n: int,
    seed: int,
    *,
    kinds: Sequence[str] = KINDS,
    groups: Sequence[str] | None = None,
    products: int = 30,
    flip_after: int | None = None,
    contrary: float = 0.0,
) -> tuple[Task, ...]:
    """`n` questions to the shop of a seed, the kinds taking turns; fewer tasks are the beginning of more. No question comes twice.

    groups: of the catalogue (None: all). products: in each group. flip_after: from this task on every hidden rule is its opposite, for
    studies of a changing world. contrary: so many of the rules, drawn by the seed, are the opposite of what one would think (.5: nobody can
    guess which way round one goes).

    The task's message is the question; its kind is that of the question; its reference is [short answer, long answer], both acceptable
    texts for graders that compare texts, the short one being what exemplars show. The long answer says the hidden rule. What grading
    needs stands in `task.environment`. Raises `InputError` for an unknown kind or group, and where the shop has fewer questions.
    """
    if not 0 <= contrary <= 1:
        raise InputError(f"is a share from 0 to 1, and this is {contrary:g}", field="contrary")
    chosen = _known(kinds, KINDS, "kinds"), _known(list(GROUPS) if groups is None else groups, GROUPS, "groups")
    shop = open_shop(seed, products)
    tasks: list[Task] = []
    streams = _streams(shop, *chosen, flipped=lambda: flip_after is not None and len(tasks) >= flip_after, contrary=contrary)
    while len(tasks) < n:
        kind = chosen[0][len(tasks) % len(chosen[0])]
        question = next(streams[kind], None)
        if question is None:
            raise InputError(f"the shop has no more questions of the kind {kind} after {len(tasks)} tasks; give more products", field="n")
        tasks.append(_task(shop, question, f"shop?seed={seed}:{len(tasks) + 1}"))
    return tuple(tasks)


def expert_answer(task: Task) -> str:
    """What an expert says: the answer with its reason, which for reasoning questions is the hidden rule."""
    if not (isinstance(task.reference, list) and len(task.reference) == 2):
        raise InputError("the reference must be [short answer, long answer], as shop_tasks makes it", file=task.source, field="reference")
    return str(task.reference[1])


def grade_shop_answer(task: Task, episode: Episode) -> Grade:
    """1 where the episode's answer says what the task asks for, else 0; of searches precision and recall are parts.

    Form is free (case, units that convert, titles for ids, words around it), content is not: all products and no other, one value and
    no second one, yes or no and not both.
    """
    shop, group = _shop_of(task)
    answer, expected = answer_of(episode), _expected(task)
    if not answer:
        return no_answer(episode)
    value, kind = expected["value"], expected["type"]
    titles = {str(row["title"]): name for name, row in shop.rows[group].items()}
    if kind == "ids":
        ids = read_ids(answer, rf"(?<!\w){GROUPS[group].prefix}\d{{4}}(?!\w)", titles)
        return grade_ids(frozenset(value), ids, answer)
    bare = without(answer, [*titles, *titles.values()])
    if kind == "yes_no":
        return grade_if(read_yes_no(bare) == value, str(value), answer)
    if kind == "choice":
        return grade_if(says_choice(bare, str(value), expected["choices"]), str(value), answer)
    return grade_if(says_quantity(bare, float(value), expected["unit"]), f"{value:g} {expected['unit']}".strip(), answer)


def _known(names: Sequence[str], known: Sequence[str] | dict[str, Any], field_name: str) -> tuple[str, ...]:
    for name in names:
        if name not in known:
            raise InputError(unknown("there", name, known), field=field_name)
    if not names:
        raise InputError("name at least one", field=field_name)
    return tuple(dict.fromkeys(names))


def _streams(
    shop: Shop, kinds: Sequence[str], groups: Sequence[str], *, flipped: Callable[[], bool], contrary: float
) -> dict[str, Iterator[Question]]:
    seeds = {kind: random.Random(f"{shop.seed}/{shop.products}/{','.join(groups)}/{kind}") for kind in kinds}
    make: dict[str, Callable[[random.Random], Iterator[Question]]] = {
        "fact": lambda rng: facts(shop, groups, rng),
        "search": lambda rng: searches(shop, groups, rng),
        "reasoning": lambda rng: reasonings(shop, groups, rng, flipped, contrary),
    }
    return {kind: make[kind](rng) for kind, rng in seeds.items()}


def _task(shop: Shop, question: Question, source: str) -> Task:
    where = {"seed": shop.seed, "products": shop.products, "group": question.group, "kind": question.kind}
    return Task(
        messages=(Message(role="user", content=question.text),),
        reference=[question.short, question.long],
        kind=question.kind,
        environment={**where, **question.about, "answer": question.answer},
        source=source,
    )


def _shop_of(task: Task) -> tuple[Shop, str]:
    """The task's shop and group. Raises `InputError` where its environment names none."""
    seed, products, group = (task.environment.get(name) for name in ("seed", "products", "group"))
    if not (isinstance(seed, int) and isinstance(products, int) and isinstance(group, str) and group in GROUPS):
        raise InputError("the task needs `seed`, `products` and `group`, as shop_tasks makes them", file=task.source, field="environment")
    _expected(task)
    return open_shop(seed, products), group


def _expected(task: Task) -> dict[str, Any]:
    answer = task.environment.get("answer")
    needed = {"yes_no": (), "number": ("unit",), "choice": ("choices",), "ids": ()}
    kind = answer.get("type") if isinstance(answer, dict) else None
    if not isinstance(answer, dict) or kind not in needed or any(name not in answer for name in ("value", *needed[str(kind)])):
        raise InputError("the task has no answer of the shape that shop_tasks makes", file=task.source, field="environment.answer")
    return answer


@lru_cache(maxsize=128)
def _reader(seed: int, products: int, group: str) -> ReadOnlySQL:
    return ReadOnlySQL(open_shop(seed, products).database, tables=(group,))
