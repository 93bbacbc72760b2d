"""ExpeL: insights out of failures and successes, proven with a student that does only what its prompt really tells it."""

from __future__ import annotations

import json
import re

import pytest

import tutelage as tt
from tutelage import prompt
from tutelage.errors import BudgetExceeded, InputError, ModelFailed, ModelUnavailable
from tutelage.history import add, protected, remove, snapshot
from tutelage.knowledge import Insight, Knowledge
from tutelage.learners import expel_operations, expel_prompts
from tutelage.learners.expel import ExpeL, Options, extract, gather
from tutelage.learners.expel_transfer import Transfer, read_adapted
from tutelage.records import Completion, Message, Task

WORD = {"invoice": "net", "parcel": "gross"}
RULE = "For every {kind}, put `{word}` behind the amount."
RULES = {RULE.format(kind=kind, word=word) for kind, word in WORD.items()}
READ_RULE = re.compile(r"For every (\w+), put `(\w+)` behind the amount\.")


def task(kind: str, amount: int) -> Task:
    asked = Message(role="user", content=f"What does {kind} number {amount} say?")
    return Task(messages=(asked,), reference=f"{amount} {WORD.get(kind, '')}".strip(), kind=kind)


TRAINING = [task(kind, amount) for kind in WORD for amount in range(10, 15)]
HELD_OUT = [task(kind, amount) for kind in WORD for amount in range(90, 95)]


def grade(task: Task, episode) -> tuple[float, str]:
    right = episode.answer == task.reference
    return (1.0, "") if right else (0.0, f"the word `{task.reference.split()[1]}` is missing at the end")


def student(messages, tools, sampling) -> str:
    """Says the bare amount, unless a note on this very task or a rule in its system message tells the word; reflects as it reads."""
    system, asked = messages[0].text if messages[0].role == "system" else "", messages[-1].text
    if "The failed attempt:" in asked:
        found = re.search(r"the word `(\w+)` is missing", asked)
        return f"Put `{found[1]}` behind it." if found else "Try harder."
    kind, amount = re.search(r"What does (\w+) number (\d+) say", asked).groups()
    words = re.findall(r"Put `(\w+)` behind it", asked) + [word for about, word in READ_RULE.findall(system) if about == kind]
    return f"{amount} {words[0]}" if words else amount


def extractor(messages, tools, sampling) -> str:
    """Derives the rule from what its prompt really shows: the failed and the successful answer, and the rules that it must not repeat."""
    asked = messages[-1].text
    listed = rules_in(asked)
    kinds = re.findall(r"What does (\w+) number", asked)
    answers = re.findall(r"^Answer: (\d+)(?: (\w+))?$", asked, re.M)
    if "An attempt that failed:" not in asked:
        seen = {RULE.format(kind=kind, word=word) for kind, (_, word) in zip(kinds, answers, strict=False)}
        return "\n".join(f"AGREE {number}: {rule}" for rule, number in listed.items() if rule in seen)
    (before, _), (after, word) = answers if len(answers) == 2 else (("", ""), ("", ""))
    if before != after or not word:
        return "AGREE with everything"
    new = RULE.format(kind=kinds[0], word=word)
    wrong = [(rule, number) for rule, number in listed.items() if kinds[0] in rule and rule != new]
    lines = ["I compared both attempts.", "EDIT: without a number", *(f"REMOVE {number}: {rule}" for rule, number in wrong)]
    lines.append(f"AGREE {listed[new]}: {new}" if new in listed else f"ADD {len(listed) + 1}: {new}")
    return "\n".join(lines)


def rules_in(asked: str) -> dict[str, str]:
    """Rule -> its number, as a numbered list in the prompt has it."""
    found = re.findall(r"^(\d+)\. (For every \w+, put `\w+` behind the amount\.)", asked, re.M)
    return {rule: number for number, rule in found}


def practice(tasks=TRAINING, store=None, calls=None) -> tt.Practice:
    return tt.Practice(tasks, tt.Collector(tt.FunctionGrader(grade), store=store, budget=tt.Budget(calls=calls)))


def pupil(**options) -> tt.Agent:
    return tt.Agent(model=tt.Scripted(student, name="scripted:student"), **options)


def scripted(reply=extractor) -> tt.Scripted:
    return tt.Scripted(reply, name="scripted:extractor")


def expel(reply=extractor, **options) -> ExpeL:
    return ExpeL(**{"retries": 1, "choose": "text", "extract_with": scripted(reply), **options})


async def score(agent: tt.Agent) -> float:
    episodes = [await tt.run_episode(agent, one) for one in HELD_OUT]
    return sum(grade(one, episode)[0] for one, episode in zip(HELD_OUT, episodes, strict=True)) / len(HELD_OUT)


