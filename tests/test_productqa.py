"""ProductQA: reading its files, showing what its agent was shown, and scoring as its authors do."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tutelage.environments.productqa import ProductQAEnvironment, ProductQAGrader, grade_productqa, productqa_tasks
from tutelage.environments.shop import expert_answer
from tutelage.errors import InputError, ToolError
from tutelage.records import Episode, Message, Segment, StopReason, Task
from tutelage.study.cheap import cheap_answers
from tutelage.task_formats.references import reference_messages

ONE, TWO, THREE = "B000000001", "B00000000A", "B00000000Z"
PRODUCTS = {
    ONE: {"title": "Anco Blade - 28&quot;", "price": "13.06", "brand": "Anco", "Snow": "poor"},
    TWO: {"title": "Piaa Blade", "price": "20.39", "brand": "Piaa", "Snow": "good"},
    THREE: {"title": "Piaa Blade Super", "price": "30", "brand": "Piaa", "Snow": "good"},
}


def row(id_: str, kind: str, short: Any, **more: Any) -> dict[str, Any]:
    return {
        "id": id_,
        "asin": ONE,
        "question": f"{id_}?",
        "long_answer": f"Long {id_}.",
        "short_answer": short,
        "type": kind,
        "extra_data": None,
        **more,
    }


def found(*asins: str) -> list[dict[str, str]]:
    return [{"asin": asin, "title": PRODUCTS[asin]["title"]} for asin in asins]


ROWS = [
    row("f1", "fact_qa", "yes"),
    row("f2", "fact_qa", "Limited lifetime  warranty"),
    row("s1", "search_qa", found(TWO, THREE)),
    row("s2", "search_qa", []),
    row("r1", "reasoning_qa", "no", extra_data={"knowledge": "poor blades clog", "feature_name": "Snow", "feature_value": "poor"}),
    row("f1", "fact_qa", "yes"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    group = tmp_path / "train/blades"
    group.mkdir(parents=True)
    (group / "qa.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (group / "metadata.json").write_text(json.dumps(PRODUCTS))
    (group / "schema.json").write_text(json.dumps({"price": {"type": "cloze", "unit": "dollar"}, "brand": {"type": "choice"}}))
    connection = sqlite3.connect(tmp_path / "product_qa.db")
    connection.execute("CREATE TABLE blades (id INTEGER, asin TEXT, title TEXT, price REAL, brand TEXT)")
    connection.execute("CREATE TABLE printers (id INTEGER)")
    for number, (asin, product) in enumerate(PRODUCTS.items()):
        connection.execute(
            "INSERT INTO blades VALUES (?, ?, ?, ?, ?)", (number, asin, product["title"], product["price"], product["brand"])
        )
    connection.commit()
    connection.close()
    return tmp_path


def every(folder: Path) -> list[Task]:
    return list(productqa_tasks(None, 0, folder=folder))


def answered(task: Task, text: str | None) -> Episode:
    return Episode(task_id=task.id, agent_version="t", segments=(Segment(context=task.messages),), answer=text, stop=StopReason.ANSWERED)


def graded(task: Task, text: str | None) -> tuple[float | None, dict[str, float | None]]:
    grade = grade_productqa(task, answered(task, text))
    return grade.score, grade.parts


def test_questions_are_read_once_each(folder: Path) -> None:
    tasks = every(folder)
    assert [task.kind for task in tasks] == ["fact", "fact", "search", "search", "reasoning"]
    assert tasks[0].text == f'f1?\nProduct: Anco Blade - 28" ({ONE})'
    assert tasks[2].text == "s1?"
    assert [task.reference for task in tasks] == [
        ["yes", "Long f1."],
        ["Limited lifetime  warranty", "Long f2."],
        [f"{TWO}, {THREE}", "Long s1."],
        ["none", "Long s2."],
        ["no", "Long r1."],
    ]
    assert tasks[4].environment["knowledge"] == "poor blades clog"
    assert tasks[4].source == f"{folder}/train/blades/qa.jsonl:5"
    assert expert_answer(tasks[4]) == "Long r1."
    assert reference_messages(tasks[2]) == (Message(role="assistant", content=f"{TWO}, {THREE}"),)


def test_a_draw_is_repeatable_and_can_be_narrowed(folder: Path) -> None:
    assert productqa_tasks(3, 7, folder=folder) == productqa_tasks(5, 7, folder=folder)[:3]
    assert {task.kind for task in productqa_tasks(2, 0, folder=folder, kinds=("search",))} == {"search"}
    assert len(productqa_tasks(None, 0, folder=folder, groups=["blades"])) == 5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n": 6}, "there are 5 questions, fewer than the 6 asked for"),
        ({"split": "test"}, "no such folder"),
        ({"groups": ["blade"]}, "Did you mean `blades`"),
        ({"kinds": ["facts"]}, "Did you mean `fact`"),
    ],
)
def test_what_is_not_there_is_refused(folder: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        productqa_tasks(**{"n": 1, "seed": 0, "folder": folder, **options})


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"type": "guess_qa"}, "field `type`"),
        ({"asin": "B999999999"}, "field `asin`"),
        ({"question": " "}, "field `question`"),
        ({"short_answer": None}, "field `short_answer`"),
        ({"type": "search_qa", "short_answer": "none"}, "field `short_answer`"),
        ({"type": "search_qa", "short_answer": [{"title": "x"}]}, "field `short_answer`"),
    ],
)
def test_a_broken_line_is_named(folder: Path, broken: dict[str, Any], says: str) -> None:
    path = folder / "train/blades/qa.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps({**ROWS[4], **broken}))
    with pytest.raises(InputError, match=rf"qa\.jsonl:2: {says}"):
        every(folder)


def test_the_opening_shows_the_table_and_the_product(folder: Path) -> None:
    tasks = every(folder)
    world = ProductQAEnvironment(folder)
    opening = world.reset(tasks[0])
    assert "blades(id INTEGER, asin TEXT, title TEXT, price REAL, brand TEXT)" in opening
    shown = {"asin": ONE, "title": 'Anco Blade - 28"', "price": "13.06 dollar", "brand": "Anco", "Snow": "poor"}
    assert json.dumps(shown) in opening
    assert world.sql("SELECT asin FROM blades WHERE brand = 'Piaa'") == f"asin\n{TWO}\n{THREE}"
    with pytest.raises(ToolError, match="`printers` cannot be read"):
        world.sql("SELECT * FROM printers")
    assert "Anco" not in world.reset(tasks[2])
    grade = world.grade(answered(tasks[2], TWO))
    assert grade is not None
    assert grade.score == 1.0


def test_a_group_without_a_table_is_refused(folder: Path) -> None:
    (folder / "product_qa.db").unlink()
    sqlite3.connect(folder / "product_qa.db").execute("CREATE TABLE other (x)")
    with pytest.raises(InputError, match="there is no table `blades`"):
        ProductQAEnvironment(folder).reset(every(folder)[0])


@pytest.mark.parametrize(
    ("at", "answer", "score", "exact"),
    [
        (0, "yes", 1.0, 1.0),
        (0, " YES ", 1.0, 1.0),
        (0, "Yes, they are.", 1.0, 0.0),
        (0, "no", 0.0, 0.0),
        (0, "yes or no", 0.0, 0.0),
        (1, "limited lifetime warranty", 1.0, 1.0),
        (1, "A limited lifetime warranty.", 1.0, 0.0),
        (1, "lifetime", 0.0, 0.0),
        (4, "No.", 1.0, 0.0),
    ],
)
def test_short_answers(folder: Path, at: int, answer: str, score: float, exact: float) -> None:
    assert graded(every(folder)[at], answer) == (score, {"exact": exact})


@pytest.mark.parametrize(
    ("answer", "score", "parts"),
    [
        (f"{TWO}, {THREE}", 1.0, (1.0, 1.0, 1.0)),
        (f"I would take {TWO.lower()}.", 1.0, (0.0, 1.0, 0.5)),
        ("The Piaa Blade Super", 1.0, (0.0, 1.0, 0.5)),
        (f"{TWO} or {ONE}", 0.0, (0.0, 0.5, 0.5)),
        (f"{TWO} B0ABCDEFGH", 0.0, (0.0, 0.5, 0.5)),
        ("none", 0.0, (0.0, 0.0, 0.0)),
        ("Anco Blade - 28&quot;", 0.0, (0.0, 0.0, 0.0)),
    ],
)
def test_searches_follow_the_published_rule(folder: Path, answer: str, score: float, parts: tuple[float, float, float]) -> None:
    assert graded(every(folder)[2], answer) == (score, dict(zip(("exact", "precision", "recall"), parts, strict=True)))


def test_a_search_that_finds_nothing(folder: Path) -> None:
    task = every(folder)[3]
    assert graded(task, "Sorry, we have none.")[0] == 1.0
    assert graded(task, ONE)[0] == 0.0
    assert graded(task, "let me see")[0] == 0.0
    assert graded(task, None)[0] == 0.0


def test_a_task_of_another_make_is_refused() -> None:
    with pytest.raises(InputError, match="productqa_tasks"):
        ProductQAGrader().check(Task(messages=(Message(role="user", content="hi"),)))


# --- the published data


@pytest.mark.data
def test_all_published_questions_are_read(data: Path) -> None:
    counts = {
        split: Counter(task.kind for task in productqa_tasks(None, 0, folder=data / "productqa", split=split))
        for split in ("train", "test")
    }
    assert counts["train"] == {"fact": 6975, "search": 2861, "reasoning": 2155}
    assert counts["test"] == {"fact": 1948, "search": 1453, "reasoning": 1171}  # two lines are repeated


@pytest.mark.data
def test_every_reference_is_right_and_every_search_is_in_reach_of_sql(data: Path) -> None:
    connection = sqlite3.connect(f"{(data / 'productqa/product_qa.db').as_uri()}?mode=ro", uri=True)
    world = ProductQAEnvironment(data / "productqa")
    for split in ("train", "test"):
        for number, task in enumerate(productqa_tasks(None, 0, folder=data / "productqa", split=split)):
            assert graded(task, str(task.reference[0]))[0] == 1.0, task.source  # type: ignore[index]
            if number % 200 == 0:
                assert task.environment["group"] in world.reset(task)
            if task.kind == "search" and number % 20 == 0:
                path, line = re.fullmatch(r"(.*):(\d+)", str(task.source)).groups()  # type: ignore[union-attr]
                sql = json.loads(Path(path).read_text().splitlines()[int(line) - 1])["extra_data"]["answer"]
                rows = connection.execute(sql.replace("product_id", "asin")).fetchall()
                assert sorted(asin for (asin,) in rows) == sorted(task.environment["answer"])  # type: ignore[arg-type]
    connection.close()


@pytest.mark.data
async def test_a_constant_answer_is_strong(data: Path) -> None:
    train = productqa_tasks(400, 0, folder=data / "productqa", kinds=("fact", "reasoning"))
    test = productqa_tasks(400, 0, folder=data / "productqa", split="test", kinds=("fact", "reasoning"))
    constant, _ = await cheap_answers(train, test, ProductQAGrader())
    assert constant.note == "yes"
    assert 0.5 < sum(filter(None, constant.scores)) / 400 < 0.75
