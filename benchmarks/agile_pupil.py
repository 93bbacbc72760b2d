"""The pupil of `agile.py`: a small Llama made from nothing, whose language is the shop's (`agile_vocabulary.py`).

It learns to act, and not when to ask, from sessions in shops that no arm ever sees: in half of them advice is sought, in the others not,
whatever is known. So it can look a value up, apply a rule that it is shown, keep what an expert says, and guess as well as can be guessed
where it knows no rule. The sessions run through the real executor and environment, also with some of the actions taken away.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any

import tutelage as tt
from agile_shops import Plan, executor, practice_of, shop
from agile_vocabulary import END, TURNS, make_tokenizer, vocabulary
from common import bars
from tutelage.environments.shop import ShopEnvironment
from tutelage.executor.prompts import NOTHING_KNOWN
from tutelage.files import write_atomically
from tutelage.learners.agile_imitation import Memories, imitation_rows, imitation_sessions
from tutelage.learners.agile_oracle import ShopOracle
from tutelage.records import Sampling
from tutelage.screening import fence
from tutelage.training.rows import SFTRow

RATE = 3e-3
ASKS = 0.4
"""Of the practice sessions so many seek advice, at random."""
VARIANTS: tuple[tuple[str, ...], ...] = ((), (), (), ("reflection",), (), (), ("memory",), (), ("advice",), (), (), ("tools",))
"""What the shops that the pupil is made with do without, in turns: a third of them does without something, as some arms do."""
SAMPLED = 1_000
"""So many sessions the vocabulary is read from."""
Encoded = tuple[list[int], list[bool]]
ROOM = 24
"""Tokens of one action, at most."""


def agent_of(model: Any, price: float, without: Sequence[str] = (), **changes: Any) -> tt.Agent:
    """An agent of this benchmark. A session takes five actions at most, and one more that fails."""
    return tt.Agent(
        model=model, executor=executor(price, without, **changes), limits=tt.Limits(steps=6), sampling=Sampling(max_tokens=ROOM)
    )


def practice_rows(plan: Plan) -> list[SFTRow]:
    """The sessions that the pupil is made with, in as many shops as the plan says."""
    found: list[SFTRow] = []
    with bars().stage("sessions to practise on", plan.practice) as stage:
        for number in range(plan.practice):
            found += asyncio.run(shop_rows(plan, number))
            stage.advance()
    return found


async def shop_rows(plan: Plan, number: int) -> list[SFTRow]:
    """One shop's sessions; the price, which the prompt names, is another in each."""
    tasks, without = shop(plan, "practice", number), VARIANTS[number % len(VARIANTS)]
    price = (number % 5 + 1) / 10
    agent = agent_of(tt.Scripted("", native_tools=False), price, without)
    practice = practice_of(tasks, without=without, seed=number)
    memories = Memories(size=(0, 8), known=0.7)
    sessions = await imitation_sessions(agent, practice, ShopOracle(), memories=memories, random_advice=ASKS, seed=number)
    return imitation_rows(sessions, tasks)