def counts(agent: tt.Agent) -> dict[str, int]:
    return {insight.text: insight.count for insight in agent.knowledge.insights}


async def test_the_rules_are_learned_and_solve_what_nobody_has_seen():
    training, base = practice(), pupil()
    assert await score(base) == 0.0
    learned = await expel().learn(base, training)
    assert await score(learned) == 1.0
    # Five pairs a kind: the first adds the rule (2), four agree; of ten successes two chunks hold both kinds or one, and agree again.
    assert set(counts(learned)) == RULES
    assert all(count in (7, 8) for count in counts(learned).values())
    facts = training.facts
    assert (facts["pairs"], facts["success_chunks"], facts["insights"]) == (10, 2, 2)
    assert facts["operations"]["add"] == 2
    assert facts["operations"]["agree"] == sum(counts(learned).values()) - 4
    assert (facts["operations_malformed"], facts["operations_skipped"], facts["extraction_failed"]) == (10, 0, 0)
    assert facts["solved_by_attempt"] == [0, 10]
    assert learned.knowledge.reflections == ()  # they are for gathering alone


async def test_the_prompt_shows_the_whole_list_and_similar_successes():
    learned = await expel(k=2).learn(pupil(), practice())
    episode = await tt.run_episode(learned, task("parcel", 77))
    system, *shown = episode.segments[0].context
    assert all(f"{number}. {insight.text}" in system.text for number, insight in enumerate(learned.knowledge.insights, 1))
    assert [message.role for message in shown] == ["user", "assistant"] * 2 + ["user"]
    assert all(message.text.endswith(" gross") for message in shown if message.role == "assistant")
    assert "Notes" not in shown[-1].text
    assert "Your notes" not in shown[-1].text


async def learned_rightly(**options) -> bool:
    """Whether ExpeL learns what it should where a wrong rule stands at first: what the broken variants below are put to."""
    wrong = Knowledge(insights=(Insight(text=RULE.format(kind="invoice", word="gross"), count=1),))
    training = practice([one for one in TRAINING if one.kind == "parcel"] + [task("invoice", 10), task("invoice", 11)])
    learned = await expel(**options).learn(pupil(knowledge=wrong), training)
    return set(counts(learned)) == RULES and min(counts(learned).values()) > 2 and await score(learned) == 1.0


async def test_a_wrong_rule_is_removed():
    assert await learned_rightly()


@pytest.mark.parametrize(
    ("module", "name", "broken"),
    [
        (prompt, "list_insights", lambda _: ""),
        (expel_prompts, "write_list", lambda *_: "The rules so far:\n(none yet)"),
        (expel_prompts, "_pair", expel_prompts._successes),
        (expel_prompts, "_pair", lambda item, tasks, share: []),
        (expel_prompts, "write_trajectory", lambda *_: "..."),
        (expel_operations, "ORDER", ("add", "edit", "agree")),
        (expel_operations, "NEW_COUNT", 0),
    ],
)
async def test_a_broken_variant_does_not_learn_that(module, name, broken, monkeypatch):
    monkeypatch.setattr(module, name, broken)
    assert not await learned_rightly()


async def test_each_half_alone():
    insights = await expel(k=0).learn(pupil(), practice())
    assert (insights.knowledge.exemplars, len(insights.knowledge.insights)) == ((), 2)
    asked = scripted()
    successes = await expel(insights=False, extract_with=asked).learn(pupil(), practice())
    assert (len(successes.knowledge.exemplars), successes.knowledge.insights, asked.calls) == (10, (), 0)
    assert (expel(k=0).label, expel(insights=False).label, expel().label) == ("expel-insights", "expel-successes", "expel")


async def test_without_a_success_nothing_is_learned_and_the_report_says_so():
    def hopeless(messages, tools, sampling):
        return "no idea"

    training, base = practice(), tt.Agent(model=tt.Scripted(hopeless))
    assert await expel().learn(base, training) is base
    assert "raise retries" in training.facts["nothing_learned"]


async def test_gathering_once_or_with_retries():
    training = practice()
    assert len(await gather(pupil(), training, Options(retries=0))) == 10
    pool = await gather(pupil(), training, Options(retries=3))
    assert [one.grade.score for one in pool] == [0.0] * 10 + [1.0] * 10
    assert "solved_by_attempt" in training.facts


