"""The choice of exemplars: every field of Retrieval, growth, and exactness while many add and ask at once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tutelage.errors import InputError
from tutelage.knowledge import Exemplar, Knowledge, Recall, Reflection, Retrieval
from tutelage.memory import Memory, estimate_tokens
from tutelage.records import Message, Task, ToolCall
from tutelage.retrieval.embedders import load_embedder
from tutelage.retrieval.index import Index


def case(text: str, *, kind: str | None = None, task: str = "", answer: str = "ok", calls: tuple[ToolCall, ...] = ()) -> Exemplar:
    messages = (Message(role="user", content=text), Message(role="assistant", content=answer, tool_calls=calls))
    return Exemplar(task_id=task or f"t-{text}", input_id=f"i-{text}", text=text, messages=messages, kind=kind)


def ask(text: str, kind: str | None = None, reference: str | None = None) -> Task:
    return Task(messages=(Message(role="user", content=text),), kind=kind, reference=reference)


def memory(*exemplars: Exemplar, **retrieval) -> Memory:
    return Memory(Knowledge(exemplars=exemplars, retrieval=Retrieval(**{"embedder": "hashing", **retrieval})))


def texts(chosen: tuple[Exemplar, ...]) -> list[str]:
    return [exemplar.text for exemplar in chosen]


PETS = tuple(case(text) for text in ("red cat", "blue dog", "red dog sleeps", "green bird", "red cat sleeps well"))


def test_fixed_shows_the_first_k_as_stored():
    assert texts(memory(*PETS, k=3).choose(ask("green bird"))) == ["red cat", "blue dog", "red dog sleeps"]
    assert texts(memory(*PETS, k=2, order="best_first").choose(ask("x"))) == ["red cat", "blue dog"], "no order but the stored one"
    assert memory(k=3).choose(ask("x")) == memory(*PETS, k=0).choose(ask("x")) == ()


def test_text_ranks_by_shared_words():
    assert texts(memory(*PETS, choose="text", k=3, order="best_first").choose(ask("red dog"))) == ["red dog sleeps", "blue dog", "red cat"]
    assert memory(*PETS, choose="text").choose(ask("nothing in common")) == ()


def test_meaning_equals_brute_force():
    chosen = memory(*PETS, choose="meaning", k=5, order="best_first").choose(ask("a red cat slept"))
    query, *vectors = load_embedder("hashing").embed(["a red cat slept", *texts(PETS)])
    assert texts(chosen) == [text for _, text in sorted(zip([-(vector @ query) for vector in vectors], texts(PETS), strict=True))]


def test_orders():
    def shown(order: str) -> list[str]:
        return texts(memory(*PETS, choose="text", k=3, order=order).choose(ask("red dog")))

    assert shown("best_first") == ["red dog sleeps", "blue dog", "red cat"]
    assert shown("best_last") == ["red cat", "blue dog", "red dog sleeps"]
    assert shown("as_stored") == ["red cat", "blue dog", "red dog sleeps"]
    later = [PETS[2], PETS[0], PETS[1]]
    assert texts(memory(*later, choose="text", k=3, order="as_stored").choose(ask("red dog"))) == ["red dog sleeps", "red cat", "blue dog"]


@pytest.mark.parametrize("choose", ["fixed", "text", "meaning", "fused"])
def test_a_task_is_never_shown_its_own_case(choose: str):
    task = ask("red cat", reference="meow")
    same_task = case("red cat", answer="meow").model_copy(update={"task_id": task.id})
    same_question = case("red cat", answer="purr").model_copy(update={"input_id": task.input_id})
    other = case("blue cat")
    chosen = memory(same_task, same_question, other, choose=choose, k=3, max_similarity=1.0).choose(task)
    assert texts(chosen) == ["blue cat"]


@pytest.mark.parametrize("choose", ["text", "meaning", "fused"])
def test_own_cases_and_near_duplicates_do_not_use_up_the_search(choose: str):
    task = ask("red cat")
    own = [case("red cat", answer=str(n)).model_copy(update={"task_id": task.id}) for n in range(600)]
    copies = [case("red cat now", task=f"t{n}") for n in range(600)]
    chosen = memory(*own, *copies, case("blue cat"), choose=choose, k=2, order="best_first", max_similarity=0.9).choose(task)
    assert texts(chosen) == ["red cat now", "blue cat"]


@pytest.mark.parametrize("choose", ["fixed", "text", "meaning", "fused"])
def test_same_kind(choose: str):
    cases = [case("red cat", kind="pet"), case("red car", kind="thing"), case("red dog", kind="pet"), case("red")]
    strict = memory(*cases, choose=choose, k=4, same_kind=True)
    assert set(texts(strict.choose(ask("red cat?", "pet")))) == {"red cat", "red dog"}
    assert strict.choose(ask("red cat?", "food")) == ()
    assert len(strict.choose(ask("red cat?"))) == 4, "the kind is unknown, so nothing is left out"
    assert len(memory(*cases, choose=choose, k=4).choose(ask("red cat?", "pet"))) == 4


def test_near_duplicates_by_text_are_measured_in_words():
    cases = [case("a b c d"), case("d c b a"), case("a b c x")]  # overlaps with the first: 1, 3 of 5

    def shown(limit: float) -> list[str]:
        return texts(memory(*cases, choose="text", k=3, order="best_first", max_similarity=limit).choose(ask("a b c d")))

    assert shown(1.0) == ["a b c d", "d c b a", "a b c x"]
    assert shown(0.98) == ["a b c d", "a b c x"]
    assert shown(0.6) == ["a b c d", "a b c x"]
    assert shown(0.59) == ["a b c d"]


def test_near_duplicates_by_meaning_are_measured_by_cosine():
    cases = [case("reset my password", task=f"t{n}") for n in range(5)] + [case("printer jammed")]
    chosen = memory(*cases, choose="meaning", k=3, order="best_first").choose(ask("reset password"))
    assert texts(chosen) == ["reset my password", "printer jammed"]
    assert len(memory(*cases, choose="meaning", k=6, max_similarity=1.0).choose(ask("reset password"))) == 6


@pytest.mark.parametrize("choose", ["fixed", "text"])
def test_what_does_not_fit_into_the_budget_is_skipped(choose: str):
    long = case("dog cat", answer="x" * 400)
    short = [case("dog"), case("a dog"), case("the dog")]
    tokens = sum(estimate_tokens(f"{item.text}\nok") for item in (short[0], short[1]))
    chosen = memory(long, *short, choose=choose, k=4, order="as_stored", token_budget=tokens).choose(ask("dog cat"))
    assert texts(chosen) == ["dog", "a dog"]
    assert memory(long, choose=choose, token_budget=10).choose(ask("dog")) == ()
    assert memory(*short, choose=choose, token_budget=0).choose(ask("dog")) == ()


def test_tokens_are_counted_with_the_given_counter_and_include_calls():
    seen: list[str] = []

    def count(text: str) -> int:
        seen.append(text)
        return 3

    calling = case("dog", answer="", calls=(ToolCall(id="1", name="pet", arguments='{"name": "Rex"}'),))
    knowledge = Knowledge(exemplars=(calling, case("cat")), retrieval=Retrieval(k=2, token_budget=5))
    assert texts(Memory(knowledge, count_tokens=count).choose(ask("x"))) == ["dog"]
    assert seen == ['dog\n\npet {"name": "Rex"}', "cat\nok"]
    assert [estimate_tokens("x" * n) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]


def test_a_spent_budget_ends_the_search():
    asked: list[str] = []
    cases = tuple(case(f"dog number {n}") for n in range(700))
    knowledge = Knowledge(exemplars=cases, retrieval=Retrieval(choose="text", k=20, token_budget=3))
    chosen = Memory(knowledge, count_tokens=lambda text: asked.append(text) or 1).choose(ask("dog"))
    assert len(chosen) == 3
    assert len(asked) == 80, "4 k candidates, not all 700"


def test_adding_and_snapshots():
    growing = memory(PETS[0], PETS[0], choose="text", k=3)
    before = growing.snapshot()
    assert len(growing) == 1
    assert growing.add(PETS[1])
    assert not growing.add(PETS[1].model_copy())
    assert not growing.add(PETS[0])
    assert before.exemplars == PETS[:1]
    assert growing.snapshot() == Knowledge(exemplars=PETS[:2], retrieval=growing.retrieval)
    assert texts(growing.choose(ask("blue dog"))) == ["blue dog"]
    assert growing.add(PETS[2])
    assert texts(growing.choose(ask("blue dog"))) == ["red dog sleeps", "blue dog"], "indexed while it is used"


def test_a_wrong_embedder_is_named():
    with pytest.raises(InputError, match="`nowhere` is not an embedder"):
        memory(*PETS, choose="meaning", embedder="nowhere").choose(ask("x"))
    assert len(memory(*PETS, choose="text", embedder="nowhere").choose(ask("red"))) == 3, "text needs none"


def test_fixed_needs_no_numpy():
    code = (
        "import sys; from tutelage.memory import Memory; from tutelage.knowledge import *; from tutelage.records import *\n"
        "m = Message(role='user', content='x'); e = Exemplar(task_id='a', input_id='b', text='x', messages=(m,))\n"
        "print(len(Memory(Knowledge(exemplars=(e,))).choose(Task(messages=(m,)))), 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == ["1", "False"]


WORDS = "reset unlock printer vpn mail password account floor slow broken new old screen phone order cancel".split()  # noqa: SIM905


def numbered(number: int) -> Exemplar:
    """Distinct texts that share words."""
    return case(" ".join(WORDS[(number * step) % 16] for step in (1, 3, 7)) + f" {number}")


def by_brute_force(known: list[Exemplar], task: Task, choose: str) -> list[str]:
    """The same choice over a fresh index that was never asked while it grew; both orders of adding are the snapshot's."""
    index = Index("hashing")
    for exemplar in known:
        index.add(exemplar.id, exemplar.text)
    by_id = {exemplar.id: exemplar.text for exemplar in known}
    return [by_id[hit.id] for hit in index.search(task.text, 6, choose)]


