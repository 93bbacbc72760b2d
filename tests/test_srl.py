"""SRL without weights: the reward by hand, where solutions come from, and what a practised step looks like."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from difflib import SequenceMatcher

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tutelage as tt
from tutelage.environments.multi_step import multi_step_tasks
from tutelage.episode import run_episode
from tutelage.errors import InputError, ModelUnavailable, SealedError
from tutelage.graders.rules import Numeric
from tutelage.knowledge import Exemplar, Knowledge, Retrieval
from tutelage.learner import Need
from tutelage.learners.srl import SRL, _first_and_last, _held_out, measure_steps, step_task, stepping
from tutelage.learners.srl_experts import SOLVE_CLAUSE, Expert, Teacher, file_experts, native_task, reference_experts, success_experts
from tutelage.learners.srl_format import COMMAND_CLAUSE, LONGEST, TEXT_CLAUSE, StepGrader, read_step, similarity_reward, step_reward
from tutelage.records import Completion, Episode, Experience, Grade, Segment, Step, StopReason
from tutelage.training.rows import StepRow

LINES = ["1. Add: 4 + 3 = 7", "2. Double: 2 * 7 = 14", "3. Answer\n#### 14"]
SOLUTION = "\n".join(LINES)


def task(text: str = "What is twice the sum of 4 and 3?", reference=SOLUTION, **fields) -> tt.Task:
    return tt.Task(messages=(tt.Message(role="user", content=text),), reference=reference, **fields)


def practice(tasks, grader=None, **options) -> tt.Practice:
    collector = tt.Collector(tt.grader.as_grader(grader or Numeric()), environment=options.pop("environment", None))
    return tt.Practice(tasks, collector, **options)


def says(*replies: str, native_tools: bool = True) -> tt.Scripted:
    return tt.Scripted(list(replies), native_tools=native_tools)


# -- the reward


@pytest.mark.parametrize(
    ("step", "target", "reward"),
    [
        ("abcd", "abcd", 1.0),
        ("abcd", "bcde", 6 / 8),  # bcd: M = 3, T = 8
        ("abxcd", "abcd", 8 / 9),  # ab and cd: M = 4, T = 9
        ("abc", "xyz", 0.0),
        ("", "abc", 0.0),
        ("", "", 1.0),
        ("  2. Double: 14\n", "2. Double: 14", 1.0),
        ("2. Double: 15", "2. Double: 14", 24 / 26),
        ("tide", "diet", 2 / 8),  # the longest block is t, at the place of diet's last letter: nothing is left to its right
        ("diet", "tide", 4 / 8),  # d, then e: not the same backwards
    ],
)
def test_similarity_by_hand(step: str, target: str, reward: float):
    assert similarity_reward(step, target) == pytest.approx(reward)


def test_letters_that_are_common_in_long_steps_still_count():
    target = ("the quick brown fox jumps over the lazy dog. " * 5).strip()
    step = f"y{target[1:]}z"  # the first letter is wrong, and there is one too many
    assert SequenceMatcher(None, step, target).ratio() < 0.01, "what difflib's default makes of it from 200 letters on"
    assert len(target) >= 200
    assert similarity_reward(step, target) == pytest.approx(2 * (len(target) - 1) / (2 * len(target) + 1))


def test_very_long_texts_are_compared_by_words():
    words = ["add", "the", "two", "numbers", "and", "double", "them;"]
    target = " ".join(random.Random(0).choices(words, k=LONGEST // 3)) + " end"
    assert len(target) > LONGEST
    assert similarity_reward(target, target) == 1.0
    assert similarity_reward(f"not {target}", target) == pytest.approx(2 * len(target) / (2 * len(target) + 4))
    assert similarity_reward("z" * 3 * LONGEST, target) == 0.0


@given(st.text("ab 1", max_size=30), st.text("ab 1", max_size=30))
def test_similarity_is_twice_the_matched_over_all(step: str, target: str):
    reward = similarity_reward(step, target)
    a, b = step.strip(), target.strip()
    matched = sum(block.size for block in SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks())
    assert reward == pytest.approx(2 * matched / (len(a) + len(b)) if a or b else 1.0)
    assert 0 <= reward <= 1
    assert (reward == 1) == (a == b)


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("<think>4 and 3 make 7</think>1. Add: 7", "1. Add: 7"),
        ("\n <think></think>\n\n1. Add: 7\n2. more\n", "1. Add: 7\n2. more"),
        ("<think>line\nline</think>x", "x"),
        ("1. Add: 7", None),
        ("<think>never closed 1. Add: 7", None),
        ("</think>1. Add: 7", None),
        ("<think>a</think>", None),
        ("<think>a</think>  \n", None),
        ("<think>a</think>x<think>b</think>y", None),
        ("<think>a</think>x</think>", None),
        ("<think>a<think>b</think>x", None),
        ("Well, <think>a</think>x", None),
        ("<THINK>a</THINK>x", None),
        ("", None),
    ],
)
def test_the_form_of_a_reply(text: str, step: str | None):
    assert read_step(text) == step
    assert step_reward(text, "1. Add: 7") == (-1.0 if step is None else similarity_reward(step, "1. Add: 7"))


def said(message: tt.Message | str, **fields) -> Episode:
    message = message if isinstance(message, tt.Message) else tt.Message(role="assistant", content=message)
    segment = Segment(context=(), steps=(Step(completion=Completion(message=message)),))
    return Episode(task_id="t", agent_version="v", segments=(segment,), answer=message.text, stop=StopReason.ANSWERED, **fields)


async def test_the_grader_gives_the_step_reward_and_tells_a_broken_form_from_a_bad_step():
    step = task(reference="abcd")
    assert await StepGrader().grade(step, said("<think>?</think>bcde")) == Grade(
        score=0.75, words="the expert's step: abcd", parts={"similarity": 0.75}
    )
    broken = await StepGrader().grade(step, said("abcd"))
    assert (broken.score, broken.parts) == (-1.0, {"similarity": None})
    nothing = Episode(task_id="t", agent_version="v", segments=(), answer=None, stop=StopReason.SECONDS)
    assert (await StepGrader().grade(step, nothing)).score == -1.0
    for wrong in (None, "  ", {"calls": []}):
        with pytest.raises(InputError, match="expert's step"):
            StepGrader().check(task(reference=wrong))


async def test_calls_in_the_models_own_format_are_read_as_text():
    call = tt.ToolCall(id="c", name="look", arguments='{"where": "up"}')
    target = '<tool_call>{"name": "look", "arguments": {"where": "up"}}</tool_call>'
    acted = said(tt.Message(role="assistant", content="<think>hm</think>", tool_calls=(call,)))
    assert (await StepGrader().grade(task(reference=target), acted)).score == 1.0
    written = said(f"<think>hm</think>{target}")
    assert (await StepGrader().grade(task(reference=target), written)).score == 1.0


# -- where solutions come from


def texts(rows) -> list[tuple[str, str]]:
    return [(row.prompt[-1].text, row.target) for row in rows]


def test_references_become_steps_without_the_last():
    asked = task(source="train.jsonl:3")
    experts = reference_experts(
        [asked, task("x", "14"), task("y", None), task("z", {"calls": []})], tt.Agent(model="m", instructions="Sum."), last=False
    )
    (expert,) = experts.found
    first, second = expert.rows
    assert first.prompt == (tt.Message(role="system", content="Sum."), asked.messages[0])
    assert (first.target, first.number, first.task_id, first.source) == (LINES[0], 1, asked.id, "train.jsonl:3")
    assert second.prompt[-1].text.startswith(asked.text)
    assert second.prompt[-1].text.endswith(LINES[0])
    assert second.target == LINES[1]
    assert not expert.acts
    assert experts.counts == {"solutions_of_one_step": 2, "tasks_without_solution": 1}, "no call expected is a sentence of one step"
    (whole,) = reference_experts([asked], tt.Agent(model="m"), last=True).found
    assert [row.target for row in whole.rows] == LINES


def test_a_reference_that_is_a_call_is_one_step():
    def lookup(word: str) -> str:
        """Look a word up.

        Args:
            word: The word.
        """
        return word

    agent = tt.Agent(model=tt.Scripted([]), instructions="Act.", tools=(lookup,))
    asked = task("x", {"calls": [{"name": "lookup", "arguments": {"word": "owl"}}]})
    (expert,) = reference_experts([asked], agent, last=False).found
    (row,) = expert.rows
    assert expert.acts
    assert row.target == '<tool_call>{"name": "lookup", "arguments": {"word": "owl"}}</tool_call>'
    assert (row.number, row.task_id, row.prompt[-1]) == (1, asked.id, asked.messages[-1])
    assert row.prompt[0].text.startswith("Act.")


@pytest.mark.parametrize(("reference", "words"), [("14", "one step only"), (None, "no task has a reference in words")])
def test_without_a_solution_in_steps_there_is_nothing_to_learn(reference, words: str):
    with pytest.raises(InputError, match=words) as refused:
        reference_experts([task(reference=reference)], tt.Agent(model="m"), last=False)
    assert refused.value.field == "source"


def test_what_the_agent_knows_is_not_in_the_prompt():
    asked = task()
    case = Exemplar(
        task_id=asked.id,
        input_id="other",
        text="q",
        messages=(tt.Message(role="user", content="q"), tt.Message(role="assistant", content=SOLUTION)),
    )
    agent = tt.Agent(model="m", knowledge=Knowledge(exemplars=(case,), retrieval=Retrieval(choose="fixed", k=1)))
    (expert,) = reference_experts([asked], agent, last=False).found
    assert [message.role for message in expert.rows[0].prompt] == ["user"]


def write(path, *rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_solutions_from_a_file(tmp_path):
    path = write(
        tmp_path / "experts.jsonl",
        {"question": "What is 2 * (4 + 3)?", "solution": SOLUTION},
        {"prompt": [{"role": "system", "content": "Own."}, {"role": "user", "content": "b?"}], "steps": ["one", "two", "three"]},
    )
    own, other = file_experts(path, tt.Agent(model="m", instructions="Sum."), practice([task()])).found
    assert [row.target for row in own.rows] == LINES[:2]
    assert [message.text for message in own.rows[0].prompt] == ["Sum.", "What is 2 * (4 + 3)?"]
    assert [message.text for message in other.rows[0].prompt] == ["Own.", "b?"]
    assert [row.target for row in other.rows] == ["one", "two"]
    assert not own.acts
    path = write(tmp_path / "acts.jsonl", {"prompt": "Go.", "target": walk("north"), "task_id": "t", "number": 1})
    (acting,) = file_experts(path, tt.Agent(model="m"), practice([task()])).found
    assert acting.acts


def test_a_file_must_not_hold_test_questions(tmp_path):
    held_out = task("secret?")
    path = write(tmp_path / "experts.jsonl", {"question": "a?", "steps": ["1", "2"]}, {"question": "secret?", "steps": ["1", "2"]})
    with pytest.raises(SealedError, match=r"experts\.jsonl:2"):
        file_experts(path, tt.Agent(model="m"), practice([task()], sealed=frozenset({held_out.input_id})))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "a?", "steps": ["one"]}, "two steps or more"),
        ({"question": "a?"}, "steps"),
        ({"question": "a?", "steps": ["one", ""]}, "steps"),
    ],
)
def test_a_bad_row_of_a_file_is_named(tmp_path, row: dict, words: str):
    path = write(tmp_path / "experts.jsonl", {"question": "a?", "steps": ["1", "2"]}, row)
    with pytest.raises(InputError, match=words) as refused:
        file_experts(path, tt.Agent(model="m"), practice([task()]))
    assert refused.value.line == 2


async def test_the_agents_own_successes():
    solved, failed, short = task("a"), task("b"), task("c")
    replies = {"a": f"<think>let me see</think>{SOLUTION}", "b": "1. Guess\n#### 15", "c": "#### 14"}
    agent = tt.Agent(model=tt.Scripted(lambda messages, tools, sampling: replies[messages[-1].text]))
    experts = await success_experts(agent, practice([solved, failed, short]), attempts=1, temperature=1.0, threshold=1.0, last=False)
    (expert,) = experts.found
    assert texts(expert.rows)[0] == ("a", LINES[0])
    assert experts.counts["solutions_of_one_step"] == 1
    none = await success_experts(agent, practice([failed]), attempts=1, temperature=1.0, threshold=1.0, last=False)
    assert not none.found
    assert "of 1 episodes of the agent none reached a score of 1" in none.why_none


async def test_several_attempts_are_not_the_same_attempt():
    heard: list[float] = []

    def reply(messages, tools, sampling) -> str:
        heard.append(sampling.temperature)
        return SOLUTION

    await success_experts(tt.Agent(model=tt.Scripted(reply)), practice([task()]), attempts=3, temperature=0.8, threshold=1.0, last=False)
    assert heard == [0.8] * 3


def teacher(model, **options) -> Teacher:
    return Teacher(**{"model": model, "attempts": 1, "temperature": 1.0, "threshold": 1.0, "last": False, **options})


async def test_a_teacher_solves_in_steps_and_the_grader_checks():
    replies = {"a": SOLUTION, "b": "1. Guess\n2. Hope\n#### 15"}
    model = tt.Scripted(lambda messages, tools, sampling: replies[messages[-1].text])
    agent = tt.Agent(model=says(), instructions="Sum.", sampling=tt.Sampling(max_tokens=8))
    training = practice([task("a"), task("b")])
    experts = await teacher(model).experts(agent, training)
    (expert,) = experts.found
    assert [message.text for message in expert.rows[0].prompt] == ["Sum.", "a"], "asked as the agent is asked, not as the teacher was"
    assert [row.target for row in expert.rows] == LINES[:2]
    assert +experts.counts == Counter(tasks_not_solved_by_teacher=1)
    assert model.requests[0].messages[0].text == f"Sum.\n\n{SOLVE_CLAUSE}"
    assert model.requests[0].sampling.max_tokens == 1024
    assert training.cost.calls == 2


async def test_a_solution_of_one_step_is_rewritten_and_graded_again():
    def reply(messages, tools, sampling) -> str:
        asked = messages[-1].text
        if "Write the solution anew" not in asked:
            return f"#### {asked[-2:]}"
        return SOLUTION if "#### 14" in asked else "1. It is\n2. fifteen\n#### 16"

    model = tt.Scripted(reply)
    training = practice([task("say 14"), task("say 15", "1. Say\n#### 15")])
    experts = await teacher(model).experts(tt.Agent(model=says()), training)
    (expert,) = experts.found
    assert texts(expert.rows)[0] == ("say 14", LINES[0])
    assert experts.counts["solutions_rewritten"] == 1
    assert experts.counts["rewritten_solutions_refused"] == 1
    assert experts.counts["solutions_of_one_step"] == 1


async def test_a_teacher_that_the_grader_never_accepts():
    experts = await teacher(tt.Scripted("1. Guess\n2. Hope\n#### 15")).experts(tt.Agent(model=says()), practice([task(reference="14")]))
    assert not experts.found
    assert experts.why_none == (
        "of the teacher's 1 solutions none reached a score of 1 in two steps or more; the best score is 0; the grader said of the first "
        "that it refused: expected '14', got 15"
    )
    with pytest.raises(ModelUnavailable):
        await teacher(tt.Scripted(ModelUnavailable("gone"))).experts(tt.Agent(model=says()), practice([task()]))


class Corridor:
    """Go north until the end."""

    def reset(self, task: tt.Task) -> str:
        self.place, self.done = 0, False
        return "You are in room 0."

    def go(self, direction: str) -> str:
        """Walk.

        Args:
            direction: north or south.
        """
        self.place += direction == "north"
        self.done = self.place == 4
        return f"You are in room {self.place}."

    def grade(self, episode: Episode) -> float:
        return float(self.done)


def walk(direction: str, thought: str = "") -> str:
    return f'{thought}<tool_call>{{"name": "go", "arguments": {{"direction": "{direction}"}}}}</tool_call>'


async def walked(native_tools: bool = False) -> tuple[tt.Practice, Teacher]:
    call = tt.ToolCall(id="x", name="go", arguments='{"direction": "north"}')
    replies = [call] * 4 if native_tools else [walk("north", "<think>on</think>")] + [walk("north")] * 3
    training = practice([task("Go to room 4.", None)], tt.graders.rules.FromEnvironment(), environment=Corridor)
    return training, teacher(tt.Scripted(replies, native_tools=native_tools))


async def test_an_agents_steps_are_commands_with_the_last_two_observations():
    training, guide = await walked()
    agent = tt.Agent(model=says(native_tools=False), instructions="Walk.")
    (expert,) = (await guide.experts(agent, training)).found
    assert expert.acts
    assert [row.target for row in expert.rows] == [walk("north")] * 4, "the last one, too, and without the reasoning"
    shown = [message.text for message in expert.rows[3].prompt[2:]]
    assert shown == [
        walk("north"),
        "<tool_response>You are in room 2.</tool_response>",
        walk("north"),
        "<tool_response>You are in room 3.</tool_response>",
    ]
    assert "Go to room 4." in expert.rows[3].prompt[1].text
    system = expert.rows[0].prompt[0].text
    assert system.startswith("Walk.\n\nTools:"), "no clause about numbered steps where commands are the steps"
    step = step_task(expert.rows[3], COMMAND_CLAUSE)
    assert (await native_task(step, agent, training)).tools == ()


async def test_calls_of_another_form_than_the_agents_are_refused():
    training, guide = await walked(native_tools=True)
    with pytest.raises(InputError, match="native_tools=false"):
        await guide.experts(tt.Agent(model=says(native_tools=False)), training)


async def test_a_model_with_its_own_format_is_told_of_the_tools_and_runs_none():
    training, guide = await walked(native_tools=True)
    call = tt.ToolCall(id="y", name="go", arguments='{"direction": "north"}')
    thought = tt.Message(role="assistant", content="<think>on</think>", tool_calls=(call,))
    agent = tt.Agent(model=tt.Scripted([thought]), instructions="Walk.", tools=(Corridor().go,))
    (expert,) = (await guide.experts(agent.but(tools=()), training)).found
    step = await native_task(step_task(expert.rows[0], COMMAND_CLAUSE), agent.but(tools=()), training)
    assert [spec.name for spec in step.tools] == ["go"]
    episode = await run_episode(stepping(agent), step)
    assert episode.stop is StopReason.TOOL_CALL
    assert [observation for _, observation in episode.calls] == [None]
    assert (await StepGrader().grade(step, episode)).score == 1.0


# -- a practised step


async def test_a_step_is_asked_under_the_agents_instructions_and_the_clause():
    asked = task()
    agent = tt.Agent(model=says("<think>7</think>1. Add: 4 + 3 = 7"), instructions="Sum.", tools=(Corridor().go,))
    (expert,) = reference_experts([asked], agent, last=False).found
    step = step_task(expert.rows[1], TEXT_CLAUSE)
    assert step.reference == LINES[1]
    episode = await run_episode(stepping(agent), step)
    system, user = agent.model.requests[0].messages
    assert system.text == f"Sum.\n\n{TEXT_CLAUSE}"
    assert user.text == expert.rows[1].prompt[-1].text
    assert agent.model.requests[0].tools == ()
    assert (await StepGrader().grade(step, episode)).score == similarity_reward(LINES[0], LINES[1])
    assert [message.role for message in step_task(expert.rows[1], " ").messages] == ["system", "user"]


def test_what_is_measured_of_a_step():
    def graded(similarity: float | None) -> Experience:
        grade = Grade(score=-1.0 if similarity is None else similarity, parts={"similarity": similarity})
        return Experience(episode=said("x"), grade=grade, when="2026-01-01T00:00:00Z")

    ungraded = Experience(episode=said("x"), grade=Grade(score=None), when="2026-01-01T00:00:00Z")
    assert measure_steps([graded(0.5), graded(None), graded(1.0), graded(None), ungraded]) == {"broken_format": 0.5, "similarity": 0.75}
    assert measure_steps([graded(None)]) == {"broken_format": 1.0, "similarity": None}
    assert measure_steps([ungraded]) == {"broken_format": None, "similarity": None}
    rows = [{"broken_format": 1.0, "similarity": None}, {"broken_format": 0.0, "similarity": 0.5}]
    assert _first_and_last(rows) == {"broken_format": [1.0, 0.0], "similarity": [None, 0.5]}
    assert _first_and_last([]) == {}


def test_whole_tasks_are_held_out_and_one_always_stays():
    def solution(name: str, steps: int) -> Expert:
        return Expert(tuple(StepRow(prompt=(), target="s", task_id=name, number=number) for number in range(steps)))

    experts = [solution("a", 3), solution("a", 2), solution("b", 4), solution("c", 4)]
    assert _held_out(experts, 0, seed=0) == set()
    assert len(_held_out(experts, 1, seed=0)) == 1
    assert len(_held_out(experts, 100, seed=0)) == 2
    assert len({frozenset(_held_out(experts, 1, seed=seed)) for seed in range(20)}) == 3


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"source": "teacher"}, "teacher"),
        ({"teacher": "scripted:x"}, "teacher"),
        ({"source": "file"}, "file"),
        ({"file": "x.jsonl"}, "file"),
        ({"source": "elsewhere"}, "source"),
        ({"attempts": 0}, "attempts"),
        ({"num_generation": 4}, "num_generation"),
        ({"num_generations": 1}, "num_generations"),
        ({"learning_rate": 0}, "learning_rate"),
    ],
)
def test_wrong_options_are_refused(options: dict, field: str):
    with pytest.raises(InputError) as refused:
        SRL(**options)
    assert refused.value.field == field


def test_what_it_needs_and_says_of_itself(tmp_path):
    assert SRL().needs == {Need.WEIGHTS, Need.REFERENCES}
    assert SRL("success").needs == {Need.WEIGHTS, Need.GRADES}
    assert SRL("teacher", teacher=says()).needs == {Need.WEIGHTS, Need.GRADES, Need.TEACHER}
    described = SRL(steps=3).described()["srl"]
    assert (described["source"], described["steps"], described["dynamic_sampling"], described["beta"]) == ("reference", 3, True, 0.0)
    assert (described["temperature"], described["max_grad_norm"], described["num_generations"]) == (1.0, 1.0, 8)
    assert SRL("teacher", teacher=says()).described()["srl"]["teacher"] == "scripted"
    path = write(tmp_path / "experts.jsonl", {"question": "a?", "steps": ["1", "2"]})
    before = SRL("file", file=path).described()
    write(tmp_path / "experts.jsonl", {"question": "b?", "steps": ["1", "2"]})
    assert SRL("file", file=path).described() != before, "a file counts by what is in it"
    assert SRL("success").forecast_calls(10) == SRL().forecast_calls(10) + 40
    json.dumps(described)


async def test_generated_tasks_are_practised_step_by_step():
    (asked,) = multi_step_tasks(1, 0, steps=3, form="signs")
    (expert,) = reference_experts([asked], tt.Agent(model="m"), last=True).found
    for number, row in enumerate(expert.rows, 1):
        answer = row.target.splitlines()[0]
        assert re.fullmatch(rf"{number}\. [a-z]\d{{4}}", answer)
        wrong = answer[:-1] + ("1" if answer[-1] != "1" else "2")
        target = row.target
        assert step_reward(f"<think></think>{target}", target) == 1.0
        assert 0.8 < step_reward(f"<think></think>{wrong}{target[len(answer) :]}", target) < 1.0


async def test_weights_that_are_not_here_are_refused_before_anything_is_spent():
    model = says("never asked")
    with pytest.raises(InputError):
        await SRL("success").learn(tt.Agent(model=model), practice([task()]))
    assert model.calls == 0