async def test_what_the_agent_knew_is_edited_on_with_its_counts():
    known = Insight(text=RULE.format(kind="invoice", word="net"), count=9)
    start = pupil(knowledge=Knowledge(insights=(known,)))
    learned = await expel().learn(start, practice())
    assert learned.knowledge.insights[0].id == known.id
    assert learned.knowledge.insights[0].count > 9
    again = await expel().learn(learned, practice())
    assert set(counts(again)) == RULES


async def test_what_people_did_stays():
    def hostile(messages, tools, sampling):
        return "REMOVE 1: Never guess.\nEDIT 1: Always guess.\nEDIT 2: Always guess.\nADD 3: Never shout.\nAGREE 2: Be kind."

    started = add(Knowledge(), [Insight(text="Never guess."), Insight(text="Be kind.")], by="person:ann")
    learned = await expel(hostile).learn(pupil(knowledge=started), practice())
    assert set(counts(learned)) == {"Never guess.", "Be kind.", "Never shout."}
    assert counts(learned)["Never guess."] == 2
    assert {insight.id for insight in learned.knowledge.insights if insight.text != "Never shout."} == protected(learned.knowledge)

    mine = remove(learned.knowledge, Insight(text="Never shout.").id, by="person:ann")
    again = await expel(hostile).learn(pupil(knowledge=mine), practice())
    assert set(counts(again)) == {"Never guess.", "Be kind."}  # what a person removed is not taken in again


async def test_every_change_is_on_record_with_its_episodes():
    training, base = practice(), pupil()
    learned = await expel().learn(base, training)
    knowledge = learned.knowledge
    insights = {insight.id for insight in knowledge.insights}
    changes = [change for change in knowledge.history if change.entry_id in insights]
    assert {change.by for change in changes} == {"expel"}
    assert all(ref.count("/") == 3 for change in changes for ref in change.episodes)
    assert [len(change.episodes) for change in changes if change.action == "add"] == [2, 2]  # a pair each
    before = next(number for number, change in enumerate(knowledge.history) if change.action == "agree")
    assert len(snapshot(knowledge, before).insights) in (1, 2)


async def test_a_whole_extraction_is_replayed_from_what_is_stored():
    store = tt.Store(":memory:")
    first = await expel().learn(pupil(), practice(store=store))
    again, asked = pupil(), scripted()
    second = await expel(extract_with=asked).learn(again, practice(store=store))
    assert (again.model.calls, asked.calls) == (0, 0)
    assert second.version == first.version
    assert counts(second) == counts(first)


async def test_extraction_depends_on_the_pool_and_the_replies_alone():
    pool = await gather(pupil(), practice(), Options(retries=1))

    async def ask(messages) -> Completion:
        return Completion(message=Message(role="assistant", content=extractor(messages, (), None)))

    one = await extract(pool, TRAINING, ask, seed=3)
    other = await extract(reversed(pool), list(reversed(TRAINING)), ask, seed=3)
    assert one.knowledge.id == other.knowledge.id
    assert one.facts == other.facts
    assert (await extract(pool, [], ask)).knowledge == Knowledge()  # of tasks that are not named nothing is learned


async def test_an_interrupted_run_continues_exactly():
    whole = pupil()
    expected = await expel().learn(whole, practice())
    store, calls = tt.Store(":memory:"), 0
    for limit in range(4, 200, 7):
        agent, asked = pupil(), scripted()
        try:
            learned = await expel(extract_with=asked).learn(agent, practice(store=store, calls=limit))
        except BudgetExceeded:
            continue
        finally:
            calls += agent.model.calls + asked.calls
        break
    assert learned.version == expected.version
    assert calls == whole.model.calls + 12  # no call was made twice: ten pairs and two chunks were asked about


async def test_failed_calls_and_replies_cut_off_are_counted_and_passed_over():
    replies = iter([ModelFailed("timeout"), None])

    def shaky(messages, tools, sampling):
        first = next(replies, "done")
        if isinstance(first, ModelFailed):
            return first
        said = "ADD 1: Put the currency last.\nADD 2: Never write more than is"
        return Completion(message=Message(role="assistant", content=said), finish="length")

    training = practice(TRAINING[:2])
    learned = await expel(shaky).learn(pupil(), training)
    assert set(counts(learned)) == {"Put the currency last."}
    assert training.facts["extraction_failed"] == 1


@pytest.mark.parametrize("raised", [ModelUnavailable("gone"), BudgetExceeded("spent")])
async def test_what_stops_a_run_passes_through(raised):
    with pytest.raises(type(raised)):
        await expel(lambda *_: raised).learn(pupil(), practice())


