"""The languages of `embeddings.py`: a small world told in made-up Latin words and, word for word, in made-up Greek ones; and its models.

Every name has a place, a colour and a food, which are told in sentences of several forms. The base reads mostly the Latin language and a
little of the Greek one; the instruct model is tuned on Latin questions about all names, and on Greek ones about some of them. Greek
questions about the other names are the test.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from tutelage.records import Message
from tutelage.training.rows import SFTRow

SPECIALS = ("<|end|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
FORMS = {
    "place": ("{name} lives in {value} .", "in {value} lives {name} .", "the home of {name} is {value} ."),
    "colour": ("{name} is all {value} .", "all {value} is {name} .", "the colour of {name} is {value} ."),
    "food": ("{name} likes {value} .", "{value} is what {name} likes .", "the food of {name} is {value} ."),
}
QUESTIONS = {"place": "the home of {name} is", "colour": "the colour of {name} is", "food": "the food of {name} is"}


@dataclass(frozen=True)
class Plan:
    """What is measured. names, of which so many are asked about in Greek when tuning; values: of each kind; share: of the sentences that
    the base reads in Greek.

    rate: of training on the text. pretrain, tune, adapt, calibrate: steps. lines: sentences of a step while the models are made.
    text: sentences to adapt by.
    """

    names: int = 20
    tuned: int = 8
    values: int = 6
    share: float = 0.2
    width: int = 64
    layers: int = 2
    pretrain: int = 900
    tune: int = 120
    lines: int = 48
    text: int = 6000
    adapt: int = 1200
    rate: float = 1e-2
    calibrate: int = 30
    seeds: int = 3


QUICK = Plan(names=8, tuned=5, values=3, width=32, layers=2, pretrain=8, tune=3, lines=8, text=120, adapt=3, calibrate=1, seeds=1)


@dataclass(frozen=True)
class World:
    """Who lives where, and the words for it. Languages are `latin` and `greek`."""

    plan: Plan
    seed: int

    @cached_property
    def words(self) -> dict[str, str]:
        """Of each word of the first language the one of the second: made up apart from it, so that spelling tells nothing."""
        fixed = sorted({word for forms in FORMS.values() for form in forms for word in form.split() if word.isalpha()})
        own = [*self.names, *(value for values in self.values.values() for value in values), *fixed]
        chance = random.Random(f"greek {self.seed}")
        return dict(zip(own, _made_up(chance, len(own), "βγδζθκλμνπρστφχ", "αεηιουω"), strict=True))

    @cached_property
    def names(self) -> list[str]:
        return self._latin[: self.plan.names]

    @property
    def tuned(self) -> list[str]:
        """The names that tuning asks about in Greek."""
        return self.names[: self.plan.tuned]

    @property
    def untuned(self) -> list[str]:
        """The others."""
        return self.names[self.plan.tuned :]

    @cached_property
    def values(self) -> dict[str, list[str]]:
        """Kind -> the values that there are."""
        size, rest = self.plan.values, self._latin[self.plan.names :]
        return {kind: rest[place * size : (place + 1) * size] for place, kind in enumerate(FORMS)}

    @cached_property
    def facts(self) -> dict[tuple[str, str], str]:
        """(name, kind) -> value."""
        chance = random.Random(f"facts {self.seed}")
        return {(name, kind): chance.choice(values) for kind, values in self.values.items() for name in self.names}

    @cached_property
    def _latin(self) -> list[str]:
        return _made_up(random.Random(f"latin {self.seed}"), self.plan.names + 3 * self.plan.values, "bdfgklmnprstvz", "aeiou")

    def said(self, text: str, language: str) -> str:
        """A Latin text in a language, after a blank, so that a word is the same token wherever it stands."""
        words = text.split(" ")
        return "".join(f" {word if language == 'latin' else self.words.get(word, word)}" for word in words)

    def sentences(self, count: int, language: str, chance: random.Random) -> list[str]:
        """True sentences."""
        facts = list(self.facts.items())
        drawn = [chance.choice(facts) for _ in range(count)]
        return [self.said(chance.choice(FORMS[kind]).format(name=name, value=value), language) for (name, kind), value in drawn]

    def rows(self, language: str, names: Sequence[str]) -> list[SFTRow]:
        """Questions about names."""
        return [
            SFTRow(
                prompt=(Message(role="user", content=self.said(question.format(name=name), language)),),
                completion=(Message(role="assistant", content=self.said(self.facts[name, kind], language)),),
            )
            for name in names
            for kind, question in QUESTIONS.items()
        ]


def _made_up(chance: random.Random, count: int, consonants: str, vowels: str) -> list[str]:
    """Different words of two or three syllables."""
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(chance.choice(consonants) + chance.choice(vowels) for _ in range(chance.choice((2, 2, 3))))] = None
    return list(found)


def make_tokenizer(texts: Sequence[str]) -> Any:
    """Byte-level BPE with a token for nearly each word of these texts."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False, min_frequency=2))
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    ends = {"eos_token": SPECIALS[0], "pad_token": SPECIALS[0]}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **ends, clean_up_tokenization_spaces=False)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def new_model(tokenizer: Any, plan: Plan, seed: int) -> Any:
    """A fresh Llama whose input and output embeddings are two tables."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=plan.width,
        intermediate_size=4 * plan.width,
        num_hidden_layers=plan.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        initializer_range=plan.width**-0.5,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


Batch = list[tuple[Sequence[int], Sequence[bool]]]
"""Rows: token ids, and where the loss falls."""


def train(model: Any, batch: Callable[[], Batch], steps: int, rate: float, stage: Any) -> float:
    """Train all weights; the mean loss of the last steps."""
    import torch

    from tutelage.training.batches import Batch as Tokens
    from tutelage.training.batches import label_logprobs, labels_of

    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.01)
    model.requires_grad_(True).train()
    losses: list[float] = []
    with stage:
        for number in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (number + 1) / 30, 0.1 + 1.8 * (1 - number / steps))
            rows = Tokens.of([(ids, labels_of(ids, mask)) for ids, mask in batch()], 0, packing=True)
            found = label_logprobs(model, {"input_ids": rows.input_ids, **rows.inputs}, rows.labels)
            loss = -found.sum() / (rows.labels[:, 1:] >= 0).sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            stage.advance(f"loss {fmean(losses[-20:]):.3f}")
    model.eval()
    return fmean(losses[-20:])


def answers(model: Any, tokenizer: Any, rows: Sequence[SFTRow]) -> list[bool]:
    """Whether the model's greedy answer to each row's question is the row's, to the letter."""
    import torch

    from tutelage.training.chat import prompt_ids

    prompts = [prompt_ids(tokenizer, row.prompt) for row in rows]
    longest = max(map(len, prompts))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    seen = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.no_grad():
        out = model.generate(
            input_ids=ids, attention_mask=seen, max_new_tokens=20, do_sample=False, pad_token_id=pad, eos_token_id=tokenizer.eos_token_id
        )
    said = tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)
    return [text == row.completion[0].text for text, row in zip(said, rows, strict=True)]
