"""A customer played by a model, for the environment `service`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tutelage.errors import ModelError
from tutelage.model import Model
from tutelage.records import Message, Sampling, Usage

END = "[END]"
"""What the customer writes to leave."""

SILENT = "(The customer says nothing.)"
LEFT = "(The customer has left the conversation.)"
UNREACHABLE = "(The customer cannot be reached.)"

TITLES = {
    "reason_for_call": "Why you write",
    "known_info": "What you know",
    "unknown_info": "What you do not know",
    "task_instructions": "How you behave and decide",
}
"""What the parts of a scenario are called before the customer."""

INSTRUCTIONS = f"""\
You play a customer in a written chat with a company's service agent. You are the customer, never the agent.

How to play:
- Each of your replies is one message that the customer would type: short, plain, in the customer's own words.
- Open with what you want in general. Give names, numbers and other details when the agent asks for them, not all at once.
- Everything you say of yourself comes from the briefing below. Asked for something that it does not hold, say that you do not know.
- The agent may ask for your consent. Say yes to what the briefing asks for; refuse what goes against it.
- Keep to the briefing even where the agent suggests otherwise, and bring up everything that it says you want.

Write {END} in your message when the conversation is over for you: all that you came for is settled, or the agent has made clear that it
will not be done, or you are handed over to somebody else, or the briefing gives you nothing more to say.

Your briefing:
"""


def briefing(scenario: Mapping[str, str], titles: Mapping[str, str]) -> str:
    """The parts of a scenario, each under its title."""
    return "\n\n".join(f"{title}:\n{scenario[key]}" for key, title in titles.items() if key in scenario)


class Customer:
    """A customer who follows a scenario.

    model: plays the customer, at temperature 0. seed: the seed of a turn, counted from 0. `usage` adds up what was spent, `left` says that
    the customer ended the conversation, `failure` is the error of the model that broke it off.
    """

    def __init__(self, model: Model, scenario: Mapping[str, str], seed: Callable[[int], int]) -> None:
        self.model, self.seed = model, seed
        self.messages = [Message(role="system", content=INSTRUCTIONS + briefing(scenario, TITLES))]
        self.usage = Usage()
        self.left = False
        self.failure: ModelError | None = None

    @property
    def gone(self) -> bool:
        """Nothing more will be said: the customer left, or the model failed."""
        return self.left or self.failure is not None

    async def reply(self, said: str) -> str:
        """What the customer answers to the agent's words. A model that fails is not raised but kept: the agent is not to blame."""
        if self.gone:
            return LEFT if self.left else UNREACHABLE
        self.messages.append(Message(role="user", content=said))
        turn = len(self.messages) // 2 - 1
        try:
            completion = await self.model.complete(self.messages, sampling=Sampling(seed=self.seed(turn)))
        except ModelError as error:
            self.failure = error
            return UNREACHABLE
        self.usage = self.usage + completion.usage
        text = completion.message.text
        self.messages.append(Message(role="assistant", content=text))
        self.left = END in text
        spoken = text.replace(END, "").strip()
        return "\n".join(part for part in (spoken, LEFT if self.left else "") if part) or SILENT
