"""The pupil of `srl.py`: a small Llama made from nothing, whose tokens are characters, and the tasks that it is shown."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any

import tutelage as tt
from common import bars
from tutelage.environments.multi_step import multi_step_tasks
from tutelage.files import write_atomically
from tutelage.learners.srl import step_task
from tutelage.learners.srl_experts import reference_experts
from tutelage.records import content_id

CLAUSE = "?"
"""What asks the pupil for one step; it reads no prose."""
PRETRAIN_RATE = 2e-3
SHORT_TASKS = 2_000
"""Of chains of up to three steps so many each; of longer ones a quarter, a sixteenth and so on."""

_TURNS = {"system": "<|s|>", "user": "<|u|>", "assistant": "<|a|>"}
_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' %}<|s|>{% elif message['role'] == 'user' %}<|u|>{% else %}<|a|>"
    "{% endif %}{{ message['content'] }}<|e|>{% endfor %}{% if add_generation_prompt %}<|a|>{% endif %}"
)
_WORDS = ("<think>", "</think>", "####", "The solution so far:")
"""Written as one token each."""


@dataclass(frozen=True)
class Plan:
    """What is measured. chain: steps of a task; pretrain: batches of short chains, of so many rows; compute: millions of tokens an arm."""

    chain: int = 6
    digits: int = 3
    train: int = 96
    test: int = 100
    width: int = 128
    layers: int = 4
    pretrain: int = 700
    rows: int = 48
    seeds: int = 5
    compute: float = 2.0

    @property
    def pupil_id(self) -> str:
        """What the pupil depends on."""
        return content_id({name: value for name, value in asdict(self).items() if name not in ("train", "test", "seeds", "compute")})


def tasks_of(plan: Plan, side: str, count: int, *, chain: int | None = None, seed: int = 0) -> tuple[tt.Task, ...]:
    """Tasks in few signs."""
    return multi_step_tasks(count, seed, steps=chain or plan.chain, digits=plan.digits, form="signs", side=side)  # type: ignore[arg-type]


def pupil_tokenizer() -> Any:
    """One token a character, for the characters that the tasks need, and `_WORDS`."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    specials = ["<|pad|>", "<|e|>", *_TURNS.values()]
    characters = sorted(set("0123456789abcdefghijklmnopqrstuvwxyz .?\n"))
    vocabulary = {token: number for number, token in enumerate([*specials, *characters, "\N{REPLACEMENT CHARACTER}"])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="\N{REPLACEMENT CHARACTER}"))  # noqa: S106 -- a token, and no password
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    inner.decoder = decoders.Fuse()
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    inner.add_tokens([AddedToken(token, special=False, normalized=False) for token in _WORDS])
    ends = {"eos_token": "<|e|>", "pad_token": "<|pad|>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **ends, clean_up_tokenization_spaces=False)
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def make_pupil(plan: Plan, folder: Path) -> dict[str, Any]:
    """Make and pre-train the pupil, unless it is there; what is known of it."""
    note = folder / "pupil.json"
    if note.is_file():
        return json.loads(note.read_text())  # type: ignore[no-any-return]
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = pupil_tokenizer()
    torch.manual_seed(0)
    heads = max(2, plan.width // 32)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=plan.width,
            intermediate_size=4 * plan.width,
            num_hidden_layers=plan.layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    begun = perf_counter()
    loss = _pretrain(model, tokenizer, plan)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    facts = {"parameters": model.num_parameters(), "pretrain_loss": loss, "pretrain_seconds": round(perf_counter() - begun, 1)}
    write_atomically(note, json.dumps(facts) + "\n")
    return facts


def _pretrain(model: Any, tokenizer: Any, plan: Plan) -> float:
    """Plain SFT on chains that are mostly shorter than the task's; the mean loss of the last 50 batches."""
    import torch

    chance = random.Random(0)
    texts = list(short_examples(plan))
    optimizer = torch.optim.AdamW(model.parameters(), lr=PRETRAIN_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    losses: list[float] = []
    with bars().stage("the pupil", plan.pretrain) as stage:
        for number in range(plan.pretrain):
            rate = min(1.0, (number + 1) / 50)
            for group in optimizer.param_groups:
                group["lr"] = PRETRAIN_RATE * rate
            loss = model(**_batch(tokenizer, chance.choices(texts, k=plan.rows))).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            stage.advance(f"loss {fmean(losses[-50:]):.3f}")
    model.eval()
    return fmean(losses[-50:])


def _batch(tokenizer: Any, examples: Sequence[tuple[str, str]]) -> dict[str, Any]:
    import torch

    rows = [tuple(tokenizer.encode(text, add_special_tokens=False) for text in example) for example in examples]
    longest = max(len(prompt) + len(reply) for prompt, reply in rows)
    ids, labels = (torch.full((len(rows), longest), fill) for fill in (tokenizer.pad_token_id, -100))
    for place, (prompt, reply) in enumerate(rows):
        whole = torch.tensor([*prompt, *reply])
        ids[place, : len(whole)] = whole
        labels[place, len(prompt) : len(whole)] = whole[len(prompt) :]
    return {"input_ids": ids, "labels": labels, "attention_mask": ids != tokenizer.pad_token_id}


def short_examples(plan: Plan) -> Iterator[tuple[str, str]]:
    """(prompt, reply) as the template writes them: whole solutions, and single steps with a thought that names what is done to what."""
    for chain in range(1, plan.chain + 1):
        count = max(8, SHORT_TASKS // 4 ** max(0, chain - 3))
        for task in tasks_of(plan, "train", min(count, 7 * 9**plan.digits // 4), chain=chain, seed=99):
            yield written([("user", task.text)]), f"{task.reference}<|e|>"
            (expert,) = reference_experts([task], tt.Agent(model="none"), last=True).found
            for row in expert.rows[:chain]:  # of a chain of one, the answer is taken for a second step
                step = step_task(row, CLAUSE)
                asked = [(message.role, message.text) for message in step.messages]
                yield written(asked), f"<think>{_thought(task, row.number)}</think>{row.target}<|e|>"


def _thought(task: tt.Task, number: int) -> str:
    """The sign of the step and the number that it changes: `u 2395`."""
    start, *signs = task.text.split()
    before = start if number == 1 else str(task.reference).splitlines()[number - 2].partition(" ")[2][1:]
    return f"{signs[number - 1][1:]} {before}"


def written(messages: Sequence[tuple[str, str]]) -> str:
    """Messages as the template writes them, up to where the assistant speaks."""
    return "".join(f"{_TURNS[role]}{text}<|e|>" for role, text in messages) + _TURNS["assistant"]
