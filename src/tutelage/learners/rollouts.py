"""What the weights learn from: experiences as the tokens that were sampled, never tokenised again.

Turns of one context whose prompts each begin with all tokens before them are one sample, in which what came in between (observations,
the template's own tokens) bears no loss. Where the template wrote the history differently, so that a prompt does not begin with what was
sampled, the turn begins a new sample of the same return; so does every segment, whose context was cleared.

An episode without a grade, without tokens, or that the grader abstained from is left out and counted. It is never taken for a failure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean, pstdev

from tutelage.errors import InputError
from tutelage.graders.combine import NO_NUMBER
from tutelage.records import Experience, Grade, Segment, StopReason, TokenTrace
from tutelage.training.policy_gradient import Sample, informative


class LeftOut(StrEnum):
    """Why an episode is not learned from."""

    MODEL_ERROR = "model_error"
    """A model call failed after its retries."""
    UNGRADED = "ungraded"
    """It has no grade: the grader failed, or said that it cannot tell."""
    ABSTAINED = "abstained"
    """The grader abstained."""
    UNSURE = "unsure"
    """The grader's confidence is below `min_confidence`."""
    NO_TOKENS = "no_tokens"
    """The model did not say which tokens it sampled, in one turn at least."""
    TOO_LONG = "too_long"
    """A sample has more tokens than `max_length`."""


@dataclass(frozen=True)
class Reading:
    """How experiences become samples.

    logprobs: keep those of the sampler, which are needed where another engine sampled. mask_truncated: an episode that was cut off bears
    no loss, though its reward counts in its group. max_length: of a sample, in tokens; a longer one is cut there where `truncate` says so,
    else its episode is left out. min_confidence: leave out episodes whose grader says that it is less sure than this. weigh: weigh samples
    by that confidence. A grade that comes without one (a rule's) stays, and weighs 1.
    """

    logprobs: bool = False
    mask_truncated: bool = False
    max_length: int | None = None
    truncate: bool = False
    min_confidence: float | None = None
    weigh: bool = False

    def unsure(self, grade: Grade) -> bool:
        """Whether the grader is not sure enough."""
        return self.min_confidence is not None and grade.confidence is not None and grade.confidence < self.min_confidence

    def weight(self, grade: Grade) -> float:
        """What the episode's advantage is multiplied by. Raises `InputError` where the confidence is no share."""
        if not self.weigh or grade.confidence is None:
            return 1.0
        if not 0 <= grade.confidence <= 1:
            message = f"weigh_by_confidence needs a confidence from 0 to 1, and the grader gave {grade.confidence:g}"
            raise InputError(message, field="grader")
        return grade.confidence


@dataclass(frozen=True)
class Group:
    """The usable episodes of one task: rewards (E,), their samples, and by episode how many tokens were sampled (E,)."""

    task_id: str
    rewards: tuple[float, ...]
    samples: tuple[Sample, ...]
    tokens: tuple[int, ...]
    truncated: int = 0

    def informative(self, epsilon: float) -> bool:
        """Whether the rewards differ enough to learn from."""
        return informative(self.rewards, epsilon)


@dataclass(frozen=True)
class Rollouts:
    """Groups in the order of their tasks, and how many episodes were left out, by the reason. words: of an ungraded episode's grade."""

    groups: tuple[Group, ...]
    left_out: Counter[LeftOut]
    words: str = ""

    def __add__(self, other: Rollouts) -> Rollouts:
        return Rollouts((*self.groups, *other.groups), self.left_out + other.left_out, self.words or other.words)

    @property
    def rewards(self) -> list[float]:
        """Of all usable episodes."""
        return [reward for group in self.groups for reward in group.rewards]

    @property
    def samples(self) -> list[Sample]:
        """Of all groups."""
        return [sample for group in self.groups for sample in group.samples]

    @property
    def reward_mean(self) -> float | None:
        """None where no episode is usable."""
        return fmean(self.rewards) if self.rewards else None

    @property
    def reward_std(self) -> float | None:
        """Over all usable episodes; None where there is none."""
        return pstdev(self.rewards) if self.rewards else None

    @property
    def tokens_per_episode(self) -> float | None:
        """How many tokens an episode sampled, on average."""
        counts = [count for group in self.groups for count in group.tokens]
        return fmean(counts) if counts else None

    @property
    def truncated(self) -> int:
        """Episodes that were cut off."""
        return sum(group.truncated for group in self.groups)


NO_ROLLOUTS = Rollouts((), Counter())


