"""People as graders, through the same inbox as people who advise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tutelage.advice import Advice, Advisor, Question, score_of
from tutelage.inbox.box import Inbox
from tutelage.inbox.person import Person
from tutelage.inbox.records import Terms
from tutelage.records import Episode, Grade, Task

LONGEST = 20_000
"""Characters of one message that the person is shown; the middle of a longer one is left out."""


QUESTION = "Is the answer right?"


class PersonGrader:
    """A grader that asks a person whether the answer is right.

    advisor: who is asked, such as `Person(inbox, Terms(seconds=0))`, which does not wait: the episode stays ungraded, and running the study
    again takes the grades that were given meanwhile. What a person declines stays ungraded.
    show_reference: lay the task's reference answer beside the agent's.
    """

    def __init__(self, advisor: Advisor, *, text: str = QUESTION, show_reference: bool = False) -> None:
        self.advisor, self._text, self._show_reference = advisor, text, show_reference
        self.name = "person"

    def check(self, task: Task) -> None:
        """A person may grade anything."""

    async def grade(self, task: Task, episode: Episode) -> Grade:
        """The person's grade and words; not graded where none came."""
        advice = await self.advisor.ask(self.question(task, episode))
        return Grade(score=None, words="no person has graded it") if advice is None else grade_of(advice)

    def question(self, task: Task, episode: Episode) -> Question:
        """What the person is asked."""
        parts = [f"[{message.role}]\n{_short(message.text)}" for message in task.messages]
        parts.append(f"[the agent's answer]\n{_short(_answer(episode))}")
        if self._show_reference and task.reference is not None:
            parts.append(f"[the reference answer]\n{_short(str(task.reference))}")
        return Question(
            text=self._text,
            context="\n\n".join(parts),
            kind="grade",
            agent_version=episode.agent_version,
            task_id=task.id,
            episode=episode.ref,
        )


def person_grader(inbox: str | Path, *, text: str = QUESTION, show_reference: bool = False, to: str = "") -> PersonGrader:
    """People as a study file names them: `person: {inbox: runs/helpdesk}`; they answer with `tutelage inbox watch runs/helpdesk`.

    inbox: a run's folder (most simply the study's own), or the file or URL of a store. It does not wait: what is unanswered stays ungraded,
    and running the study again takes the grades that were given meanwhile. to: who is asked, by name ("": whoever is there).
    """
    return PersonGrader(_AtPlace(place_of(inbox), to), text=text, show_reference=show_reference)


def place_of(run: str | Path) -> str:
    """The store of a run's folder; a file or URL of a store as it is."""
    path = Path(run)
    is_store = "://" in str(run) or (not path.is_dir() and (path.is_file() or path.suffix != ""))
    return str(run) if is_store else str(path / "experience.sqlite")


@dataclass(frozen=True)
class _AtPlace:
    """People in an inbox that is open only while they are asked."""

    place: str
    to: str
    price: float = 0.0

    @property
    def name(self) -> str:
        return f"person:{self.to}" if self.to else "person"

    async def ask(self, question: Question) -> Advice | None:
        with Inbox(self.place) as inbox:
            return await Person(inbox, Terms(seconds=0), to=self.to).ask(question)


def grade_of(advice: Advice) -> Grade:
    """What a person's answer to a question of kind `grade` means."""
    return Grade(score=score_of(advice.answer), words=advice.note)


def _answer(episode: Episode) -> str:
    """Its words, and the calls that it handed over as its answer."""
    calls = [f"{call.name}({call.arguments})" for call, observation in episode.calls if observation is None]
    return "\n".join([episode.answer or "", *calls]).strip() or f"(none: {episode.stop})"


def _short(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return f"{text[:half]}\n[... {len(text) - LONGEST} characters left out ...]\n{text[-half:]}"
