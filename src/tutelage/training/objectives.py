"""What supervised training has a model predict, and from what: the objectives of SFT, told apart on the path-star task.

    standard     each token of the answer, from the prompt and the tokens before it (teacher forcing)
    reversed     the same from the answer's last token to its first
    teacherless  all tokens of the answer from the prompt alone: each of its tokens that the model would read is a dummy
    masked       as standard, with a random share of the answer's tokens that the model reads replaced by a mask

`reversed` and `teacherless` are those of Bachmann & Nagarajan (2024, arXiv:2403.06963; teacherless after Monea et al. 2023,
arXiv:2311.13581); hiding tokens of the answer at random is one of the remedies of Frydenlund (2025, arXiv:2503.10542). In all of them the
targets are the answer's own tokens, and the loss is the mean over them: an objective changes what is read, never how the loss is worked
out. So rows share lines of a batch and prefixes as they always do.

Different here:

- `teacherless` and `masked` are learned from a share of the rows at a time (`objective_share`), drawn anew in each epoch, and from the
  others the standard way. In expectation that is the weighted sum of both losses, at the price of one; and an agent, whose reply is
  sampled token by token, reads true tokens there, so that it must have learned from such.
- A reply in reverse says so: it begins with a token of its own, as infilling models mark theirs, and `reading_order` puts the reply back,
  token for token. Nothing else has to know, and what is learned later from tokens as sampled, or the usual way, stays right.
- The mask, or dummy, is a token that the tokenizer has and no conversation uses; it needs no new embedding, and what was learned is worn
  wherever other weights are.
- A turn that is learned has a row of its own, in which the turns before it stand as the agent will read them.

No torch is needed here.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from tutelage.errors import InputError
from tutelage.suggest import unknown
from tutelage.training.chat import TokenRow
from tutelage.training.supervised_job import REVERSED, SFTSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tutelage.agent import Agent

HIDING = frozenset({"teacherless", "masked"})
"""Objectives under which the model does not read all of the answer's tokens."""

_OPTIONS = {"objective_share": HIDING, "mask_rate": frozenset({"masked"}), "mask_token": HIDING}
"""Which objectives an option belongs to."""


def check_objective(settings: SFTSettings, *, sampled: bool = False) -> None:
    """Raise `InputError` for an option that the objective does not have, and for answers that are cut off and reversed.

    sampled: whether replies will be sampled token by token, as agents' are.
    """
    for option, objectives in _OPTIONS.items():
        if option in settings.model_fields_set and settings.objective not in objectives:
            listed = " or ".join(sorted(objectives))
            raise InputError(f"{option} belongs to the objective {listed}, and here it is {settings.objective}", field=option)
    if settings.objective == "reversed" and settings.truncate:
        raise InputError(
            "of a row that is cut at its end the answer's last words are missing, which come first in reverse", field="truncate"
        )
    if sampled and settings.objective == "teacherless" and settings.objective_share == 1:
        raise InputError(
            "replies are sampled token by token, which an agent that has never read its own words cannot do; learn a part of the rows "
            "teacherless (0.5, say)",
            field="objective_share",
        )


def check_replies(settings: SFTSettings, agent: Agent) -> None:
    """Raise `InputError` for an agent whose replies would not be understood: `hf` models put those in reverse back in order, as a whole."""
    if settings.objective != "reversed":
        return
    name = agent.load().name
    if not name.startswith("hf:"):
        raise InputError(f"replies in reverse are put back in order by hf models only, and the agent's is {name}", field="objective")
    if agent.sampling.stop:
        raise InputError("a reply in reverse comes to its stop strings from behind; take them out of the sampling", field="objective")


