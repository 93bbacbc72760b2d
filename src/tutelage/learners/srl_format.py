"""What SRL asks of the agent, how its reply is read, and the reward of a step.

Source: supervised reinforcement learning (Deng et al. 2025, arXiv:2510.25992). The agent thinks freely between <think> and </think> and
then writes one step; the reward looks at the step alone and says how much it shares with the expert's: R = 2M/T, where M counts the
characters in the blocks that match and T the characters of both, as `difflib` finds them. A reply in another form gets -1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from tutelage.errors import InputError
from tutelage.records import Episode, Grade, Task
from tutelage.tool_protocol import render_message

BROKEN = -1.0
"""The reward of a reply in another form than the one asked for."""

LONGEST = 2_000
"""Two texts of up to so many characters each are compared letter by letter, longer ones word by word.

The time of comparing letters grows with the product of the lengths: .07 s for two prose texts of 2,000 characters (a step has 50 to 500),
.3 s at 4,000; two texts that repeat a few letters over and over, in different periods, are the worst that there is, half a minute at 2,000.
"""

TEXT_CLAUSE = """\
The message may hold the beginning of a solution. Find the step that comes next. First think, as freely and as long as you need, between \
<think> and </think>. Then write the next step and nothing else: one step, not the rest of the solution."""

COMMAND_CLAUSE = """\
The task may be underway: what was done last and what came of it are shown. Choose what to do next. First think, as freely and as long as \
you need, between <think> and </think>. Then write the next command and nothing else: one command, not several."""

_REPLY = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)
_TAG = re.compile(r"</?think>")
_WORDS = re.compile(r"\w+|\s+|[^\w\s]")


def similarity_reward(step: str, target: str) -> float:
    """How much of a step an expert's step shares with it: R = 2M/T in [0, 1], blanks around both left out.

    It is `SequenceMatcher(None, step, target, autojunk=False).ratio()`; 1 for equal texts, two empty ones included. Three things to know:

    - `autojunk` is off. With it, which is difflib's default, every letter that makes up more than a hundredth of a target of 200 or more
      characters counts as junk, and in prose that is nearly every letter: a copy that differs in its first character would get 0 or so.
    - It finds the longest common block first, then what matches to its left and right; that is not the longest common subsequence, and
      the ratio of (a, b) may differ from that of (b, a). The expert's step stands second here.
    - Where a text has more than `LONGEST` characters, words, blanks and signs are matched whole; M and T still count characters.
    """
    step, target = step.strip(), target.strip()
    if step == target:
        return 1.0
    if max(len(step), len(target)) <= LONGEST:
        return SequenceMatcher(None, step, target, autojunk=False).ratio()
    return _by_words(_WORDS.findall(step), _WORDS.findall(target))


def _by_words(step: Sequence[str], target: Sequence[str]) -> float:
    blocks = SequenceMatcher(None, step, target, autojunk=False).get_matching_blocks()
    matched = sum(len(word) for block in blocks for word in step[block.a : block.a + block.size])
    return 2 * matched / (sum(map(len, step)) + sum(map(len, target)))


def read_step(text: str) -> str | None:
    """The step in a reply; None where its form is broken.

    The form: one `<think>...</think>` at the very beginning (it may be empty), then something. Broken are: words before it, no such block
    or one that is left open, a second tag of either kind, nothing after it.
    """
    found = _REPLY.fullmatch(text)
    if found is None or _TAG.search(found[2]) or _TAG.search(found[1]):
        return None
    return found[2].strip() or None


def step_reward(text: str, target: str) -> float:
    """The reward of a whole reply: -1 where its form is broken, else the similarity of its step to the expert's."""
    step = read_step(text)
    return BROKEN if step is None else similarity_reward(step, target)


class StepGrader:
    """The step reward as a grader: the task's reference is the expert's step, and the reply is read as the model wrote it.

    Tool calls that the model made in its own format are read as the text that calls are written in.
    """

    name = "srl_step"

    async def grade(self, task: Task, episode: Episode) -> Grade:
        """In [-1, 1]; the part `similarity` is None where the form is broken."""
        score = step_reward(_reply(episode), str(task.reference))
        if score == BROKEN:
            return Grade(score=score, words="not of the form <think>...</think> and then one step", parts={"similarity": None})
        return Grade(score=score, words=f"the expert's step: {task.reference}", parts={"similarity": score})

    def check(self, task: Task) -> None:
        """An expert's step is needed."""
        if not (isinstance(task.reference, str) and task.reference.strip()):
            raise InputError("an expert's step is needed, as a text", file=task.source, field="reference")


def _reply(episode: Episode) -> str:
    """What the model wrote in its first turn, thoughts and calls included."""
    step = next(episode.steps, None)
    if step is None:
        return ""
    said = step.completion.message
    return render_message(said).text if said.tool_calls else said.text
