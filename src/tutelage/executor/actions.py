"""The actions that an executor knows by name. Tools of the agent and of its environment are actions by themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tutelage.errors import ToolError
from tutelage.executor.action import Action, action
from tutelage.executor.prompts import NO_ADVICE, retrieved
from tutelage.executor.session import Session
from tutelage.executor.texts import worth_keeping

ANSWERING = ("predict_answer", "submit_answer")
"""The actions whose argument is an answer."""


@action
def get_question(session: Session) -> str:
    """Show the question again."""
    return "\n\n".join(part for part in (session.task.text, session.opening) if part)


@action(max_chars=100_000)
def retrieve_memory(session: Session, query: str = "") -> str:
    """Look up what is known of questions like this one.

    Args:
        query: What to look for; the question itself where it is left out.
    """
    return retrieved(session.retrieve(query))


@action(seconds=math.inf)
async def seek_advice(session: Session, question: str = "") -> str:
    """Ask an expert.

    Args:
        question: What to ask; the question itself where it is left out.
    """
    words = await session.ask(question)
    return NO_ADVICE if words is None else words


@action
def reflect(session: Session, knowledge: str = "") -> str:
    """State what you learned here that will help with other questions, or "no information".

    Args:
        knowledge: What you learned.
    """
    session.reflection = worth_keeping(knowledge)
    return "update_memory keeps it." if session.reflection else "There is nothing to keep."


@action
def update_memory(session: Session, text: str = "") -> str:
    """Keep what you learned for later questions.

    Args:
        text: What to keep; your last reflection where it is left out.
    """
    kept = worth_keeping(text) or ("" if text.strip() else session.reflection)
    if not kept:
        return "There is nothing to keep."
    session.writes.append(kept)
    return "Kept."


@action
def predict_answer(session: Session, answer: str) -> str:
    """State your answer.

    Args:
        answer: The answer itself, without words around it.
    """
    if not answer.strip():
        raise ToolError("the answer is empty; write it behind predict_answer")
    session.draft = answer.strip()
    if "submit_answer" in session.enabled:
        return f"Your answer so far is {session.draft}; submit_answer ends the session with it."
    session.finish(session.draft)
    return "The session has ended."


@action
def submit_answer(session: Session, answer: str = "") -> str:
    """End the session with an answer.

    Args:
        answer: The answer itself, without words around it; the one that you predicted where it is left out.
    """
    final = answer.strip() or session.draft
    if not final:
        raise ToolError("there is no answer yet; write it behind submit_answer")
    session.finish(final)
    return "The session has ended."


@action
def clear_context(session: Session) -> str:
    """Forget the conversation so far; the question, the expert's advice and your reflection stay."""
    session.cleared = True
    return "The context begins anew."


ACTIONS: Mapping[str, Action] = {
    item.name: item
    for item in (get_question, retrieve_memory, seek_advice, reflect, update_memory, predict_answer, submit_answer, clear_context)
}
"""By name."""
