"""A student, its grader and its tasks: the forms of each city want a word of their own, and only the grader says which.

What the student does depends on nothing but the messages that it is sent; it notes them all in `prompts.jsonl` beside this file.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

WORDS = {"Oslo": "fjord", "Quito": "sol", "Kyoto": "sakura", "Turin": "plain"}
GUESS = "plain"
HARMFUL = "Answer in Latin."

ASKED = re.compile(r"office of (\w+)")
RULE = re.compile(r"Write (\w+) on (?:all )?forms of (\w+)")
WANTED = re.compile(r"forms of (\w+) want the word (\w+)")
SUCCEEDED = re.compile(r"office of (\w+)(?:(?!office of).)*?What the agent did:\nAnswer: (\w+)", re.DOTALL)
LISTED = re.compile(r"^(\d+)\. (.+) \(importance", re.MULTILINE)


def row(number: int) -> dict[str, str]:
    """A task: form `number`, whose city follows from the number."""
    city = [*WORDS][number % len(WORDS)]
    return {"input": f"Form {number} for the office of {city}: which word goes on it?", "reference": WORDS[city], "kind": city}


def grade(task, episode):
    """Right or wrong, and on failure the rule in words."""
    city = ASKED.search(task.text)[1]
    return (1.0, "") if episode.answer == task.reference else (0.0, f"Wrong: forms of {city} want the word {task.reference}.")


def reply(messages, tools=(), sampling=None) -> str:
    """Solve, reflect or extract, whichever is asked."""
    prompts = Path(__file__).with_name("prompts.jsonl")
    with prompts.open("a") as file:
        file.write(json.dumps([[message.role, message.text] for message in messages]) + "\n")
    asked = messages[-1].text
    if "Write a plan for the next attempt" in asked:
        return plan(asked)
    return "\n".join(operations(asked)) if "Reply with operations only" in asked else answer(messages)


def careless(messages, tools=(), sampling=None) -> str:
    """Extracts as `reply` does, and adds a rule that does harm."""
    said = reply(messages)
    return said if HARMFUL in messages[-1].text else f"ADD: {HARMFUL}\n{said}"


def answer(messages) -> str:
    """The word by a case in the prompt, by a rule or a plan in it, or else a guess."""
    told = "\n".join(message.text for message in messages if message.role == "system") + messages[-1].text
    if HARMFUL in told:
        return "verbum"
    known = {ASKED.search(case.text)[1]: said.text for case, said in pairwise(messages) if (case.role, said.role) == ("user", "assistant")}
    known |= {city: word for word, city in RULE.findall(told)}
    return known.get(ASKED.findall(messages[-1].text)[-1], GUESS)


def plan(asked: str) -> str:
    """What the grader's words teach."""
    wanted = WANTED.search(asked)
    return f"Write {wanted[2]} on forms of {wanted[1]}." if wanted else "Try again with more care."


def operations(asked: str) -> list[str]:
    """AGREE with what the list says already, ADD what it does not."""
    listed = {RULE.search(text).groups(): f"{number}: {text}" for number, text in LISTED.findall(asked) if RULE.search(text)}
    facts = [(word, city) for city, word in [*WANTED.findall(asked), *SUCCEEDED.findall(asked)]]
    return [f"AGREE {listed[fact]}" if fact in listed else f"ADD: Write {fact[0]} on forms of {fact[1]}." for fact in dict.fromkeys(facts)]
