"""The shop: questions that SQL and hidden rules answer, graded by what they say and not by how."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter, defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tutelage as tt
from tutelage.environment import environment_tools
from tutelage.environments.shop import ShopEnvironment, ShopGrader, expert_answer, grade_shop_answer, shop_tasks
from tutelage.environments.shop_answers import read_ids, read_yes_no, says_choice, says_quantity
from tutelage.environments.shop_catalogue import GROUPS
from tutelage.environments.shop_store import open_shop
from tutelage.errors import InputError, ToolError
from tutelage.graders.rules import Contains, Exact, Normalised, Numeric, TokenF1
from tutelage.records import Completion, Episode, Message, Segment, StopReason, Task, ToolCall
from tutelage.study.cheap import cheap_answers
from tutelage.task_formats.references import reference_messages

TASKS = shop_tasks(600, seed=3)


def answered(task: Task, text: str | None) -> Episode:
    return Episode(task_id=task.id, agent_version="t", segments=(Segment(context=task.messages),), answer=text, stop=StopReason.ANSWERED)


def score(task: Task, text: str | None) -> float | None:
    return grade_shop_answer(task, answered(task, text)).score


def of_kind(kind: str) -> list[Task]:
    return [task for task in TASKS if task.kind == kind]


def key(task: Task) -> Any:
    answer = task.environment["answer"]
    assert isinstance(answer, dict)
    return answer["value"]


# --- the catalogue and the tasks


def test_the_catalogue_is_whole() -> None:
    assert len(GROUPS) >= 6
    for group in GROUPS.values():
        assert 3 <= len(group.rules) <= 4
        assert len({column.name for column in group.columns}) == len(group.columns)
        for column in group.columns:
            assert not column.numeric or list(column.values) == sorted(column.values)
        for rule in group.rules:
            values = group.column(rule.column).values
            assert all("{title}" in ask for ask in rule.asks)
            for threshold in rule.thresholds:
                assert (set(threshold) < set(values)) if isinstance(threshold, tuple) else threshold in values
    assert len({group.prefix for group in GROUPS.values()}) == len(GROUPS)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(10, 60))
def test_every_rule_holds_for_some_products_and_not_for_others(seed: int, products: int) -> None:
    shop = open_shop(seed, products)
    for (group, rule), _ in shop.thresholds.items():
        law, flipped = shop.law(group, rule), shop.law(group, rule, flipped=True)
        held = [law.holds(row) for row in shop.rows[group].values()]
        assert set(held) == {True, False}
        assert [flipped.holds(row) for row in shop.rows[group].values()] == [not one for one in held]
    titles = [row["title"] for rows in shop.rows.values() for row in rows.values()]
    ids = [row["product_id"] for rows in shop.rows.values() for row in rows.values()]
    assert len(set(ids)) == len(ids)
    assert len(titles) == len(GROUPS) * products


def test_the_same_seed_gives_the_same_tasks_and_fewer_are_the_beginning() -> None:
    assert shop_tasks(40, seed=3) == TASKS[:40]
    assert shop_tasks(40, seed=4)[0].id not in {task.id for task in TASKS}


def test_no_question_comes_twice_and_kinds_take_turns() -> None:
    assert len({task.input_id for task in TASKS}) == len({task.text for task in TASKS}) == 600
    assert Counter(task.kind for task in TASKS) == {"fact": 200, "search": 200, "reasoning": 200}
    assert {task.environment["group"] for task in TASKS} == set(GROUPS)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_constant_answer_is_right_about_half_of_the_time_on_reasoning(seed: int) -> None:
    tasks = shop_tasks(300, seed=seed, kinds=("reasoning",))
    assert 0.45 <= sum(key(task) == "yes" for task in tasks) / 300 <= 0.55
    by_rule = defaultdict(list)
    for task in tasks:
        by_rule[task.environment["group"], task.environment["rule"]].append(key(task))
    assert len(by_rule) == sum(len(group.rules) for group in GROUPS.values())
    assert all(abs(answers.count("yes") - answers.count("no")) <= 1 and len(answers) >= 8 for answers in by_rule.values())


def test_hidden_rules_stand_neither_in_the_prompt_nor_in_the_database() -> None:
    for task in of_kind("reasoning")[:60]:
        group, rule = str(task.environment["group"]), str(task.environment["rule"])
        law = open_shop(3).law(group, rule).words(GROUPS[group])
        opening = ShopEnvironment().reset(task)
        assert law in expert_answer(task)
        for text in (task.text, opening):
            assert law not in text
            assert not re.search(r"at least|at most|one of", text)
        assert not re.search(r"at least|at most|only if|cleared|recommended", open_shop(3).database.decode("utf-8", "replace"))


def test_questions_can_be_solved_by_sql_and_the_rule() -> None:
    """An independent solver that reads only the database and what the expert said."""
    for task in TASKS:
        shop, group = open_shop(3), GROUPS[str(task.environment["group"])]
        connection = sqlite3.connect(":memory:")
        connection.deserialize(shop.database)
        if task.kind == "search":
            marks = re.findall(r"whose (.+?) is (at least |at most |)(\S+)(?: \S+?)??(?= and|\.|$)", task.text)
            sql, values = ["1"], []
            for label, operator, value in marks:
                column = next(column for column in group.columns if column.label == label)
                sql.append(f"{column.name} {'>=' if 'least' in operator else '<=' if 'most' in operator else '='} ?")
                exact = next((one for one in column.values if isinstance(one, str) and f"is {one}" in task.text), None)
                values.append(float(value.rstrip(".")) if column.numeric else exact)
            for how, wanted in (("with ", "yes"), ("without ", "no")):
                for column in group.columns:
                    if column.flag and f"comes {how}{column.label}" in task.text:
                        sql.append(f"{column.name} = '{wanted}'")
            rows = connection.execute(f"SELECT product_id FROM {group.name} WHERE {' AND '.join(sql)}", values)  # noqa: S608 -- our own names
            assert sorted(name for (name,) in rows) == key(task), task.text
        if task.kind == "reasoning":
            rule = next(rule for rule in group.rules if rule.name == task.environment["rule"])
            query = f"SELECT {rule.column} FROM {group.name} WHERE product_id = ?"  # noqa: S608 -- our own names
            (value,) = connection.execute(query, (task.environment["product"],)).fetchone()
            bound = re.search(r" is (at least|at most|one of) (.+?), and not otherwise", expert_answer(task))
            assert bound
            number = re.match(r"[\d.]+", bound[2])
            holds = (
                value in bound[2].split(", ")
                if not number
                else (value >= float(number[0])) == (bound[1] == "at least") or value == float(number[0])
            )
            assert key(task) == ("yes" if holds else "no"), expert_answer(task)
        connection.close()


def test_rules_can_flip_half_way() -> None:
    plain, flipping = shop_tasks(100, 5, kinds=("reasoning",)), shop_tasks(100, 5, kinds=("reasoning",), flip_after=50)
    assert plain[:50] == flipping[:50]
    opposite = {"yes": "no", "no": "yes"}
    assert [key(task) for task in flipping[50:]] == [opposite[key(task)] for task in plain[50:]]
    assert [task.text for task in flipping] == [task.text for task in plain]
    assert re.search(r"is (below|above|none of) ", expert_answer(flipping[60]))


def test_rules_can_be_contrary() -> None:
    plain = shop_tasks(200, 5, kinds=("reasoning",))
    half = shop_tasks(200, 5, kinds=("reasoning",), contrary=0.5)
    assert [task.text for task in half] == [task.text for task in plain]
    rules = [str(task.environment["rule"]) for task in plain]
    turned = {rule for rule, one, other in zip(rules, plain, half, strict=True) if key(one) != key(other)}
    assert 0 < len(turned) < len(set(rules))  # a rule is turned round in all questions, or in none
    for rule, one, other in zip(rules, plain, half, strict=True):
        assert (key(one) != key(other)) == (rule in turned) == bool(re.search(r"is (below|above|none of) ", expert_answer(other)))
    assert shop_tasks(200, 5, kinds=("reasoning",), contrary=0) == plain
    with pytest.raises(InputError, match="share from 0 to 1"):
        shop_tasks(1, 0, contrary=1.5)


def test_kinds_groups_and_sizes_can_be_chosen() -> None:
    tasks = shop_tasks(30, 0, kinds=("search",), groups=("lamps",), products=12)
    assert {(task.kind, task.environment["group"]) for task in tasks} == {("search", "lamps")}
    assert len(open_shop(0, 12).rows["lamps"]) == 12
    assert shop_tasks(0, 0) == ()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kinds": ("facts",)}, "Did you mean `fact`"),
        ({"groups": ("lamp",)}, "Did you mean `lamps`"),
        ({"groups": ()}, "at least one"),
        ({"products": 5}, "10 to 500 products, not 5"),
        ({"kinds": ("reasoning",), "groups": ("lamps",), "products": 10}, "no more questions of the kind reasoning after 120 tasks"),
    ],
)
def test_what_cannot_be_had_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        shop_tasks(2_000, 0, **options)


# --- references


def test_references_suit_exemplars_and_graders_of_text() -> None:
    for task in TASKS[:60]:
        short, long = task.reference  # type: ignore[misc]
        assert reference_messages(task) == (Message(role="assistant", content=short),)
        assert expert_answer(task) == long
        assert score(task, short) == 1.0
        assert score(task, long) == 1.0, long
    with pytest.raises(InputError, match=r"\[short answer, long answer\]"):
        expert_answer(TASKS[0].model_copy(update={"reference": "yes"}))


@pytest.mark.parametrize("grader", [Exact(), Normalised(), Contains(), TokenF1()])
async def test_general_graders_accept_the_reference(grader: tt.Grader) -> None:
    for task in TASKS[:30]:
        grader.check(task)
        short = task.reference[0]  # type: ignore[index]
        assert (await grader.grade(task, answered(task, str(short)))).score == 1.0


async def test_the_numeric_grader_reads_facts_about_numbers() -> None:
    numbers = [task for task in of_kind("fact") if isinstance(key(task), int | float)][:20]
    for task in numbers:
        assert (await Numeric().grade(task, answered(task, str(key(task))))).score == 1.0
        assert (await Numeric().grade(task, answered(task, "0"))).score == 0.0


async def test_cheap_baselines_work() -> None:
    constant, nearest = await cheap_answers(of_kind("reasoning")[:120], of_kind("reasoning")[120:], ShopGrader())
    assert constant.note in ("yes", "no")
    assert all(value in (0.0, 1.0) for value in (*constant.scores, *nearest.scores))
    assert 0.3 <= sum(filter(None, constant.scores)) / len(constant.scores) <= 0.7


# --- grading: lenient in form, strict in content


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Yes", "yes"),
        ("no.", "no"),
        ("**Yes**, you can hang it there.", "yes"),
        ("The answer is no.", "no"),
        ("Answer: YES", "yes"),
        ("The final answer is: yes", "yes"),
        ("It has an IP rating of 44, so yes", "yes"),
        ("\N{FULLWIDTH LATIN SMALL LETTER N}\N{FULLWIDTH LATIN SMALL LETTER O}", "no"),
        ("yes and no", None),
        ("Yes or no", None),
        ("yes/no", None),
        ("Yes, it has; so no", None),
        ("maybe", None),
        ("Nobody knows", None),
        ("I do not know", None),
        ("No idea", None),
        ("No information available", None),
        ("There is no problem with that at all", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_yes_and_no_are_read(text: str, read: str | None) -> None:
    assert read_yes_no(text) == read


@pytest.mark.parametrize(
    ("text", "value", "unit", "right"),
    [
        ("2.4 kg", 2.4, "kg", True),
        ("2.4kg", 2.4, "kg", True),
        ("2400 g", 2.4, "kg", True),
        ("It weighs 2,400 grams.", 2.4, "kg", True),
        ("2.4", 2.4, "kg", True),
        ("2.4 kg (2400 g)", 2.4, "kg", True),
        ("2.4 kg or 3 kg", 2.4, "kg", False),
        ("1 2 2.4", 2.4, "kg", False),
        ("2.4 lb", 2.4, "kg", False),
        ("2.4 cm", 2.4, "kg", False),
        ("24 kg", 2.4, "kg", False),
        ("-2.4 kg", 2.4, "kg", False),
        ("61 cm", 24, "in", True),
        ('24"', 24, "in", True),
        ("45 EUR", 45, "EUR", True),
        ("\N{EURO SIGN}45", 45, "EUR", True),
        ("45.00 \N{EURO SIGN}", 45, "EUR", True),
        ("$45", 45, "EUR", False),
        ("IP44", 44, "", True),
        ("IP-44", 44, "", True),
        ("IP rating 44", 44, "", True),
        ("44 and 54", 44, "", False),
        ("90 minutes", 1.5, "h", True),
        ("2 years", 24, "months", True),
        ("9 m\N{SUPERSCRIPT TWO}", 9, "m2", True),
        ("220 \N{DEGREE SIGN}C", 220, "C", True),
        ("a lot", 44, "", False),
    ],
)
def test_quantities_are_read_with_their_units(text: str, value: float, unit: str, right: bool) -> None:
    assert says_quantity(text, value, unit) is right


def test_choices_are_read_without_regard_to_spelling() -> None:
    poles = ("aluminium", "fibreglass", "steel")
    assert says_choice("They are Aluminum.", "aluminium", poles)
    assert says_choice("full grain leather", "full-grain leather", ("full-grain leather", "suede"))
    assert not says_choice("aluminium or steel", "aluminium", poles)
    assert not says_choice("stainless", "steel", poles)
    assert not says_choice("", "steel", poles)


def test_ids_are_read_as_sets() -> None:
    titles = {"Norvik Halo 210": "L1001", "Norvik Halo 2100": "L2000"}
    pattern = r"(?<!\w)L\d{4}(?!\w)"
    assert read_ids("l1001 and L1002, L1001", pattern, titles) == {"L1001", "L1002"}
    assert read_ids("- the norvik  halo 2100", pattern, titles) == {"L2000"}
    assert read_ids("None of them.", pattern, titles) == frozenset()
    assert read_ids("I will look", pattern, titles) is None
    assert read_ids("XL1001 L10011", pattern, titles) is None


def test_a_search_needs_exactly_the_right_set_and_says_how_near_it_was() -> None:
    task = next(task for task in of_kind("search") if len(key(task)) == 4)
    ids = key(task)
    other = next(name for name in open_shop(3).rows[str(task.environment["group"])] if name not in ids)
    assert score(task, " ".join(reversed(ids)).lower()) == 1.0
    near = grade_shop_answer(task, answered(task, f"{ids[0]}, {ids[1]}, {ids[2]}, {other}"))
    assert (near.score, near.parts) == (0.0, {"precision": 0.75, "recall": 0.75})
    assert near.words.startswith(f"expected '{', '.join(ids)}")
    assert grade_shop_answer(task, answered(task, "none")).parts == {"precision": 0.0, "recall": 0.0}
    assert score(task, ", ".join([*ids, other])) == 0.0


def test_an_empty_search_needs_the_word() -> None:
    task = next(task for task in of_kind("search") if not key(task))
    assert task.reference[0] == "none"  # type: ignore[index]
    assert score(task, "Nothing fits, sorry.") == 1.0
    assert score(task, "Let me look again") == 0.0
    assert score(task, "L1234 T1234 B1234 W1234 H1234 M1234 P1234 R1234") == 0.0


def test_no_answer_is_wrong_with_words() -> None:
    grade = grade_shop_answer(TASKS[0], answered(TASKS[0], None))
    assert (grade.score, "no answer" in grade.words) == (0.0, True)


def test_the_title_is_not_taken_for_the_answer() -> None:
    task = next(task for task in of_kind("fact") if isinstance(key(task), int | float))
    title = open_shop(3).rows[str(task.environment["group"])][str(task.environment["product"])]["title"]
    assert score(task, f"The {title} has {task.reference[0]}.") == 1.0  # type: ignore[index]
    assert score(task, str(title)) == 0.0


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(TASKS[:30]), st.text(max_size=60))
def test_any_answer_gets_a_grade(task: Task, text: str) -> None:
    assert score(task, text) in (0.0, 1.0)


# --- the environment


async def test_a_session_by_hand() -> None:
    task = of_kind("fact")[0]
    group = str(task.environment["group"])
    world = ShopEnvironment()
    opening = world.reset(task)
    assert f"{group}(product_id TEXT, title TEXT, brand TEXT" in opening
    assert [item.spec.name for item in environment_tools(world)] == ["sql"]
    assert world.sql(f"SELECT count(*) FROM {group}") == "count(*)\n30"  # noqa: S608 -- our own names
    other = next(name for name in GROUPS if name != group)
    with pytest.raises(ToolError, match="cannot be read"):
        world.sql(f"SELECT * FROM {other}")  # noqa: S608 -- our own names
    assert world.grade(answered(task, str(task.reference[0]))) == tt.Grade(score=1.0, words="correct")  # type: ignore[index]


async def test_an_agent_that_asks_and_answers_is_graded() -> None:
    task = of_kind("search")[0]
    ids = ", ".join(key(task)) or "none"

    def reply(messages: Any, **_: Any) -> Completion:
        if any(message.role == "tool" for message in messages):
            return Completion(message=Message(role="assistant", content=ids))
        call = ToolCall(id="1", name="sql", arguments='{"query": "SELECT 1"}')
        return Completion(message=Message(role="assistant", tool_calls=(call,)), finish="tool_calls")

    class Clerk:
        name, native_tools, price = "clerk", True, None

        async def complete(self, messages: Any, *, tools: Any = (), sampling: Any = None) -> Completion:
            return reply(messages)

    episode = await tt.run_episode(tt.Agent(model=Clerk()), task, environment=ShopEnvironment)
    assert episode.environment_grade is not None
    assert episode.environment_grade.score == 1.0
    assert episode.calls[0][1] is not None
    assert episode.calls[0][1].text == "1\n1"


def test_a_task_of_another_make_is_refused() -> None:
    strange = Task(messages=(Message(role="user", content="hi"),), source="mine.jsonl:4")
    with pytest.raises(InputError, match=r"mine\.jsonl:4: field `environment`"):
        ShopEnvironment().reset(strange)
    broken = TASKS[0].model_copy(update={"environment": {**TASKS[0].environment, "answer": {"type": "number", "value": 1}}})
    with pytest.raises(InputError, match=r"environment\.answer"):
        ShopGrader().check(broken)
    with pytest.raises(ToolError, match="not open yet"):
        ShopEnvironment().sql("SELECT 1")
