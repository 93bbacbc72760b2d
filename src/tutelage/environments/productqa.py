"""ProductQA (Feng et al. 2024, "AGILE: A Novel Framework of LLM Agents"): questions about real products, with a table for each group.

Three kinds of question: facts from reviews (`fact`), searches that SQL answers (`search`), and reasoning over hidden knowledge of the
category (`reasoning`). Reviews are not part of the data, so facts can only be remembered or asked for. Most answers are yes or no and
`yes` is the more frequent: report a constant answer beside any result.

Read are the files as published: `train/GROUP/qa.jsonl` and `metadata.json` (or `test/`), and `product_qa.db` with a table for each group.
As in the authors' agent the prompt shows what is known of the product asked about, with units (here not for searches, which are about
no product of their own).

Scores follow the authors' evaluation of short answers. A search is right where at least one product is named and every one named is
among the right ones, or where none is named and none is right. Any other answer is right where it equals the short answer without regard
to case and white space: that is the part `exact`. The score is more lenient than the part in form only: a text that begins or ends with
yes or no counts as that, and punctuation and articles do not count. Differing too: for a search that finds nothing the authors want an
empty list, here the answer must say in words that there is none. Answers were shortened by a model before they were scored there, here
they are scored as they are. Long answers, which the authors let a model judge, are not scored.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from html import unescape
from pathlib import Path
from typing import Any, Literal

from tutelage.environments.shop_answers import grade_ids, grade_if, missed, read_ids, read_yes_no
from tutelage.errors import InputError, ToolError
from tutelage.graders.text import answer_of, no_answer, normalise
from tutelage.records import Episode, Grade, Message, Task
from tutelage.suggest import unknown
from tutelage.task_formats.lines import Row, Where, json_rows, strict_json
from tutelage.tools.sql import ReadOnlySQL

Split = Literal["train", "test"]
KINDS = ("fact", "search", "reasoning")
_DATABASE = "product_qa.db"
_ASIN = r"(?<!\w)B[0-9A-Z]{9}(?!\w)"
_HOW = (
    "Answer with yes or no or a few words. Where products are searched for, answer with the asin of those that fit, separated by commas "
    "(none where nothing fits), and with nothing else."
)


class ProductQAEnvironment:
    """The table of the question's group, read with the tool `sql`. folder: that of the data, with `product_qa.db` in it."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._task: Task | None = None
        self._sql: ReadOnlySQL | None = None

    def reset(self, task: Task) -> str:
        """Show the table, and what is known of the product. `task` is as `productqa_tasks` makes it (`InputError` where it is not)."""
        group, split = _group_of(task), str(task.environment.get("split"))
        self._task, self._sql = task, _reader(self._folder, group)
        known = ""
        if task.environment.get("kind") != "search":
            known = f"\n\nThe product asked about: {_described(self._folder / split / group, str(task.environment.get('product')))}"
        return f"The tool `sql` reads the shop's table:\n{self._sql.schema}{known}\n\n{_HOW}"

    def sql(self, query: str) -> str:
        """Ask the shop's product database with one SELECT statement (SQLite).

        Args:
            query: The SELECT statement.
        """
        if self._sql is None:
            raise ToolError("the shop is not open yet")
        return self._sql.query(query)

    def grade(self, episode: Episode) -> Grade | None:
        """The grade by `grade_productqa`; None before `reset`."""
        return grade_productqa(self._task, episode) if self._task else None


@dataclass(frozen=True)
class ProductQAGrader:
    """Grades answers to tasks of `productqa_tasks`, with or without an environment; see `grade_productqa`."""

    name: str = field(default="productqa", kw_only=True)

    async def grade(self, task: Task, episode: Episode) -> Grade:
        """1 or 0, with parts."""
        return grade_productqa(task, episode)

    def check(self, task: Task) -> None:
        """A task of `productqa_tasks` is needed."""
        _group_of(task)


def productqa_tasks(
    n: int | None,
    seed: int,
    *,
    folder: str | Path,
    groups: Sequence[str] | None = None,
    split: Split = "train",
    kinds: Sequence[str] = KINDS,
) -> tuple[Task, ...]:
    """`n` questions drawn from the groups of a split (None: all, in the files' order); fewer are the beginning of more.

    The message is the question, followed by the product's title and asin where it is about one; the kind is that of the question. The
    reference is [short answer, long answer], the short one of a search being the right asins. A question that a file has twice about one
    product is read once. Raises `InputError` for an absent folder or file, an unknown group or kind, a broken line, or where there are
    fewer than `n`.
    """
    root = Path(folder)
    tasks = [task for group in _groups(root, split, groups) for task in _group_tasks(root, split, group, _known_kinds(kinds))]
    if n is None:
        return tuple(tasks)
    if n > len(tasks):
        raise InputError(f"there are {len(tasks)} questions, fewer than the {n} asked for", file=root / split, field="n")
    random.Random(seed).shuffle(tasks)
    return tuple(tasks[:n])


def grade_productqa(task: Task, episode: Episode) -> Grade:
    """The grade of an episode's answer; see the module for the rules. Parts: `exact`, and of searches `precision` and `recall` too."""
    _group_of(task)
    expected, answer = task.environment["answer"], answer_of(episode)
    if not answer:
        return no_answer(episode)
    if isinstance(expected, list):
        titles = task.environment.get("titles")
        return _grade_search(frozenset(map(str, expected)), answer, titles if isinstance(titles, dict) else {})
    return _grade_short(str(expected), answer)