@dataclass(frozen=True)
class Objective:
    """An objective for the rows of one tokenizer. token: the mask, or what a reversed answer begins with; None for `standard`.

    share: of the rows, in expectation; rate: of a row's tokens that are hidden. seed, epoch and row decide every draw, so that an
    interrupted training draws the same.
    """

    name: str = "standard"
    token: int | None = None
    share: float = 1.0
    rate: float = 1.0
    seed: int = 0

    @classmethod
    def of(cls, settings: SFTSettings, tokenizer: PreTrainedTokenizerBase, seed: int) -> Objective:
        """As the settings say. Raises `InputError` where they do not go together, or the tokenizer lacks the token that is needed."""
        check_objective(settings)
        name = settings.objective
        if name == "reversed":
            return cls(name, _marker(tokenizer, needed=True), seed=seed)
        if name not in HIDING:
            return cls(name, seed=seed)
        rate = 1.0 if name == "teacherless" else settings.mask_rate
        return cls(name, spare_token(tokenizer, settings.mask_token), settings.objective_share, rate, seed)

    def rows(self, rows: Sequence[TokenRow]) -> list[TokenRow]:
        """The rows to train on, before any draw."""
        if self.name == "standard":
            return list(rows)
        turns = (turn for row in rows for turn in _turns(row))
        return [self._turned(turn) if self.name == "reversed" else turn for turn in turns]

    def reads(self, ids: Sequence[int], learned: Sequence[bool], *, epoch: int, row: int) -> list[int]:
        """What the model reads in the place of a row's `ids` (T,). learned (T,): which of them it has to predict. row: its number."""
        if self.name not in HIDING:
            return list(ids)
        draws = random.Random(f"{self.name}/{self.seed}/{epoch}/{row}")
        if draws.random() >= self.share:
            return list(ids)
        hidden = [own and draws.random() < self.rate for own in learned]
        return [self.token if out and self.token is not None else token for token, out in zip(ids, hidden, strict=True)]

    def told(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, JsonValue]:
        """For the facts of a training."""
        if self.name == "standard":
            return {}
        token = None if self.token is None else str(tokenizer.convert_ids_to_tokens(self.token))
        own: dict[str, JsonValue] = {"objective": self.name, "objective_token": token}
        return {**own, "objective_share": self.share, "mask_rate": self.rate} if self.name in HIDING else own

    def _turned(self, row: TokenRow) -> TokenRow:
        """The answer in reverse behind the marker; its last token, which ends the turn, stays the last."""
        begin = row.mask.index(True)
        *answer, end = row.ids[begin:]
        marked = (*([] if self.token is None else [self.token]), *answer[::-1], end)
        return TokenRow((*row.ids[:begin], *marked), (*row.mask[:begin], *[True] * len(marked)))


def _turns(row: TokenRow) -> Iterator[TokenRow]:
    """One row for each stretch that is learned, which ends it."""
    begin = None
    for place, learned in enumerate([*row.mask, False]):
        if learned and begin is None:
            begin = place
        elif not learned and begin is not None:
            yield TokenRow(row.ids[:place], (*[False] * begin, *[True] * (place - begin)))
            begin = None


def spare_token(tokenizer: PreTrainedTokenizerBase, named: str | None = None) -> int:
    """A token that no conversation uses: the one `named`, the tokenizer's own mask, or else the last of its special tokens that neither
    begins or ends a text nor stands in the chat template.

    Raises `InputError` where there is none.
    """
    if named is not None:
        return _known(tokenizer, named)
    if tokenizer.mask_token_id is not None:
        return int(tokenizer.mask_token_id)
    template = str(tokenizer.chat_template or "")
    taken = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    specials: dict[int, Any] = {number: token for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    spare = [number for number, token in specials.items() if number not in taken and token.content not in template]
    if not spare:
        raise InputError(
            "the tokenizer has no special token to spare for hidden words; name a token that no text holds", field="mask_token"
        )
    return max(spare)


def _known(tokenizer: PreTrainedTokenizerBase, named: str) -> int:
    vocabulary = tokenizer.get_vocab()
    if named not in vocabulary:
        specials = [token.content for token in tokenizer.added_tokens_decoder.values()]
        raise InputError(unknown("a token of the model", named, specials), field="mask_token")
    return int(vocabulary[named])


def reading_order(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """A reply's tokens as they are read: one that begins with the marker of reversed replies is put back in order, without it."""
    return reading_order_of(ids, _marker(tokenizer))


def reading_order_of(ids: Sequence[int], marker: int | None) -> list[int]:
    """As `reading_order`, by the marker's own number (None: there is none)."""
    return list(ids[:0:-1]) if marker is not None and ids and ids[0] == marker else list(ids)


def _marker(tokenizer: PreTrainedTokenizerBase, *, needed: bool = False) -> int | None:
    found: int | None = tokenizer.added_tokens_encoder.get(REVERSED)
    if found is None and needed:
        raise InputError(f"the tokenizer lacks {REVERSED}; make it with `tokenizer_for(base, settings.special_tokens)`", field="objective")
    return found
