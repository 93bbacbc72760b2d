"""Imitation with weights: where the loss falls, token for token, and a pupil that learns to ask only where memory does not know."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import tutelage as tt
from tutelage.executor import AgileExecutor
from tutelage.knowledge import Knowledge, Retrieval
from tutelage.records import Message, Task

torch = pytest.importorskip("torch", reason="extra `train` is not installed")
pytest.importorskip("trl", reason="extra `train` is not installed")
pytestmark = pytest.mark.torch

from toy_weights import SPECIALS, TEMPLATE, toy_tokenizer  # noqa: E402 -- needs the packages
from tutelage.learners.agile_imitation import AgileImitation, imitation_rows, imitation_sessions  # noqa: E402
from tutelage.learners.agile_memories import memory_entry  # noqa: E402
from tutelage.learners.agile_oracle import Plan, ShopOracle  # noqa: E402
from tutelage.training.chat import TokenRow, render_turns  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# -- where the loss falls

REASONING = tt.shop_tasks(1, 0, groups=["lamps"], kinds=["reasoning"])


def stretches(tokenizer: Any, row: TokenRow) -> list[tuple[bool, str]]:
    """The row's text, in stretches with and without loss."""
    parts: list[tuple[bool, list[int]]] = []
    for token, learned in zip(row.ids, row.mask, strict=True):
        if not parts or parts[-1][0] is not learned:
            parts.append((learned, []))
        parts[-1][1].append(token)
    return [(learned, tokenizer.decode(ids)) for learned, ids in parts]


async def shop_rows(*actions: str) -> list[Any]:
    agent = tt.Agent(model=tt.Scripted("never asked", native_tools=False), executor=AgileExecutor(actions=actions))
    training = tt.Practice(REASONING, tt.Collector(tt.ShopGrader(), environment=tt.ShopEnvironment))
    return imitation_rows(await imitation_sessions(agent, training, ShopOracle()), REASONING)


async def test_loss_falls_on_the_actions_and_nothing_else():
    tokenizer = toy_tokenizer()
    (row,) = await shop_rows("seek_advice", "reflect", "update_memory", "submit_answer")
    (rendered,) = render_turns(tokenizer, row)
    short, long = REASONING[0].reference
    rule = ShopOracle().plan(REASONING[0]).lesson
    written = stretches(tokenizer, rendered)
    assert [text for learned, text in written if learned] == [
        "seek_advice<|im_end|>",
        f"reflect {rule}<|im_end|>",
        "update_memory<|im_end|>",
        f"submit_answer {short}<|im_end|>",
    ]
    assert [text for learned, text in written if not learned][1:] == [
        f"\n<|im_start|>user\nseek_advice: {long}<|im_end|>\n<|im_start|>assistant\n",
        "\n<|im_start|>user\nreflect: update_memory keeps it.<|im_end|>\n<|im_start|>assistant\n",
        "\n<|im_start|>user\nupdate_memory: Kept.<|im_end|>\n<|im_start|>assistant\n",
        "\n",
    ]


async def test_a_cleared_context_sees_nothing_of_what_was_before():
    tokenizer = toy_tokenizer()
    first, second = await shop_rows("seek_advice", "reflect", "update_memory", "clear_context", "submit_answer")
    (one,), (other,) = render_turns(tokenizer, first), render_turns(tokenizer, second)
    assert [text for learned, text in stretches(tokenizer, one) if learned][-1] == "clear_context<|im_end|>"
    (before, said, _) = stretches(tokenizer, other)
    assert said == (True, f"submit_answer {REASONING[0].reference[0]}<|im_end|>")
    assert "<|im_start|>assistant\nseek_advice" not in before[1] and "seek_advice: " in before[1], "the advice itself is noted"


async def test_an_action_that_failed_bears_no_loss():
    script = ["sql SELECT nothing FROM nowhere", "gibberish", "submit_answer yes"]
    agent = tt.Agent(model=tt.Scripted(script, native_tools=False), executor=AgileExecutor())
    training = tt.Practice(REASONING, tt.Collector(tt.grader.as_grader(lambda task, episode: 1.0), environment=tt.ShopEnvironment))
    ((_, row),) = await AgileImitation(source="own").rows(agent, training)
    tokenizer = toy_tokenizer()
    (rendered,) = render_turns(tokenizer, row)
    assert [text for learned, text in stretches(tokenizer, rendered) if learned] == ["submit_answer yes<|im_end|>"]