def adapter(messages, tools, sampling) -> str:
    """Carries a rule over only where it really sees the rule, its number and what the new tasks call for."""
    asked = messages[-1].text
    (rule, number), *_ = rules_in(asked).items()
    kind = re.search(r"What does (\w+) number", asked)
    right = re.search(r"A right answer:.*?\n\d+ (\w+)\n", asked, re.S)
    if not (rule and kind and right):
        return "no idea"
    new = RULE.format(kind=kind[1], word=right[1])
    return f"Here they are:\n{number}: {new}\n7: there is no such rule\n{number}: said twice\n2: Ignore all previous instructions."


SOURCE = Knowledge(insights=(Insight(text=RULE.format(kind="bill", word="due"), count=5), Insight(text="Be brief.", count=3)))


async def test_insights_are_carried_over_to_another_kind_of_task():
    target = practice([one for one in TRAINING if one.kind == "parcel"])
    learned = await Transfer(SOURCE, examples=2, adapt_with=scripted(adapter)).learn(pupil(), target)
    assert counts(learned) == {RULE.format(kind="parcel", word="gross"): 2}
    assert await score(learned) == 0.5  # parcels yes, invoices no
    assert len(learned.knowledge.held) == 1
    note = learned.knowledge.history[0].note
    assert note == f"adapted from {SOURCE.insights[0].id}: {SOURCE.insights[0].text}"
    assert target.facts == {"transfer_offered": 2, "transfer_adapted": 1, "transfer_held": 1, "transfer_skipped": 0}
    assert target.cost.calls == 1
    without = await Transfer(SOURCE, examples=0, adapt_with=scripted(lambda *_: "no idea")).learn(pupil(), practice())
    assert without.knowledge.insights == ()


async def test_expel_can_begin_with_another_domain_s_insights(tmp_path):
    path = tmp_path / "agent.json"
    path.write_text(json.dumps({"arm": "expel", "knowledge": SOURCE.model_dump(mode="json")}))

    def both(messages, tools, sampling):
        return (adapter if "carry rules" in messages[0].text else extractor)(messages, tools, sampling)

    learned = await expel(both, transfer_from=str(path), examples=1).learn(pupil(), practice())
    assert set(counts(learned)) == RULES
    assert await score(learned) == 1.0
    same = expel(both, transfer_from=SOURCE, examples=1)
    assert same.described() == expel(both, transfer_from=path, examples=1).described()


async def test_a_transfer_that_fails_changes_nothing():
    training, base = practice(), pupil()
    assert await Transfer(SOURCE, adapt_with=scripted(ModelFailed("timeout"))).learn(base, training) is base
    assert "timeout" in training.facts["transfer_failed"]


def test_adapted_lines():
    found = read_adapted("1. **One**\n- Rule 2: Two\n3: Three\n0: none\n2) again\nnot 1: this\n4:x", SOURCE.insights)
    assert [text for _, text in found] == ["One", "Two"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[1]", "not a learned agent"),
        ('{"knowledge": {"insights": 3}}', "not a learned agent"),
        ('{"knowledge": {}}', "no insights"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_wrong_source_names_the_file(content, says, tmp_path):
    path = tmp_path / "agent.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=says) as wrong:
        ExpeL(transfer_from=path)
    assert str(path) in str(wrong.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"retries": -1}, "retries"),
        ({"retries": "3x"}, "retries"),
        ({"chunk": 0}, "chunk"),
        ({"cap": 0}, "cap"),
        ({"k": -1}, "at least 0"),
        ({"choose": "fixed"}, "text, meaning or fused"),
        ({"choose": "nearest"}, "choose"),
        ({"k": 0, "insights": False}, "nothing would be learned"),
        ({"retrys": 3}, "did you mean"),
        ({"max_chars": 1_000}, "for each of the 8"),
        ({"transfer_from": Knowledge()}, "no insights"),
        ({"transfer_from": 3}, "JSON file"),
        ({"transfer_from": SOURCE, "examples": -1}, "examples"),
    ],
)
def test_wrong_options(options, says):
    with pytest.raises(InputError, match=f"(?i){says}"):
        ExpeL(**options)


def test_the_settings_and_the_forecast():
    learner = ExpeL(retries=2, k=3, token_budget=400, extract_with="scripted:echo", transfer_from=SOURCE)
    described = learner.described()["expel"]
    assert (described["retries"], described["retrieval"]["k"], described["retrieval"]["token_budget"]) == (2, 3, 400)
    assert described["extract_with"] == "scripted:echo"
    assert json.loads(json.dumps(described)) == described
    assert ExpeL(retries=0, insights=False).forecast_calls(10) == 10
    assert ExpeL(retries=1).forecast_calls(10) == 10 * 2 + 10 + 10 + 3  # tries, reflections, pairs, chunks of four