def read_rollouts(experiences: Sequence[Experience], reading: Reading = Reading(), names: dict[str, str] | None = None) -> Rollouts:
    """The groups of these experiences, one a task. names: task id -> what people call it.

    Raises `InputError` where a reward is no finite number: a reward that cannot be compared is a mistake in the grader.
    """
    left_out: Counter[LeftOut] = Counter()
    words = ""
    groups: dict[str, list[tuple[Experience, tuple[Sample, ...]]]] = {}
    for experience in experiences:
        _refuse_no_number(experience, names or {})
        read = read_experience(experience, reading)
        if isinstance(read, LeftOut):
            left_out[read] += 1
            words = words or (experience.grade.words if read is LeftOut.UNGRADED else "")
        else:
            groups.setdefault(experience.episode.task_id, []).append((experience, read))
    return Rollouts(tuple(_group(task_id, members) for task_id, members in groups.items()), left_out, words)


def read_experience(experience: Experience, reading: Reading = Reading()) -> tuple[Sample, ...] | LeftOut:
    """The samples of one experience in their order, or why there are none."""
    episode, grade = experience.episode, experience.grade
    if episode.stop is StopReason.MODEL_ERROR:
        return LeftOut.MODEL_ERROR
    if grade.abstained:
        return LeftOut.ABSTAINED
    if grade.score is None:
        return LeftOut.UNGRADED
    if reading.unsure(grade):
        return LeftOut.UNSURE
    if not _all_traced(experience):
        return LeftOut.NO_TOKENS
    stretches = [stretch for segment in episode.segments for stretch in stretches_of(segment)]
    if reading.max_length is not None:
        if not reading.truncate and any(len(stretch.ids) > reading.max_length for stretch in stretches):
            return LeftOut.TOO_LONG
        stretches = [stretch.cut(reading.max_length) for stretch in stretches]
    mute = reading.mask_truncated and not episode.stop.finished
    return tuple(
        Sample(
            ids=stretch.ids,
            action=(False,) * len(stretch.ids) if mute else stretch.action,
            group=episode.task_id,
            episode=episode.ref,
            reward=grade.score,
            sampled_logprobs=stretch.logprobs if reading.logprobs else None,
            weight=reading.weight(grade),
        )
        for stretch in stretches
    )


@dataclass(frozen=True)
class Stretch:
    """Tokens read and written under one context: ids (L,), which of them were sampled (L,), their logprobs (L,), NaN elsewhere."""

    ids: tuple[int, ...]
    action: tuple[bool, ...]
    logprobs: tuple[float, ...]

    @classmethod
    def of(cls, trace: TokenTrace) -> Stretch:
        """One turn alone."""
        return cls((), (), ()).grown(trace)

    def begins(self, trace: TokenTrace) -> bool:
        """Whether the turn's prompt begins with all tokens of this stretch."""
        return trace.prompt_ids[: len(self.ids)] == self.ids

    def grown(self, trace: TokenTrace) -> Stretch:
        """With a turn whose prompt begins with this stretch."""
        read, said = trace.prompt_ids[len(self.ids) :], trace.completion_ids
        return Stretch(
            ids=(*self.ids, *read, *said),
            action=(*self.action, *(False,) * len(read), *(True,) * len(said)),
            logprobs=(*self.logprobs, *(float("nan"),) * len(read), *trace.logprobs),
        )

    def cut(self, length: int) -> Stretch:
        """Its first tokens."""
        return Stretch(self.ids[:length], self.action[:length], self.logprobs[:length])


def stretches_of(segment: Segment) -> Iterator[Stretch]:
    """The stretches of one context. Turns without a trace are passed over."""
    current: Stretch | None = None
    for step in segment.steps:
        trace = step.completion.tokens
        if trace is None:
            continue
        if current is not None and current.begins(trace):
            current = current.grown(trace)
            continue
        if current is not None:
            yield current
        current = Stretch.of(trace)
    if current is not None:
        yield current


def _all_traced(experience: Experience) -> bool:
    traces = [step.completion.tokens for step in experience.episode.steps]
    whole = [trace for trace in traces if trace is not None and trace.prompt_ids and len(trace.logprobs) == len(trace.completion_ids)]
    return len(whole) == len(traces) and any(trace.completion_ids for trace in whole)


def _group(task_id: str, members: Sequence[tuple[Experience, tuple[Sample, ...]]]) -> Group:
    return Group(
        task_id=task_id,
        rewards=tuple(samples[0].reward for _, samples in members),
        samples=tuple(sample for _, samples in members for sample in samples),
        tokens=tuple(_tokens_said(experience) for experience, _ in members),
        truncated=sum(not experience.episode.stop.finished for experience, _ in members),
    )


def _tokens_said(experience: Experience) -> int:
    return sum(len(step.completion.tokens.completion_ids) for step in experience.episode.steps if step.completion.tokens)


def _refuse_no_number(experience: Experience, names: dict[str, str]) -> None:
    score, words = experience.grade.score, experience.grade.words
    if score is None and words.startswith(NO_NUMBER):
        task_id = experience.episode.task_id
        reward = words.removeprefix(NO_NUMBER).strip()
        raise InputError(
            f"the reward of the task from {names.get(task_id, task_id)} is {reward}; a reward is a finite number", field="grader"
        )