@pytest.mark.parametrize("choose", ["text", "meaning", "fused"])
def test_threads_lose_nothing_and_duplicate_nothing(choose: str):
    growing = memory(choose=choose, k=6, order="best_first", max_similarity=1.0)
    questions = [ask(f"{WORDS[n]} {WORDS[-n]} {n * 100}") for n in range(8)]

    def work(thread: int) -> int:
        added = 0
        for step in range(200):
            own = numbered((thread // 2) * 200 + step)  # two threads add the same exemplars
            added += growing.add(own)
            if step % 20 == 0:
                chosen = growing.choose(ask(own.text))
                assert own.id in {exemplar.id for exemplar in chosen}, "what was added before is seen"
                assert len({exemplar.id for exemplar in chosen}) == len(chosen) <= 6
        return added

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(work, range(8))) == 800, "each is new exactly once"
    stored = list(growing.snapshot().exemplars)
    assert {exemplar.id for exemplar in stored} == {numbered(n).id for n in range(800)}
    assert len(stored) == len(growing) == 800
    for question in questions:
        assert texts(growing.choose(question)) == by_brute_force(stored, question, choose)


async def test_tasks_lose_nothing():
    growing = memory(choose="fused", k=6, order="best_first", max_similarity=1.0)

    async def work(number: int) -> bool:
        await asyncio.sleep(0)
        new = growing.add(numbered(number))
        await asyncio.sleep(0)
        chosen = await asyncio.to_thread(growing.choose, ask(numbered(number).text)) if number % 10 == 0 else growing.choose(ask("vpn"))
        assert len({exemplar.id for exemplar in chosen}) == len(chosen)
        return new

    assert sum(await asyncio.gather(*(work(number % 150) for number in range(300)))) == 150
    assert len(growing) == 150
    stored = list(growing.snapshot().exemplars)
    assert texts(growing.choose(ask("slow vpn"))) == by_brute_force(stored, ask("slow vpn"), "fused")


# Reflections


def note(number: int, about: Task, **fields) -> Reflection:
    return Reflection(task_id=about.id, input_id=about.input_id, task_text=about.text, attempt=number, text=f"note {number}", **fields)


def asked(text: str) -> Task:
    return Task(messages=(Message(role="user", content=text),))


def test_the_last_reflections_on_a_task_and_the_pinned_ones_are_recalled():
    lamp, tent = asked("Which lamp fits the bathroom?"), asked("Which tent stands the storm?")
    notes = tuple(note(number, lamp) for number in range(4))
    knowledge = Knowledge(reflections=(*notes, note(9, tent)), recall=Recall(omega=2))
    assert Memory(knowledge).recall(lamp) == notes[2:]
    assert Memory(knowledge.model_copy(update={"pinned": frozenset({notes[0].id})})).recall(lamp) == (notes[0], *notes[2:])
    assert Memory(knowledge.model_copy(update={"recall": Recall(omega=0)})).recall(lamp) == ()
    assert Memory(knowledge).recall(asked("Which lamp fits the hall?")) == ()


def test_reflections_are_carried_to_similar_tasks_the_most_similar_last():
    lamp, tent, boot = asked("lamp for the bathroom"), asked("tent for the storm"), asked("boot for the snow")
    knowledge = Knowledge(reflections=(note(0, lamp), note(1, lamp), note(2, tent), note(3, boot)), recall=Recall(carry=2, by="text"))
    found = Memory(knowledge).recall(asked("a lamp for the bathroom or a tent"))
    assert [item.text for item in found] == ["note 2", "note 1"]
