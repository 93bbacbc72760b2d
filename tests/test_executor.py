"""Sessions of actions, each worked out by hand with a model that says what a script says."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import pytest

import tutelage as tt
from tutelage import history
from tutelage.advice import Question, ReferenceAdvisor
from tutelage.agent import Executor, Scene
from tutelage.collector import Collector
from tutelage.errors import InputError, ModelFailed, ModelUnavailable, StoreError
from tutelage.executor import ACTIONS, Action, AgileExecutor, Session, action, confidence_of, reward_of, writes_of
from tutelage.experience.conversations import segment_turns
from tutelage.experience.store import to_json
from tutelage.grader import as_grader
from tutelage.knowledge import Exemplar, Insight, Knowledge, Retrieval
from tutelage.learners.rollouts import read_experience
from tutelage.practice import Practice
from tutelage.records import (
    Advice,
    Completion,
    Episode,
    Experience,
    Grade,
    Message,
    StopReason,
    TokenTrace,
    ToolCall,
    ToolFailure,
    content_id,
)

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
QUESTION = "Can the lamp Norvik hang in the bathroom?"
ALL = tuple(ACTIONS)
NO_LIMITS = tt.Limits()


def task(text: str = QUESTION, reference: str | None = "yes", **fields) -> tt.Task:
    return tt.Task(messages=(Message(role="user", content=text),), reference=reference, **fields)


def entry(text: str, learned: str, of: tt.Task | None = None) -> Exemplar:
    of = of or task(text)
    return Exemplar(
        task_id=of.id, input_id=of.input_id, text=text, messages=(*of.messages, Message(role="assistant", content=learned)), kind=of.kind
    )


def agent(script, *, native_tools: bool = False, knowledge: Knowledge = Knowledge(), limits=NO_LIMITS, **settings) -> tt.Agent:
    model = script if isinstance(script, tt.Scripted) else tt.Scripted(script, native_tools=native_tools)
    fields = {name: settings.pop(name) for name in ("tools", "instructions", "sampling", "stop_on_tool", "model") if name in settings}
    return tt.Agent(model=model, knowledge=knowledge, limits=limits, executor=AgileExecutor(**{"actions": ALL, **settings}), **fields)


async def run(script, *, of: tt.Task | None = None, advisor=None, environment=None, memory=None, **settings) -> Episode:
    return await tt.run_episode(agent(script, **settings), of or task(), advisor=advisor, environment=environment, memory=memory)


def shown(episode: Episode) -> list[str]:
    """What the model was shown after each of its turns."""
    return [observation.text for step in episode.steps for observation in step.observations]


def expert(error_rate: float = 0.0, **options) -> ReferenceAdvisor:
    return ReferenceAdvisor([task()], error_rate=error_rate, price=0.05, **options)


class Counting:
    """An expert who counts, and may fail."""

    name, price = "counting", 0.0

    def __init__(self, answer: str | None = "yes", raises: Exception | None = None, delay: float = 0.0) -> None:
        self.answer, self.raises, self.delay = answer, raises, delay
        self.questions: list[Question] = []

    async def ask(self, question: Question) -> Advice | None:
        self.questions.append(question)
        await asyncio.sleep(self.delay)
        if self.raises:
            raise self.raises
        return None if self.answer is None else Advice(question_id=question.id, answer=self.answer, by=self.name, when=WHEN, price_usd=0.2)


class Shop:
    """A shop with one tool, which may close the shop or fail."""

    done = False

    def reset(self, task: tt.Task) -> str:
        return "You serve a shop."

    def sql(self, query: str) -> str:
        """Ask the database.

        Args:
            query: A SELECT statement.
        """
        if "DROP" in query:
            raise ValueError("no such table: lamps")
        self.done = "CLOSE" in query
        return f"rows of {query}"

    def grade(self, episode: Episode) -> float:
        return float(episode.answer == "yes")


# -- a whole session


async def test_a_session_from_the_question_to_the_answer():
    script = tt.Scripted(
        ["seek_advice", "reflect Lamps need IP44 in bathrooms.", "update_memory", "predict_answer yes", "submit_answer"], native_tools=False
    )
    one = agent(script, instructions="You serve a shop.")
    episode = await tt.run_episode(one, task(), advisor=expert(), seed=3, attempt=2)
    assert (episode.stop, episode.answer, episode.seed, episode.attempt) == (StopReason.ANSWERED, "yes", 3, 2)
    assert shown(episode) == [
        "seek_advice: yes",
        "reflect: update_memory keeps it.",
        "update_memory: Kept.",
        "predict_answer: Your answer so far is yes; submit_answer ends the session with it.",
        "submit_answer: The session has ended.",
    ]
    (advice,) = episode.advice
    assert (advice.answer, advice.by, advice.price) == ("yes", "reference", 0.3), "at the executor's price, not the expert's"
    assert [call.name for call, _ in episode.calls] == ["seek_advice", "reflect", "update_memory", "predict_answer", "submit_answer"]
    assert all(observation is not None for _, observation in episode.calls)
    (segment,) = episode.segments
    system, user = segment.context
    assert system.text.startswith("You serve a shop.\n\nYou work in actions.")
    assert "- seek_advice [QUESTION]: Ask an expert. It costs 0.3, where a right answer earns 1.\n" in system.text
    assert "- predict_answer ANSWER: State your answer.\n" in system.text
    assert user.text == f"{QUESTION}\n\nretrieve_memory: Nothing in memory is about this."
    assert confidence_of(episode) is None


async def test_what_the_model_saw_is_what_a_row_of_training_says():
    script = tt.Scripted(["hm", "seek_advice", "sql SELECT 1", "predict_answer yes", "submit_answer"], native_tools=False)
    one = agent(script)
    episode = await tt.run_episode(one, task(), advisor=expert(), environment=Shop)
    (segment,) = episode.segments
    turns = segment_turns(segment)
    assert script.requests[-1].messages == (*segment.context, *turns.messages[:-1])
    assert [message.role for message in turns.messages] == ["assistant", "user"] * 4 + ["assistant"]
    assert turns.failed == (0,), "what was no action bears no loss in imitation"


async def test_writes_are_read_from_the_stored_episode_alone():
    episode = await run(["seek_advice", "reflect Lamps need IP44.", "update_memory", "submit_answer yes"], advisor=expert())
    stored = Episode.model_validate_json(to_json(episode))
    assert stored == episode
    (written,) = writes_of(stored, task(kind="bathroom"))
    assert written == Exemplar(
        task_id=task(kind="bathroom").id,
        input_id=task().input_id,
        text=QUESTION,
        messages=(Message(role="user", content=QUESTION), Message(role="assistant", content="Lamps need IP44.")),
        kind="bathroom",
        origin="noted",
    )
    grown = history.add(Knowledge(), [written], by="session", episodes=[episode.ref])
    assert grown.exemplars == (written,)


async def test_reward_is_the_score_less_the_price():
    episode = await run(["seek_advice", "submit_answer yes"], advisor=expert(), price=0.4)
    experience = Experience(episode=episode, grade=Grade(score=1.0), when=WHEN)
    assert reward_of(experience) == pytest.approx(0.6)
    assert reward_of(experience, 0.1) == pytest.approx(0.9)
    assert reward_of(experience.model_copy(update={"grade": Grade(score=None)})) is None
    alone = experience.model_copy(update={"episode": await run(["submit_answer yes"])})
    assert reward_of(alone) == reward_of(alone, 0.4) == 1.0


# -- advice


async def test_advice_is_sought_once_and_charged_once():
    asked = Counting()
    episode = await run(["seek_advice", "seek_advice What is the rule?", "predict_answer yes", "submit_answer"], advisor=asked)
    assert shown(episode)[:2] == ["seek_advice: yes", "seek_advice: yes"]
    assert len(asked.questions) == len(episode.advice) == 1
    assert episode.advice[0].price_usd == 0.2


async def test_what_the_expert_is_asked():
    asked = Counting("B")
    chosen = task("Which drug?", "B", environment={"choices": {"A": "aspirin", "B": "ibuprofen"}})
    one = agent(["predict_answer A", "seek_advice Which is milder?", "submit_answer B"])
    episode = await tt.run_episode(one, chosen, advisor=asked, seed=1)
    (question,) = asked.questions
    assert question == Question(
        text="Which is milder?",
        context="Task: Which drug?\nDraft of the answer: A",
        choices=("A", "B"),
        agent_version=one.version,
        task_id=chosen.id,
        episode=f"{one.version}/{chosen.id}/1/0",
    )
    assert question.episode == episode.ref
    assert shown(episode)[1] == "seek_advice: B: ibuprofen"
    await run(["seek_advice", "submit_answer yes"], advisor=asked)
    assert (asked.questions[1].text, asked.questions[1].context) == (QUESTION, "")


@pytest.mark.parametrize("advisor", [None, Counting(None)], ids=["nobody there", "declined"])
async def test_where_no_advice_is_to_be_had_nothing_is_charged(advisor):
    episode = await run(["seek_advice", "seek_advice", "submit_answer no"], advisor=advisor)
    assert shown(episode)[:2] == ["seek_advice: No advice is to be had; go on without."] * 2
    assert episode.advice == ()
    assert episode.answer == "no"
    assert advisor is None or len(advisor.questions) == 1


async def test_advice_only_in_the_first_sessions_of_a_stream():
    def placed(place: int) -> AgileExecutor:
        return AgileExecutor(actions=ALL, advice_first=2, place=place)

    for place, n in [(0, 1), (1, 1), (2, 0)]:
        script = tt.Scripted(["seek_advice", "submit_answer yes"], native_tools=False)
        one = tt.Agent(model=script, executor=placed(place))
        episode = await tt.run_episode(one, task(), advisor=expert())
        assert len(episode.advice) == n
        assert ("- seek_advice" in episode.segments[0].context[0].text) is bool(n), "what cannot be had is not offered"
    assert placed(0).described() == placed(1).described() != placed(2).described() == placed(9).described()
    assert placed(0).described() != AgileExecutor(actions=ALL).described()
    assert AgileExecutor(place=7).described() == AgileExecutor().described(), "the place alone decides nothing"


async def test_an_opening_that_asks_is_the_agent_that_always_asks():
    episode = await run(["submit_answer yes"], advisor=expert(), opening=("retrieve_memory", "seek_advice"))
    assert episode.segments[0].context[-1].text.endswith("\n\nseek_advice: yes")
    assert len(episode.advice) == 1
    assert len(list(episode.steps)) == 1


@pytest.mark.parametrize("opening", [("retrieve_memory",), ("seek_advice",)])
async def test_an_experts_model_that_fails_leaves_the_session_ungraded(opening):
    one = ["seek_advice", "submit_answer yes"]
    episode = await run(one, advisor=Counting(raises=ModelFailed("the expert is busy")), opening=opening)
    assert (episode.stop, episode.error) == (StopReason.MODEL_ERROR, "the expert is busy")
    assert episode.segments[0].context
    for error in (ModelUnavailable("down"), StoreError("disk full"), InputError("no such expert"), KeyError("a bug of the advisor's")):
        with pytest.raises(type(error)):
            await run(one, advisor=Counting(raises=error), opening=opening)


# -- memory


async def test_memory_never_shows_the_current_questions_own_entry():
    own, other = entry(QUESTION, "OWN"), entry("Can the lamp Halo hang in the bathroom?", "IP44 is enough.")
    same_question = entry(QUESTION, "OWN TOO", of=task(reference="no"))
    known = Knowledge(exemplars=(own, same_question, other))
    script = ["retrieve_memory", f"retrieve_memory {QUESTION}", "retrieve_memory Halo", "retrieve_memory zebra", "submit_answer yes"]
    episode = await run(script, knowledge=known)
    first = episode.segments[0].context[-1].text
    seen = [first.partition("\n\nretrieve_memory: ")[2], *(text.removeprefix("retrieve_memory: ") for text in shown(episode)[:3])]
    assert seen[0] == seen[1] == seen[2] == seen[3]
    assert seen[0].startswith('<untrusted from="memory">\n')
    assert "Question: Can the lamp Halo hang in the bathroom?\nKnown: IP44 is enough." in seen[0]
    assert not any("OWN" in text for text in [first, *shown(episode)])
    assert shown(episode)[3] == "retrieve_memory: Nothing in memory is about this."
    assert episode.shown == (other.id,)


async def test_the_k_most_similar_entries_are_found_by_the_executors_own_retrieval():
    known = Knowledge(
        exemplars=tuple(entry(f"Can the lamp {name} hang in the bathroom?", name) for name in "ABCD"), retrieval=Retrieval(k=0)
    )
    episode = await run(["submit_answer yes"], knowledge=known, retrieval=Retrieval(choose="text", k=2))
    assert len(episode.shown) == 2
    episode = await run(["submit_answer yes"], knowledge=known, opening=())
    assert episode.shown == (), "without the action nothing of the memory is shown"
    growing = tt.Memory(Knowledge(exemplars=(entry("Can the lamp Z hang?", "z"),)))
    episode = await run(["submit_answer yes"], knowledge=known, memory=growing)
    assert "Known: z" in episode.segments[0].context[-1].text, "a memory that grows takes the place of the agent's own"


async def test_insights_stay_in_every_context():
    rule = Insight(text="Mind the IP rating.")
    episode = await run(["clear_context", "submit_answer yes"], knowledge=Knowledge(insights=(rule,)))
    assert episode.shown == (rule.id,)
    assert all("Mind the IP rating." in segment.context[0].text for segment in episode.segments)


@pytest.mark.parametrize(
    ("script", "written"),
    [
        (["reflect A", "update_memory B"], ["B"]),
        (["reflect A", "update_memory"], ["A"]),
        (["reflect A", "reflect B", "update_memory", "update_memory C"], ["B", "C"]),
        (["update_memory A", "update_memory A"], ["A"]),
        (["reflect No information.", "update_memory"], []),
        (["reflect A", "update_memory no information"], []),
        (["reflect A"], []),
        (["update_memory"], []),
        (["reflect", "update_memory"], []),
        (["reflect A", "reflect no information", "update_memory"], []),
    ],
)
async def test_what_is_written(script, written):
    episode = await run([*script, "submit_answer yes"])
    assert [item.messages[-1].text for item in writes_of(episode, task())] == written
    kept = shown(episode).count("update_memory: Kept.")
    assert kept >= len(written)
    assert (kept == 0) is (not written)


async def test_advice_may_be_kept_for_a_model_that_writes_nothing():
    plain, keeping = AgileExecutor(actions=ALL), AgileExecutor(actions=ALL, keep_advice=True)
    advised = await run(["seek_advice", "submit_answer yes"], advisor=expert())
    assert plain.writes_of(advised, task()) == ()
    (kept,) = keeping.writes_of(advised, task())
    assert kept.messages[-1].text == "yes"
    wrote = await run(["seek_advice", "update_memory IP44.", "submit_answer yes"], advisor=expert())
    assert keeping.writes_of(wrote, task()) == plain.writes_of(wrote, task()) == writes_of(wrote, task())
    assert keeping.writes_of(await run(["submit_answer yes"]), task()) == ()
    assert plain.described() != keeping.described()


# -- answers


async def test_either_answering_action_may_stand_alone():
    episode = await run(["predict_answer yes"], actions=("predict_answer",))
    assert (episode.stop, episode.answer) == (StopReason.ANSWERED, "yes")
    episode = await run(["submit_answer", "submit_answer yes"], actions=("submit_answer",))
    assert episode.answer == "yes"
    assert shown(episode)[0] == "submit_answer: there is no answer yet; write it behind submit_answer"
    episode = await run(["predict_answer a", "predict_answer b", "submit_answer"])
    assert episode.answer == "b"
    episode = await run(["predict_answer a", "submit_answer c"])
    assert episode.answer == "c"
    episode = await run(["predict_answer ", "submit_answer c"])
    assert "predict_answer: `predict_answer` was not run" in shown(episode)[0]


async def test_the_question_may_be_asked_for_again():
    episode = await run(["get_question", "submit_answer yes"], environment=Shop)
    assert shown(episode)[0] == f"get_question: {QUESTION}\n\nYou serve a shop."
    assert episode.environment_grade.score == 1.0


async def test_text_that_is_no_action_is_answered_with_the_actions():
    episode = await run(["I think it may.", "submit_answer yes"], actions=("seek_advice", "submit_answer"))
    first = next(episode.steps)
    assert first.observations[0].text == "That is no action. Write one of these on a line of its own: seek_advice, submit_answer"
    assert (first.calls, first.observations[0].failure, first.observations[0].call_id) == ((), ToolFailure.UNKNOWN_TOOL, None)
    assert episode.answer == "yes"


async def test_text_that_is_no_action_may_be_the_answer():
    episode = await run(["seek_advice", "Yes, it may."], unparsed="answer", advisor=expert())
    assert (episode.stop, episode.answer) == (StopReason.ANSWERED, "Yes, it may.")
    cut = Completion(message=Message(role="assistant", content="Yes, it"), finish="length")
    assert (await run([cut], unparsed="answer")).stop is StopReason.TRUNCATED
    episode = await run([tt.models.scripted.empty()], unparsed="answer")
    assert (episode.stop, episode.answer) == (StopReason.EMPTY, None)
    assert (await run([tt.models.scripted.empty()])).stop is StopReason.EMPTY


async def test_a_reply_that_was_cut_off_is_no_action_unless_its_line_is_whole():
    def cut(text: str) -> Completion:
        return Completion(message=Message(role="assistant", content=text), finish="length")

    episode = await run([cut("predict_answer because the"), cut("predict_answer yes\nand so"), "submit_answer"])
    assert shown(episode)[0].startswith("The reply was cut off before its action was complete.")
    assert episode.answer == "yes"


async def test_only_the_first_action_of_a_reply_counts():
    episode = await run(["seek_advice\nseek_advice: no\nsubmit_answer no", "submit_answer yes"], advisor=expert())
    assert episode.answer == "yes"
    calls = (ToolCall(id="a", name="seek_advice"), ToolCall(id="b", name="submit_answer", arguments='{"answer": "no"}'))
    script = tt.Scripted([calls, ToolCall(id="c", name="submit_answer", arguments='{"answer": "yes"}')])
    episode = await tt.run_episode(agent(script, form="tools"), task(), advisor=expert())
    assert episode.answer == "yes"
    said = script.requests[1].messages[-2]
    assert [call.name for call in said.tool_calls] == ["seek_advice"], "each call that stands in the history has a result"


# -- tools


async def test_tools_are_actions_and_their_errors_observations():
    episode = await run(["sql SELECT 1", "sql DROP lamps", "sql(a, b)", "submit_answer yes"], environment=Shop)
    assert shown(episode)[:3] == ["sql: rows of SELECT 1", "sql: ValueError: no such table: lamps", "sql: rows of a, b"]
    assert [step.observations[0].failure for step in episode.steps] == [None, ToolFailure.RAISED, None, None]
    assert "- sql QUERY: Ask the database.\n" in f"{episode.segments[0].context[0].text}\n"
    episode = await run(["sql CLOSE"], environment=Shop)
    assert episode.stop is StopReason.ENVIRONMENT


async def test_tools_of_the_agent_that_are_handed_over():
    def book(room: int) -> str:
        """Book a room."""
        return "booked"

    episode = await run(["seek_advice", "book 3"], advisor=expert(), tools=(book,), stop_on_tool=True)
    assert episode.stop is StopReason.TOOL_CALL, "advice is no tool that could be handed over"
    declared = tt.records.ToolSpec(name="pay", parameters={"type": "object", "properties": {"sum": {"type": "number"}}})
    episode = await run(["pay 2.5"], of=task(tools=(declared,)))
    assert episode.stop is StopReason.TOOL_CALL
    ((call, observation),) = episode.calls
    assert (call.arguments, observation) == ('{"sum": 2.5}', None)
    with pytest.raises(InputError, match="two tools are called seek_advice"):
        await run(["x"], tools=(tt.tool(book, name="seek_advice"),))


@pytest.mark.parametrize("native", [True, False])
async def test_actions_as_tool_calls(native):
    def call(name: str, number: int, **arguments):
        made = ToolCall(id=f"c{number}", name=name, arguments=json.dumps(arguments))
        return made if native else tt.tool_protocol.render_call(made)

    script = tt.Scripted(
        [call("SeekAdvice", 1), call("sql", 2, query="SELECT 1"), call("fly", 3), "hm", call("submit_answer", 4, answer="yes")],
        native_tools=native,
    )
    one = agent(script, form="tools")
    episode = await tt.run_episode(one, task(), advisor=expert(), environment=Shop)
    assert episode.answer == "yes"
    assert shown(episode)[:2] == ["yes", "rows of SELECT 1"]
    assert ("There is no tool `fly`" if native else "That is no action") in shown(episode)[2]
    first = script.requests[0]
    assert [spec.name for spec in first.tools] == ([*ALL, "sql"] if native else [])
    described = first.messages[0].text if not native else first.tools[2].description
    assert "Ask an expert. It costs 0.3" in described
    (segment,) = episode.segments
    assert script.requests[-1].messages == (*segment.context, *segment_turns(segment).messages[:-1])
    assert script.requests[1].messages[-1].role == ("tool" if native else "user")


# -- contexts


async def test_a_cleared_context_keeps_what_was_noted():
    script = tt.Scripted(
        ["seek_advice", "reflect IP44.", "clear_context", "predict_answer yes", "clear_context", "submit_answer"], native_tools=False
    )
    episode = await tt.run_episode(agent(script), task(), advisor=expert(), environment=Shop)
    first, second, third = episode.segments
    assert [len(segment.steps) for segment in episode.segments] == [3, 2, 1]
    assert first.context[0] == second.context[0] == third.context[0]
    assert first.context[1].text == f"{QUESTION}\n\nYou serve a shop.\n\nretrieve_memory: Nothing in memory is about this."
    assert second.context[1].text == f"{QUESTION}\n\nYou serve a shop.\n\nseek_advice: yes\n\nreflect: IP44."
    assert third.context[1].text.endswith("\n\nreflect: IP44.\n\npredict_answer: yes")
    assert script.requests[3].messages == second.context
    assert script.requests[5].messages == third.context
    assert episode.answer == "yes"
    assert len({call.id for call, _ in episode.calls}) == 6


class Speller:
    """A model whose tokens are characters, and that says which it read and wrote."""

    name, native_tools, price = "speller", False, None

    def __init__(self, script: list[str]) -> None:
        self.script = list(script)

    async def complete(self, messages, *, tools=(), sampling=None) -> Completion:
        prompt = "".join(f"<{message.role[0]}>{message.text}$" for message in messages) + "<a>"
        reply = f"{self.script.pop(0)}$"
        trace = TokenTrace(prompt_ids=tuple(map(ord, prompt)), completion_ids=tuple(map(ord, reply)), logprobs=(-0.5,) * len(reply))
        return Completion(message=Message(role="assistant", content=reply[:-1]), tokens=trace)


def marked(sample) -> str:
    """The sample as text, what bears loss in braces."""
    text = "".join(f"{{{chr(id_)}}}" if said else chr(id_) for id_, said in zip(sample.ids, sample.action, strict=True))
    return text.replace("}{", "")


async def test_loss_falls_on_action_tokens_only_in_a_sample_for_each_context():
    one = tt.Agent(
        model=Speller(["seek_advice", "what?", "clear_context", "predict_answer yes"]),
        executor=AgileExecutor(actions=("seek_advice", "clear_context", "predict_answer")),
    )
    episode = await tt.run_episode(one, task("Q?"), advisor=ReferenceAdvisor([task("Q?")]))
    samples = read_experience(Experience(episode=episode, grade=Grade(score=1.0), when=WHEN))
    system = episode.segments[0].context[0].text
    assert [marked(sample) for sample in samples] == [
        f"<s>{system}$<u>Q?\n\nretrieve_memory: Nothing in memory is about this.$<a>"
        "{seek_advice$}<u>seek_advice: yes$<a>"
        "{what?$}<u>That is no action. Write one of these on a line of its own: seek_advice, clear_context, predict_answer$<a>"
        "{clear_context$}",
        f"<s>{system}$<u>Q?\n\nseek_advice: yes$<a>{{predict_answer yes$}}",
    ]


# -- limits


async def test_limits_hold_and_the_draft_stands():
    episode = await run(["predict_answer yes", "seek_advice", "clear_context"], limits=tt.Limits(steps=3))
    assert (episode.stop, episode.answer, len(list(episode.steps))) == (StopReason.STEPS, "yes", 3)
    assert len(episode.segments) == 1, "a context that nothing was said in is no segment"
    assert (await run(["seek_advice"] * 9)).stop is StopReason.STEPS
    episode = await run(["seek_advice"] * 9, limits=tt.Limits(steps=9, tokens=400))
    assert episode.stop is StopReason.TOKENS
    assert episode.answer is None
    assert len(list(episode.steps)) < 9


@pytest.mark.parametrize("opening", [(), ("seek_advice",)])
async def test_the_time_limit_holds_while_an_expert_thinks(opening):
    episode = await run(["seek_advice"], advisor=Counting(delay=30), limits=tt.Limits(seconds=0.05), opening=opening)
    assert (episode.stop, episode.advice) == (StopReason.SECONDS, ())
    assert episode.segments[0].context[-1].text == QUESTION


async def test_a_model_that_fails_ends_the_session_ungraded():
    episode = await run(["seek_advice", ModelFailed("no answer")], advisor=expert())
    assert (episode.stop, episode.error) == (StopReason.MODEL_ERROR, "no answer")
    assert len(episode.advice) == len(list(episode.steps)) == 1
    with pytest.raises(ModelUnavailable):
        await run([ModelUnavailable("down")])
    with pytest.raises(InputError, match="the price of scripted is unknown"):
        await tt.run_episode(agent(tt.Scripted("x", price=None), limits=tt.Limits(cost_usd=1.0)), task())


# -- actions of one's own


@action
def remember(session: Session, words: str, times: int = 1) -> str:
    """Keep words for this session.

    Args:
        words: What to keep.
        times: How often.
    """
    session.reflection = " ".join([words] * times)
    return f"kept {times}"


@action(name="give_up", max_chars=10)
async def surrender(session: Session) -> str:
    """End the session without an answer."""
    session.finish("none")
    return "a very long farewell"


def shout(session: Session, word: str) -> None:
    """Shout."""
    if word == "bug":
        raise ZeroDivisionError("oops")
    if word == "setting":
        raise InputError("no such voice", field="voice")
    session.draft = word.upper()


async def test_an_action_is_one_small_typed_function():
    assert isinstance(remember, Action)
    assert remember.spec.parameters["required"] == ["words"]
    assert list(remember.spec.parameters["properties"]) == ["words", "times"], "the session is not the model's to give"
    assert remember.spec.description == "Keep words for this session."
    episode = await run(
        ["remember(words=ah, times=2)", "remember(words=ah, times=x)", "clear_context", "give up"], actions=(*ALL, remember, surrender)
    )
    assert shown(episode)[0] == "remember: kept 2"
    assert "`times`: expected integer" in shown(episode)[1]
    assert "reflect: ah ah" in episode.segments[1].context[-1].text
    assert (episode.answer, episode.stop) == ("none", StopReason.ANSWERED)
    assert next(reversed(list(episode.steps))).observations[0].truncated
    assert remember(Session(task(), agent("x"), Knowledge(), Retrieval()), "hm", 3) == "kept 3"


async def test_a_plain_function_becomes_an_action_and_its_bugs_observations():
    episode = await run(["shout bug", "shout yes", "submit_answer"], actions=(*ALL, shout))
    assert shown(episode)[:2] == ["shout: ZeroDivisionError: oops", "shout: ok"]
    assert episode.answer == "YES"
    with pytest.raises(InputError, match="no such voice"):
        await run(["shout setting"], actions=(*ALL, shout))


def no_session(word: str) -> str:
    """Nothing."""
    return word


def untyped(session: Session, word) -> str:
    """Nothing."""
    return word


@pytest.mark.parametrize(("function", "words"), [(no_session, "first parameter is `session"), (untyped, "argument `word`: it has no type")])
def test_a_function_that_is_no_action(function, words):
    with pytest.raises(InputError, match=words) as refused:
        action(function)
    assert refused.value.file.endswith("test_executor.py")


# -- settings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"actions": ("seek_advise", "submit_answer")},
            "field `executor.actions`: `seek_advise` is not an action. Did you mean `seek_advice`?",
        ),
        ({"opening": ("retrieve",)}, "field `executor.opening`"),
        ({"actions": ("submit_answer", "submit_answer")}, "submit_answer stands here twice"),
        ({"actions": ("seek_advice",)}, "no action gives an answer"),
        ({"opening": ("submit_answer",)}, "`submit_answer` cannot be run before the model's first turn"),
        ({"opening": (remember,)}, "`remember` cannot be run"),
    ],
)
def test_settings_that_are_refused(settings, words):
    with pytest.raises(InputError) as refused:
        AgileExecutor(**settings)
    assert words in str(refused.value)


@pytest.mark.parametrize("settings", [{"price": -0.1}, {"form": "json"}, {"unparsed": "raise"}, {"advice_first": -1}, {"prize": 1}])
def test_values_that_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        AgileExecutor(**settings)


def test_settings_that_are_allowed():
    assert AgileExecutor(actions=("seek_advice",), unparsed="answer").enabled == {"seek_advice"}
    assert AgileExecutor(actions=(surrender,)).enabled == {"give_up"}
    assert AgileExecutor(actions=(), unparsed="answer", opening=()).specs() == ()
    assert isinstance(AgileExecutor(), Executor)
    assert AgileExecutor().name == "agile"


# -- versions


def add(a: int, b: int) -> int:
    """Add.

    Args:
        a: One.
        b: Other.
    """
    return a + b


def test_agents_without_an_executor_keep_the_version_that_they_always_had():
    """Worked out before executors existed."""
    model = tt.Scripted("x", name="scripted:pinned")
    assert tt.Agent(model=model).version == "b9f4c773692eb96c"
    fields = {"limits": tt.Limits(steps=3), "sampling": tt.Sampling(temperature=0.5), "stop_on_tool": True}
    assert tt.Agent(model=model, instructions="Be brief.", tools=(add,), **fields).version == "2e9893f193b1c7b2"
    assert "executor" not in tt.Agent(model=model).described()
    episode = Episode(task_id="t", agent_version="v", segments=(), answer="a", stop=StopReason.ANSWERED)
    assert content_id(episode.canonical()) == "d75d4ed6648aded9"
    assert to_json(episode) == '{"task_id":"t","agent_version":"v","segments":[],"answer":"a","stop":"answered"}'


def test_what_decides_behaviour_is_in_the_version():
    base = agent("x")
    versions = {
        base.version,
        tt.Agent(model=base.model).version,
        *(
            agent(base.model, **change).version
            for change in (
                {"actions": ALL[1:]},
                {"opening": ()},
                {"price": 0.2},
                {"form": "tools"},
                {"unparsed": "answer"},
                {"retrieval": Retrieval(choose="text", k=1)},
                {"ask_when": {"signal": "similarity"}},
                {"keep_advice": True},
                {"actions": (*ALL, remember)},
            )
        ),
    }
    assert len(versions) == 11
    assert agent(base.model).version == base.version
    assert json.loads(json.dumps(base.described())) == base.described()


def test_an_agent_has_a_workflow_or_an_executor():
    both = tt.chain(tt.Agent(model=tt.Scripted("x")))
    with pytest.raises(InputError, match="a workflow or an executor, not both"):
        both.but(executor=AgileExecutor())


# -- within the rest


async def test_a_part_of_a_workflow_may_have_an_executor():
    first = agent(["seek_advice", "submit_answer yes"])
    second = tt.Agent(model=tt.Scripted(lambda messages, tools, sampling: messages[-1].text.rpartition("\n")[2]))
    episode = await tt.run_episode(tt.chain(first, second), task(), advisor=expert())
    assert episode.answer == "yes"
    assert [len(segment.steps) for segment in episode.segments] == [2, 1]


async def test_the_advisor_of_a_collector_reaches_the_sessions_and_stays_where_graders_change():
    def right(asked: tt.Task, episode: Episode) -> float:
        return float(episode.answer == asked.reference)

    one = agent(lambda messages, tools, sampling: "seek_advice" if len(messages) < 4 else "submit_answer yes")
    collector = Collector(as_grader(right), advisor=expert())
    practice = Practice([task()], collector)
    assert practice.advisor is collector.advisor is collector.apart(as_grader(right), None).advisor
    assert practice.apart(as_grader(right)).advisor is collector.advisor
    (experience,) = await practice.collect(one)
    assert reward_of(experience) == pytest.approx(0.7)
    again = await practice.collect(one)
    assert again == [experience], "a session that the store holds is not run again"
    silent = Practice([task()], Collector(as_grader(right)))
    assert silent.fingerprint(one, {}) != practice.fingerprint(one, {})


async def test_sampling_differs_by_turn_over_segments():
    script = tt.Scripted(["clear_context", "clear_context", "submit_answer yes"], native_tools=False)
    await tt.run_episode(agent(script, sampling=tt.Sampling(temperature=1.0)), task(), seed=5)
    assert len({request.sampling.seed for request in script.requests}) == 3


async def test_a_scene_can_be_made_by_hand():
    one = agent(["submit_answer yes"])
    scene = Scene(task=task(), world=None, opening="Welcome.", models=lambda own: own.load(), seed=4)
    episode = await one.executor.run(one, task(), scene)
    assert (episode.seed, episode.answer) == (4, "yes")
    assert "Welcome." in episode.segments[0].context[-1].text