def _grade_search(expected: frozenset[str], answer: str, titles: Mapping[str, Any]) -> Grade:
    named = read_ids(unescape(answer), _ASIN, {title: str(asin) for title, asin in titles.items()})
    same = grade_ids(expected, named, answer)
    right = named is not None and (named <= expected if named else not expected)
    words = "correct" if right else missed(", ".join(sorted(expected)) or "none", answer)
    return Grade(score=float(right), words=words, parts={"exact": same.score, **same.parts})


def _grade_short(expected: str, answer: str) -> Grade:
    exact = " ".join(expected.lower().split()) == " ".join(answer.lower().split())
    meant = normalise(expected)
    right = exact or normalise(answer) == meant or (meant in ("yes", "no") and read_yes_no(answer) == meant)
    return grade_if(right, expected, answer).model_copy(update={"parts": {"exact": float(exact)}})


def _known_kinds(kinds: Sequence[str]) -> Sequence[str]:
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(unknown("a kind of question", kind, KINDS), field="kinds")
    return kinds


def _groups(root: Path, split: str, groups: Sequence[str] | None) -> list[str]:
    folder = root / split
    if not folder.is_dir():
        raise InputError("there is no such folder; name the one that holds train/, test/ and product_qa.db", file=folder, field="folder")
    there = sorted(item.name for item in folder.iterdir() if (item / "qa.jsonl").is_file())
    for group in groups or ():
        if group not in there:
            raise InputError(unknown(f"a group of the split {split}", group, there), file=folder, field="groups")
    return there if groups is None else list(dict.fromkeys(groups))


def _group_tasks(root: Path, split: str, group: str, kinds: Sequence[str]) -> Iterator[Task]:
    products = _products(root / split / group)
    titles = {_title(product): asin for asin, product in products.items()}
    seen: set[tuple[str, str]] = set()
    for where, row in json_rows(root / split / group / "qa.jsonl"):
        kind, asin, question = _text(row, "type", where).removesuffix("_qa"), _text(row, "asin", where), _text(row, "question", where)
        if kind not in KINDS:
            raise where.error(f"`{kind}_qa` is no known type of question", "type")
        if asin not in products:
            raise where.error(f"metadata.json has no product {asin}", "asin")
        about = "" if kind == "search" else f"\nProduct: {_title(products[asin])} ({asin})"
        if kind in kinds and (asin, question) not in seen:
            seen.add((asin, question))
            known = {"titles": titles} if kind == "search" else {}
            yield _task(row, where, f"{question}{about}", {"split": split, "group": group, "kind": kind, "product": asin, **known})


def _task(row: Row, where: Where, text: str, environment: dict[str, Any]) -> Task:
    short = row.get("short_answer")
    extra = row.get("extra_data")
    knowledge = extra.get("knowledge") if isinstance(extra, dict) else None
    if environment["kind"] == "search":
        if not (isinstance(short, list) and all(isinstance(item, dict) and isinstance(item.get("asin"), str) for item in short)):
            raise where.error("the answer to a search must be a list of products with their asin", "short_answer")
        answer: str | list[str] = [item["asin"] for item in short]
    else:
        answer = _text(row, "short_answer", where)
    return Task(
        messages=(Message(role="user", content=text),),
        reference=[(", ".join(answer) or "none") if isinstance(answer, list) else answer, unescape(_text(row, "long_answer", where))],
        kind=environment["kind"],
        environment={**environment, "answer": answer, **({"knowledge": knowledge} if knowledge else {})},
        source=str(where),
    )


def _text(row: Row, name: str, where: Where) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise where.error("must be a text", name)
    return value


def _title(product: Mapping[str, Any]) -> str:
    return unescape(str(product.get("title", ""))).strip()


@lru_cache(maxsize=64)
def _products(folder: Path) -> dict[str, dict[str, Any]]:
    """What `metadata.json` says of each product, by asin."""
    return _json_object(folder / "metadata.json")


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = strict_json(path.read_text(encoding="utf-8"), Where(str(path), 1))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", file=path) from error
    if not isinstance(value, dict):
        raise InputError("must be one JSON object", file=path)
    return value


@lru_cache(maxsize=4096)
def _described(folder: Path, asin: str) -> str:
    """A product with all that is known of it, numbers with their units, as JSON."""
    product = _products(folder).get(asin)
    if product is None:
        raise InputError(f"there is no product {asin}", file=folder / "metadata.json", field="environment.product")
    units = {name: shape.get("unit") for name, shape in _json_object(folder / "schema.json").items() if isinstance(shape, dict)}
    shown = {name: f"{unescape(str(value))} {units.get(name) or ''}".strip() for name, value in product.items()}
    return json.dumps({"asin": asin, **shown}, ensure_ascii=False)


def _group_of(task: Task) -> str:
    """The task's group. Raises `InputError` where its environment names none, or no answer."""
    group, answer = task.environment.get("group"), task.environment.get("answer")
    if not isinstance(group, str) or not isinstance(answer, str | list):
        raise InputError("the task needs `group` and `answer`, as productqa_tasks makes them", file=task.source, field="environment")
    return group


@lru_cache(maxsize=64)
def _reader(folder: Path, group: str) -> ReadOnlySQL:
    return ReadOnlySQL(folder / _DATABASE, tables=(group,))
