"""Experience as rows: the conversation as the model saw it, only the good parts learned, and prompts with and without knowledge."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

import tutelage as tt
from tutelage.commands.data import make_rows
from tutelage.errors import InputError
from tutelage.experience.conversations import bare_context, segment_turns
from tutelage.experience.expert_steps import episode_steps, reference_steps
from tutelage.experience.views import Preference, groups, preference_rows, preferred_rows, reference_rows, sft_rows
from tutelage.knowledge import Knowledge, Reflection, Retrieval
from tutelage.records import Completion, Experience, Grade, Message, Observation, Segment, Step, StopReason, ToolFailure, ToolSpec
from tutelage.tool_protocol import describe_tools
from tutelage.training.row_files import read_preference_rows, read_sft_rows

WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def user(text):
    return Message(role="user", content=text)


def assistant(text="", *calls):
    return Message(role="assistant", content=text, tool_calls=calls)


TASK = tt.Task(messages=(user("Where is order 7?"),), reference="on its way")
OTHER = tt.Task(messages=(Message(role="system", content="Be kind."), user("What is 2 + 2?")), reference="1. add\n2. carry\n3. 4")


def find(number: int) -> str:
    """Find an order."""
    if number < 0:
        raise tt.ToolError("no such order")
    return f"order {number} is on its way"


FIND = tt.tool(find).spec
RIGHT = '<tool_call>{"name": "find", "arguments": {"number": 7}}</tool_call>'
WRONG = '<tool_call>{"name": "find", "arguments": {"number": -1}}</tool_call>'


def run(replies, task=TASK, native=False, attempt=0, score=1.0, finish="stop", **fields):
    """An experience with a scripted agent."""
    given = iter(replies)
    model = tt.Scripted(lambda messages, tools, sampling: next(given), native_tools=native)
    agent = tt.Agent(model=model, **fields)
    episode = asyncio.run(tt.run_episode(agent, task, attempt=attempt))
    if finish != "stop":
        episode = _finished(episode, finish)
    return Experience(episode=episode, grade=Grade(score=score), when=WHEN), agent


def _finished(episode, finish):
    steps = [step.model_copy(update={"completion": step.completion.model_copy(update={"finish": finish})}) for step in episode.steps]
    segment = episode.segments[0].model_copy(update={"steps": tuple(steps)})
    return episode.model_copy(update={"segments": (segment,)})


def said(*texts, score=1.0, task=TASK, context=None, attempt=0, finish="stop"):
    """An experience of one segment with these replies, no tools."""
    steps = tuple(Step(completion=Completion(message=assistant(text), finish=finish)) for text in texts)
    segment = Segment(context=(user(task.text),) if context is None else context, steps=steps)
    episode = tt.Episode(
        task_id=task.id, agent_version="v", segments=(segment,), answer=texts[-1], stop=StopReason.ANSWERED, attempt=attempt
    )
    return Experience(episode=episode, grade=Grade(score=score), when=WHEN)


def test_a_success_with_calls_in_the_text_as_the_model_saw_it():
    experience, agent = run([WRONG, RIGHT, "It is on its way."], tools=(find,), instructions="Help.")
    (row,) = sft_rows([experience], [TASK])
    assert row.prompt == (Message(role="system", content=f"Help.\n\n{describe_tools([FIND])}"), user("Where is order 7?"))
    assert [message.role for message in row.completion] == ["assistant", "user", "assistant", "user", "assistant"]
    assert row.completion[0].content == WRONG
    assert row.completion[3].content == "<tool_response>order 7 is on its way</tool_response>"
    assert row.without_loss == (0,), "what failed is answered, not learned"
    assert row.learned == (2, 4)
    assert row.tools == ()
    assert row.source == experience.episode.ref
    assert agent.model.requests[-1].messages == (*row.prompt, *row.completion[:-1])


def test_a_success_of_a_model_that_takes_tools_itself():
    call = tt.ToolCall(id="c9", name="find", arguments='{"number": 7}')
    experience, agent = run([assistant("Let me see.", call), "It is on its way."], native=True, tools=(find,))
    declared = ToolSpec(name="stop", parameters={"type": "object", "properties": {}})
    (row,) = sft_rows([experience], [TASK], tools=[FIND], native_tools=True)
    assert row.prompt == (user("Where is order 7?"),)
    seen = Message(role="tool", content="order 7 is on its way", tool_call_id="c9")
    assert row.completion == (assistant("Let me see.", call), seen, assistant("It is on its way."))
    assert row.tools == (FIND,)
    assert agent.model.requests[-1].messages == (*row.prompt, *row.completion[:-1])
    assert agent.model.requests[-1].tools == row.tools
    own = TASK.model_copy(update={"tools": (declared,)})
    again = experience.model_copy(update={"episode": experience.episode.model_copy(update={"task_id": own.id})})
    assert sft_rows([again], [own], tools=[FIND], native_tools=True)[0].tools == (FIND, declared)


def test_only_successes_each_thing_once_and_so_many_a_task():
    tries = [
        said("bad", score=0.2),
        said("none", score=None, attempt=1),
        said("a", attempt=2),
        said("a", attempt=3),
        said("b", attempt=4),
        said("better", attempt=5, score=1.5),
    ]
    assert [row.completion[0].text for row in sft_rows(tries, [TASK])] == ["better"]
    assert [row.completion[0].text for row in sft_rows(tries, [TASK], per_task=9)] == ["better", "a", "b"]
    assert [row.completion[0].text for row in sft_rows(tries, [TASK], per_task=9, threshold=0.1)] == ["better", "a", "b", "bad"]
    assert sft_rows([said("x", score=None)], [TASK], threshold=0.0) == []
    with pytest.raises(InputError, match="is not among the tasks"):
        sft_rows(tries, [OTHER])


def test_what_was_cut_off_is_not_learned_unless_asked():
    cut = said("half an ans", finish="length")
    assert sft_rows([cut], [TASK]) == []
    assert len(sft_rows([cut], [TASK], truncated=True)) == 1
    assert preference_rows([cut, said("no", score=0.0, attempt=1)]) == []
    assert len(preference_rows([cut, said("no", score=0.0, attempt=1)], truncated=True)) == 1


def test_every_segment_is_a_row_of_its_own():
    first, second = said("a").episode.segments[0], said("b", context=(user("cleared"),)).episode.segments[0]
    episode = said("a").episode.model_copy(update={"segments": (first, second, Segment(context=(user("nothing"),)))})
    rows = sft_rows([Experience(episode=episode, grade=Grade(score=1.0), when=WHEN)], [TASK])
    assert [(row.prompt[0].text, row.completion[0].text, row.source[-2:]) for row in rows] == [
        (TASK.text, "a", "#0"),
        ("cleared", "b", "#1"),
    ]


def _knowing():
    shown = tt.Exemplar(task_id="x", input_id="x", text="Where is order 1?", messages=(user("Where is order 1?"), assistant("gone")))
    reflections = tuple(
        Reflection(task_id=id_, input_id=id_, task_text=text, attempt=0, text="look first")
        for id_, text in ((TASK.input_id, TASK.text), (OTHER.input_id, OTHER.text))
    )
    return Knowledge(exemplars=(shown,), retrieval=Retrieval(k=1), insights=(tt.Insight(text="be\nquick"),), reflections=reflections)


@pytest.mark.parametrize("task", [TASK, OTHER])
@pytest.mark.parametrize("instructions", ["", "Help."])
def test_a_bare_row_asks_as_an_agent_that_knows_nothing(task, instructions):
    for native in (False, True):
        fields = {"tools": (find,), "instructions": instructions}
        knowing, agent = run(["yes"], task=task, native=native, knowledge=_knowing(), **fields)
        plain, _ = run(["yes"], task=task, native=native, **fields)
        (row,) = sft_rows([knowing], [task])
        assert row.prompt == knowing.episode.segments[0].context != plain.episode.segments[0].context
        (bare,) = sft_rows([knowing], [task], bare=agent)
        assert bare.prompt == plain.episode.segments[0].context
        assert (bare.completion, bare.source) == (row.completion, row.source)
        unknowing = agent.but(knowledge=Knowledge())
        with pytest.raises(InputError, match="insights that the agent does not"):
            sft_rows([knowing], [task], bare=unknowing)
        with pytest.raises(InputError, match="does not end with task"):
            bare_context(knowing.episode.segments[0], TASK if task is OTHER else OTHER, agent)


def test_a_bare_row_keeps_the_environments_opening_words():
    class World:
        def reset(self, task):
            return "The door is shut. Where is order 7?"

    model = tt.Scripted(lambda messages, tools, sampling: "ok")
    agent = tt.Agent(model=model, knowledge=_knowing())
    episode = asyncio.run(tt.run_episode(agent, TASK, environment=World))
    assert bare_context(episode.segments[0], TASK, agent) == (user(f"{TASK.text}\n\nThe door is shut. Where is order 7?"),)
    part = episode.segments[0].model_copy(update={"part": "writer"})
    with pytest.raises(InputError, match="parts"):
        bare_context(part, TASK, agent)


def test_references_asked_as_the_agent_is_asked():
    expected = {"calls": [{"name": "find", "arguments": {"number": 7}}]}
    task = TASK.model_copy(update={"reference": expected, "source": "tasks.jsonl:3"})
    silent = TASK.model_copy(update={"reference": None})
    for native in (False, True):
        agent = tt.Agent(model=tt.Scripted(lambda *_: "", native_tools=native), instructions="Help.", tools=(find,), knowledge=_knowing())
        episode = asyncio.run(tt.run_episode(agent.but(knowledge=Knowledge()), task))
        (row,) = reference_rows([task, silent], agent)
        assert row.prompt == episode.segments[0].context
        assert row.tools == ((FIND,) if native else ())
        assert row.source == "tasks.jsonl:3"
        if native:
            assert row.completion[0].tool_calls[0].parsed() == {"number": 7}
        else:
            assert row.completion == (assistant(RIGHT),)
        (informed,) = reference_rows([task], agent, bare=False)
        assert informed.prompt == asyncio.run(tt.run_episode(agent, task)).segments[0].context


def test_pairs_of_a_success_and_a_failure():
    tries = [
        said("best", score=1.0),
        said("poor", score=0.5, attempt=1),
        said("worst", score=0.0, attempt=2),
        said("x", score=None, attempt=3),
    ]
    tries += [said("alone", task=OTHER, score=0.0)]
    (row,) = preference_rows(tries)
    assert (row.prompt, row.chosen, row.rejected) == ((user(TASK.text),), (assistant("best"),), (assistant("worst"),))
    assert row.source == f"{tries[0].episode.ref} over {tries[2].episode.ref}"
    assert len(preference_rows(tries, per_task=9)) == 1, "each episode is part of one pair"
    pairs = [(row.chosen[0].text, row.rejected[0].text) for row in preference_rows(tries, pairs="all", per_task=9)]
    assert pairs == [("best", "worst"), ("best", "poor")]
    wide = [(row.chosen[0].text, row.rejected[0].text) for row in preference_rows(tries, pairs="all", per_task=9, margin=0.5)]
    assert wide == [("best", "worst"), ("best", "poor"), ("poor", "worst")]
    assert preference_rows(tries, margin=1.5) == []
    for options, words in (({"margin": 0.0}, "above 0"), ({"pairs": "some"}, "use best or all")):
        with pytest.raises(InputError, match=words):
            preference_rows(tries, **options)


def test_no_pair_of_the_same_words_or_of_different_prompts():
    assert preference_rows([said("a"), said("a", score=0.0, attempt=1)]) == []
    assert preference_rows([said("a"), said("b", score=0.0, attempt=1, context=(user("else"),))]) == []
    twice = [said("a"), said("a", attempt=1), said("b", score=0.0, attempt=2), said("b", score=0.0, attempt=3)]
    assert len(preference_rows(twice, per_task=9, pairs="all")) == 1


def test_preferences_of_a_judge_or_a_person():
    one, two = said("a", score=None), said("b", score=None, attempt=1)
    given = Preference(winner=two.episode.ref, loser=one.episode.ref, weight=0.7)
    (row,) = preferred_rows([one, two], [given])
    assert (row.chosen, row.rejected, row.weight) == ((assistant("b"),), (assistant("a"),), 0.7)
    with pytest.raises(InputError, match="names the episode nobody"):
        preferred_rows([one], [Preference(winner="nobody", loser=one.episode.ref)])
    with pytest.raises(InputError, match="one and the same prompt"):
        preferred_rows([one], [Preference(winner=one.episode.ref, loser=one.episode.ref)])


def test_groups_hold_what_is_graded():
    failed = said("c", attempt=3).model_copy(
        update={"episode": said("c", attempt=3).episode.model_copy(update={"stop": StopReason.MODEL_ERROR})}
    )
    tries = [said("a", score=0.0), said("b", score=None, attempt=1), said("o", task=OTHER, score=None), failed]
    assert groups(tries) == {TASK.id: [tries[0]]}


def test_steps_of_texts():
    solved = said("<think>hm</think>1. add\n2. carry\n3. it is 4", task=OTHER)
    rows = episode_steps([solved, said("1. no\n2. no", task=OTHER, score=0.0, attempt=1)])
    assert [(row.target, row.number, row.task_id) for row in rows] == [("1. add", 1, OTHER.id), ("2. carry", 2, OTHER.id)]
    assert rows[1].prompt == (user("What is 2 + 2?\n\nThe solution so far:\n1. add"),)
    assert len(episode_steps([solved], last=True)) == 3
    agent = tt.Agent(model=tt.Scripted(lambda *_: ""), instructions="Count.")
    steps = reference_steps([OTHER, TASK], agent)
    assert [(row.target, row.number) for row in steps] == [("1. add", 1), ("2. carry", 2)]
    assert steps[0].prompt == (Message(role="system", content="Count.\n\nBe kind."), user("What is 2 + 2?"))


def test_steps_of_an_agent_are_its_commands_seen_from_the_last_two():
    experience, _ = run([f"<think>n</think>{RIGHT.replace('7', str(n))}" for n in (1, 2)] + [WRONG, RIGHT, "Done."], tools=(find,))
    rows = episode_steps([experience])
    assert [row.target for row in rows] == [RIGHT.replace("7", str(n)) for n in (1, 2, 7)], "a failed command is no target"
    assert [row.number for row in rows] == [1, 2, 3]
    context = experience.episode.segments[0].context
    assert rows[0].prompt == context
    shown = rows[2].prompt[len(context) :]
    assert [message.role for message in shown] == ["assistant", "user", "assistant", "user"]
    assert [shown[0].text, shown[2].text] == [RIGHT.replace("7", "2"), WRONG], "without the reasoning"
    assert shown[1].text == "<tool_response>order 2 is on its way</tool_response>"


def test_observations_of_the_environment_stand_between_the_turns():
    steps = (
        Step(completion=Completion(message=assistant("go north")), observations=(Observation(text="a wall"),)),
        Step(completion=Completion(message=assistant("go south")), observations=(Observation(text="x", failure=ToolFailure.RAISED),)),
    )
    turns = segment_turns(Segment(context=(user("q"),), steps=steps))
    assert turns.messages == (assistant("go north"), user("a wall"), assistant("go south"))
    assert turns.failed == (2,)


def test_rows_from_a_run_come_from_practice_only(tmp_path):
    kept = [(said("a"), "sft (practice)"), (said("b", score=0.0, attempt=1), "sft (practice)"), (said("test", attempt=2), "baseline")]
    store = tt.Store(tmp_path / "experience.sqlite")
    for experience, arm in kept:
        store.add(experience, study="s", arm=arm, grader="g", task=TASK)
    out = tmp_path / "rows.jsonl"
    assert make_rows(tmp_path, "sft", out) == 1
    assert [row.completion for row in read_sft_rows(out)] == [(assistant("a"),)]
    assert make_rows(tmp_path, "dpo", out, arm="sft") == 1
    assert [(row.chosen, row.rejected) for row in read_preference_rows(out)] == [((assistant("a"),), (assistant("b"),))]
    with pytest.raises(InputError, match=r"no arm `baseline` has practised\. Arms that have: sft"):
        make_rows(tmp_path, "sft", out, arm="baseline")
    with pytest.raises(InputError, match="of 2 practised episodes none scored 2 or more"):
        make_rows(tmp_path, "sft", out, threshold=2.0)
    with pytest.raises(InputError, match="no run"):
        make_rows(tmp_path / "absent", "sft", out)
    (tmp_path / "empty").mkdir()
    tt.Store(tmp_path / "empty" / "experience.sqlite")
    with pytest.raises(InputError, match="no learner of this run collected episodes"):
        make_rows(tmp_path / "empty", "steps", out)
