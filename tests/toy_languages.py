"""Two made-up languages for tests: the same short sentences in Latin letters and, word by word, in Greek ones; and models for them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from toy_weights import SPECIALS, TEMPLATE

NAMES = ("dax", "wug", "blick", "fep", "toma", "zarn", "lorp", "gimo", "pluff", "sedi", "kiva", "norb")
PLACES = ("kelto", "sorra", "mipna", "vantu", "brusk", "olfen")
LETTERS = dict(zip("abcdefghijklmnopqrstuvwxyz", "αβγδεζηθικλμνξοπρστυφχψωϊϋ", strict=True))


def greek(text: str) -> str:
    """The same in the other language."""
    return "".join(LETTERS.get(letter, letter) for letter in text)


def home(name: str) -> str:
    return PLACES[NAMES.index(name) % len(PLACES)]


def sentences(count: int, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    forms = ("the {0} lives in {1} .", "in {1} lives the {0} .", "{1} is the home of the {0} .")
    names = chance.choices(NAMES, k=count)
    return [chance.choice(forms).format(name, home(name)) for name in names]


def byte_tokenizer(
    texts: list[str], size: int = 340, template: str | None = TEMPLATE, added: tuple[str, ...] = tuple(SPECIALS), without: str = ""
) -> Any:
    """Byte-level BPE learned from texts, with added tokens behind the others. without: letters that it has no tokens for."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(without))
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False, min_frequency=2)
    inner.train_from_iterator(texts, trainer)
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in added])
    ends = {"eos_token": added[-1], "pad_token": added[0]} if added else {}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **ends, clean_up_tokenization_spaces=False)
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


def make_model(folder: Path, tokenizer: Any, *, seed: int = 0, width: int = 32, tied: bool = True, layers: int = 2) -> Path:
    """Write a fresh Llama for a tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=width**-0.5,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