# -- a pupil that learns when to ask: whether stones of a colour are let in stands in no prompt, unless memory tells it

COLOURS = dict(zip(("red", "green", "blue"), ("yes", "no", "yes"), strict=True))


def stone(number: int, colour: str) -> Task:
    said = f"Stone {number} is {colour}. Is it let in?"
    return Task(messages=(Message(role="user", content=said),), reference=COLOURS[colour], kind=colour)


TRAIN = [stone(number, colour) for number in range(8) for colour in COLOURS]
TEST = [stone(number, colour) for number in (8, 9, 10) for colour in COLOURS]


class Stones:
    """Knows of each colour whether it is let in."""

    name = "stones"

    def described(self) -> dict[str, Any]:
        return {"name": self.name}

    def plan(self, task: Task) -> Plan:
        lesson = f"{task.kind} means {task.reference}"
        return Plan(answer=str(task.reference), needs=(lesson,), advice=lesson, lesson=lesson)


PIECE = re.compile(r" ?\w+|\W")


def make_pupil(folder: Path, texts: Iterable[str]) -> Path:
    """Random weights whose tokens are words; a text that stands in every prompt is one token, so that sessions are short."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    texts = sorted(set(texts), key=len, reverse=True)
    whole = [text for text in texts if len(text) > 60]
    vocabulary = [
        *SPECIALS,
        "?",
        *whole,
        *sorted({piece for text in [*texts, "user\nassistant\nsystem"] for piece in PIECE.findall(text)}),
        "\n",
    ]
    inner = Tokenizer(models.WordLevel({token: place for place, token in enumerate(dict.fromkeys(vocabulary))}, unk_token="?"))
    pattern = "|".join([*map(re.escape, whole), PIECE.pattern])
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    inner.decoder = decoders.Fuse()
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4}
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **sizes, **ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


EXECUTOR = AgileExecutor(actions=("seek_advice", "update_memory", "submit_answer"), retrieval=Retrieval(choose="text", k=1))


def stone_practice(folder: Path | None = None, tasks: Any = TRAIN) -> tt.Practice:
    advisor = tt.ReferenceAdvisor([*TRAIN, *TEST], say=lambda task: Stones().plan(task).advice)
    return tt.Practice(tasks, tt.Collector(tt.Exact(), advisor=advisor), folder=folder)


async def texts_seen() -> list[str]:
    """All that is ever read or written in taught sessions, the words that stand in every prompt apart from the others."""
    agent = tt.Agent(model=tt.Scripted("never asked", native_tools=False), executor=EXECUTOR)
    sessions = await imitation_sessions(agent, stone_practice(tasks=[*TRAIN, *TEST]), Stones())
    texts = [message.text for row in imitation_rows(sessions, [*TRAIN, *TEST]) for message in (*row.prompt, *row.completion)]
    return [part for text in texts for part in re.split(r"\n(?=Stone|Question|Known|</unt|retr)|\n\n", text)]


async def test_a_pupil_learns_to_ask_only_where_memory_does_not_know(tmp_path):
    pupil = make_pupil(tmp_path / "pupil", await texts_seen())
    agent = tt.Agent(model=f"hf:{pupil}", executor=EXECUTOR, sampling=tt.Sampling(max_tokens=24), limits=tt.Limits(steps=5))
    training = stone_practice(tmp_path)
    learner = AgileImitation(
        Stones(),
        sessions_per_task=8,
        memory_size=[0, 3],
        num_train_epochs=40,
        learning_rate=5e-3,
        per_device_train_batch_size=16,
        lora=None,
        validation=0,
    )
    learned = await learner.learn(agent, training)
    assert training.facts["sessions_dropped"] == 0 and set(training.facts["sessions_by_branch"]) == {"known", "advice"}
    asked = {"nothing": 0, "another": 0, "its own": 0}
    for task in TEST:
        another = stone(1, next(colour for colour in COLOURS if colour != task.kind))
        for memory, entries in {"nothing": (), "another": (another,), "its own": (stone(1, task.kind),)}.items():
            known = Knowledge(exemplars=tuple(memory_entry(entry, Stones().plan(entry).lesson) for entry in entries))
            (session,) = await stone_practice(tasks=TEST).collect(learned.but(knowledge=known), [task])
            asked[memory] += bool(session.episode.advice)
    assert asked["nothing"] == 9 and asked["its own"] == 0
    assert asked["another"] >= 8, "knowledge of something else does not help"