def make_pupil(plan: Plan, folder: Path) -> dict[str, Any]:
    """Make and train the pupil, unless it is there; what is known of it."""
    note = folder / "pupil.json"
    if note.is_file():
        return json.loads(note.read_text())  # type: ignore[no-any-return]
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    begun = perf_counter()
    rows = practice_rows(plan)
    sampled = perf_counter()
    tokenizer = pupil_tokenizer(plan, rows)
    torch.manual_seed(0)
    heads = max(2, plan.width // 32)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=plan.width,
        intermediate_size=4 * plan.width,
        num_hidden_layers=plan.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        initializer_range=plan.width**-0.5,  # wide enough that attention finds what to copy within a few hundred batches
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    encoded = encode(tokenizer, rows)
    trained = perf_counter()
    loss = _train(model, encoded, tokenizer.pad_token_id, plan)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    facts = {
        "parameters": model.num_parameters(),
        "vocabulary": len(tokenizer),
        "sessions": len(rows),
        "tokens_a_session": round(fmean(len(ids) for ids, _ in encoded), 1),
        "seconds_sessions": round(sampled - begun, 1),
        "seconds_training": round(perf_counter() - trained, 1),
        "loss": loss,
    }
    write_atomically(note, json.dumps(facts) + "\n")
    return facts


def pupil_tokenizer(plan: Plan, rows: Sequence[SFTRow]) -> Any:
    """The vocabulary of these sessions; what the executor and the shop always say is one token."""
    sampled = rows[:: max(1, len(rows) // SAMPLED)]
    texts = [message.text for row in sampled for message in (*row.prompt, *row.completion)]
    systems = {message.text for row in rows for message in row.prompt if message.role == "system"}
    openings = {ShopEnvironment().reset(task) for task in shop(plan, "practice", 0)}
    before, after = fence("|", "memory").split("|")
    frame = (f"\n\nretrieve_memory: {before}Question: ", "\nKnown: ", "\n\nQuestion: ", after, f"\n\nretrieve_memory: {NOTHING_KNOWN}")
    return make_tokenizer(vocabulary(texts, [*sorted(systems), *sorted(openings), *frame], least=3))


def encode(tokenizer: Any, rows: Sequence[SFTRow]) -> list[Encoded]:
    """(token ids, where the loss falls) of each session, as the chat template writes it."""

    @cache
    def ids_of(role: str, text: str) -> tuple[int, ...]:
        ids = tokenizer.encode(f"{TURNS[role]}{text}{END}", add_special_tokens=False)
        if tokenizer.unk_token_id in ids:
            raise ValueError(f"the vocabulary does not know all characters of {text!r}")
        return tuple(ids)

    found: list[Encoded] = []
    for row in rows:
        ids: list[int] = []
        mask: list[bool] = []
        for number, message in enumerate((*row.prompt, *row.completion)):
            own = ids_of(message.role, message.text)
            says = number >= len(row.prompt) and message.role == "assistant"
            ids += own
            mask += [False, *[says] * (len(own) - 1)]
        found.append((ids, mask))
    return found


def _train(model: Any, encoded: Sequence[Encoded], pad: int, plan: Plan) -> float:
    """Plain SFT, short sessions first; the mean loss of the last 50 batches."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.01)
    losses: list[float] = []
    batches = _batches(encoded, plan)
    model.train()
    with bars().stage("the pupil", plan.pretrain) as stage:
        for number in range(plan.pretrain):
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1.0, (number + 1) / 50, 0.1 + 1.8 * (1 - number / plan.pretrain))
            loss = model(**_padded(next(batches), pad)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            stage.advance(f"loss {fmean(losses[-50:]):.3f}")
    model.eval()
    return fmean(losses[-50:])


def _batches(encoded: Sequence[Encoded], plan: Plan) -> Iterator[list[Encoded]]:
    """Batches without end. The first fifth is drawn from the shorter half of the sessions, in which copying is learned sooner."""
    chance = random.Random(0)
    ranked = sorted(encoded, key=lambda row: len(row[0]))
    short = ranked[: len(ranked) // 2]
    for number in range(plan.pretrain):
        yield chance.choices(short if number < plan.pretrain / 5 else ranked, k=plan.rows)


def _padded(rows: Sequence[Encoded], pad: int) -> dict[str, Any]:
    import torch

    longest = max(len(ids) for ids, _ in rows)
    ids, labels = (torch.full((len(rows), longest), fill) for fill in (pad, -100))
    for place, (own, mask) in enumerate(rows):
        ids[place, : len(own)] = torch.tensor(own)
        labels[place, : len(own)] = torch.where(torch.tensor(mask), torch.tensor(own), -100)
    return {"input_ids": ids, "labels": labels, "attention_mask": ids != pad}
