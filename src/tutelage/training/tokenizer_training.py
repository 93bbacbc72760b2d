"""A tokenizer for a language: byte-level BPE learned from its text, in the form of an existing tokenizer.

What is kept of the old one: special and other added tokens, chat template, normalisation, the way text is cut before tokens are found, and
the decoder. Two ways, of those compared by Tikhomirov and Chernyshev (2024, arXiv:2412.21140, section 2.1):

    extend    the old vocabulary stays as it is, ids included; new merges are learned on the text as the old tokenizer writes it and come
              after all old ones. So every new token is one that is used, and text that needs none of them is written as before. (Theirs
              joins the old vocabulary with one that was learned apart, of which some tokens can never be reached.)
    replace   a vocabulary learned from the text alone

Tokens are strings of the byte-level alphabet, in which every byte has a printable character.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tutelage.errors import InputError
from tutelage.training.byte_pairs import Pair, learn_merges
from tutelage.training.corpus import Piece
from tutelage.training.extra import needs_train

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Mode = Literal["extend", "replace"]
Parts = tuple[tuple[int, ...], ...]
"""For each token, by its id, the ids of the old tokens that it is made of; empty for an id that no token has."""
LEAST = 2
"""What occurs less often is not joined to a token."""
BYTES = 256


@dataclass(frozen=True)
class Vocabulary:
    """What a byte-level BPE tokenizer knows. ordinary: tokens of text, added: special and other added tokens; both with their ids."""

    ordinary: Mapping[str, int]
    added: Mapping[str, int]
    merges: tuple[Pair, ...]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
        """Of a tokenizer. Raises `InputError` where it is no byte-level BPE."""
        state = read_state(tokenizer)
        added = {token["content"]: token["id"] for token in state["added_tokens"]}
        ordinary = {token: number for token, number in state["model"]["vocab"].items() if token not in added}
        return cls(ordinary, added, tuple((one, other) for one, other in state["model"]["merges"]))

    @cached_property
    def ids(self) -> dict[str, int]:
        """All tokens."""
        return {**self.ordinary, **self.added}

    @cached_property
    def size(self) -> int:
        """How many rows a table of embeddings needs."""
        return max(self.ids.values()) + 1


class PlainEncoder:
    """Text as ids without anything added, and with what looks like a special token written in ordinary ones."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        with needs_train("a tokenizer"):
            from tokenizers import Tokenizer
        self._inner = Tokenizer.from_str(_backend(tokenizer).to_str())
        self._inner.no_padding()
        self._inner.no_truncation()
        self._inner.encode_special_tokens = True

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        return [found.ids for found in self._inner.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        return str(self._inner.decode(list(ids), skip_special_tokens=False))


def read_state(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """A tokenizer as its tokenizer.json would have it. Raises `InputError` where it is no byte-level BPE."""
    state: dict[str, Any] = json.loads(_backend(tokenizer).to_str())
    model = state["model"]
    plain = model["type"] == "BPE" and not any(
        model.get(name) for name in ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix", "dropout")
    )
    if not plain or '"ByteLevel"' not in json.dumps(state["pre_tokenizer"]):
        raise InputError(
            f"only tokenizers of byte-level BPE can be adapted (as those of SmolLM2, Qwen and Llama 3 are), and this is one of "
            f"another kind ({model['type']}{' with byte fallback' if model.get('byte_fallback') else ''})",
            file=tokenizer.name_or_path or None,
        )
    return state


def _backend(tokenizer: PreTrainedTokenizerBase) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InputError("this tokenizer has no tokenizer.json; only byte-level BPE can be adapted", file=tokenizer.name_or_path or None)
    return backend


def _alphabet() -> list[str]:
    with needs_train("a tokenizer"):
        from tokenizers.pre_tokenizers import ByteLevel
    return sorted(ByteLevel.alphabet())


def check_same(base: PreTrainedTokenizerBase, instruct: PreTrainedTokenizerBase) -> None:
    """Raises `InputError` where two tokenizers differ in more than added tokens: then one's embeddings say nothing of the other's."""
    ours, theirs = Vocabulary.of(base), Vocabulary.of(instruct)
    added = ours.added.keys() | theirs.added.keys()
    different = sorted((ours.ordinary.keys() ^ theirs.ordinary.keys()) - added)
    reason = f"{len(different)} tokens are known to one of them only ({', '.join(map(repr, different[:3]))})" if different else ""
    if not reason and ours.merges != theirs.merges:
        reason = "they join tokens in another order"
    for part in ("normalizer", "pre_tokenizer"):
        if not reason and read_state(base)[part] != read_state(instruct)[part]:
            reason = f"their {part} differs"
    if reason:
        raise InputError(
            f"the base and the instruct model have different tokenizers: {reason}. "
            "Embeddings can be carried over only to a model that was tuned from this base",
            field="INSTRUCT",
        )


def train_tokenizer(
    old: PreTrainedTokenizerBase, texts: Iterable[str], folder: Path, *, size: int | None = None, mode: Mode = "extend"
) -> PreTrainedTokenizerBase:
    """Learn a new vocabulary from texts, write the tokenizer to a folder and load it from there.

    size: tokens of the new vocabulary in all, those added included (None: when extending up to half as many again as before, as far as the
    text gives them; when replacing as many as before). The old tokenizer must be able to write the texts (`check_lossless`). Raises
    `InputError` for a size that cannot be, a text that is too small for it, and an old tokenizer that is no byte-level BPE.
    """
    state, known = read_state(old), Vocabulary.of(old)
    _check_size(known, size, mode)
    found = (_extended if mode == "extend" else _replaced)(_backend(old), state, known, texts, size)
    old.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
    with needs_train("a tokenizer"):
        from transformers import AutoTokenizer
    new: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    if dict(Vocabulary.of(new).ids) != found["model"]["vocab"]:
        raise InputError(f"transformers reads a {type(new).__name__} otherwise than its file says; it cannot be adapted", file=folder)
    return new


def _check_size(known: Vocabulary, size: int | None, mode: Mode) -> None:
    if size is None:
        return
    if mode == "extend" and size <= known.size:
        raise InputError(
            f"extended, the vocabulary is larger than before, and {size} is not more than {known.size}; name more, or replace it",
            field="--vocabulary",
        )
    if size < BYTES + len(known.added):
        raise InputError(
            f"{size} tokens are too few: each of the {BYTES} bytes needs one, and so does each of the {len(known.added)} added tokens",
            field="--vocabulary",
        )


def _extended(backend: Any, state: dict[str, Any], known: Vocabulary, texts: Iterable[str], size: int | None) -> dict[str, Any]:
    room = known.size // 2 if size is None else size - known.size
    words = [([token.value for token in backend.model.tokenize(word)], count) for word, count in _words(backend, texts).items()]
    merges = learn_merges(words, room, least=LEAST, known=known.ids)
    if size is not None:
        _check_enough(known.size + len(merges), size)
    fresh = {one + other: known.size + place for place, (one, other) in enumerate(merges)}
    model = {
        **state["model"],
        "vocab": {**known.ids, **fresh},  # added tokens too: their ids are then looked up here and stay
        "merges": [*state["model"]["merges"], *map(list, merges)],
    }
    return {**state, "model": model}


def _words(backend: Any, texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs, as the old tokenizer cuts texts before it finds tokens."""
    found: Counter[str] = Counter()
    for text in texts:
        normal = backend.normalizer.normalize_str(text) if backend.normalizer is not None else text
        found.update(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal))
    return found


def _check_enough(found: int, size: int) -> None:
    if found < size:
        raise InputError(
            f"the text is too small for a vocabulary of {size}: it gives {found} tokens, of which each occurs at least {LEAST} times. "
            f"Give more text, or set --vocabulary to {found} or less",
            field="--vocabulary",
        )


def _replaced(backend: Any, state: dict[str, Any], known: Vocabulary, texts: Iterable[str], size: int | None) -> dict[str, Any]:
    from tokenizers import Tokenizer, models, trainers

    wanted = known.size if size is None else size
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = backend.pre_tokenizer
    if backend.normalizer is not None:
        inner.normalizer = backend.normalizer
    learning: Any = trainers.BpeTrainer(
        vocab_size=wanted - len(known.added), min_frequency=LEAST, initial_alphabet=_alphabet(), show_progress=False
    )
    inner.train_from_iterator(texts, learning)
    learned = json.loads(inner.to_str())["model"]
    added = sorted(known.added, key=lambda token: known.added[token])
    ordinary = sorted((token for token in learned["vocab"] if token not in known.added), key=lambda token: learned["vocab"][token])
    if size is not None:
        _check_enough(len(added) + len(ordinary), size)
    vocabulary = {token: number for number, token in enumerate([*added, *ordinary])}
    return {
        **state,
        "model": {**state["model"], "vocab": vocabulary, "merges": learned["merges"]},
        "added_tokens": [{**token, "id": vocabulary[token["content"]]} for token in state["added_tokens"]],
        "post_processor": _with_ids(state["post_processor"], vocabulary),
    }


def _with_ids(processor: Any, ids: Mapping[str, int]) -> Any:
    """A post-processor with the tokens that it adds under their new ids. Raises `InputError` for a kind that is not known here."""
    if processor is None or processor["type"] == "ByteLevel":
        return processor
    if processor["type"] == "Sequence":
        return {**processor, "processors": [_with_ids(one, ids) for one in processor["processors"]]}
    if processor["type"] != "TemplateProcessing":
        raise InputError(f"a tokenizer with a post-processor of kind {processor['type']} can only be extended", field="--mode")
    moved = {name: {**token, "ids": [ids[part] for part in token["tokens"]]} for name, token in processor["special_tokens"].items()}
    return {**processor, "special_tokens": moved}


def parts_of(old: PreTrainedTokenizerBase, new: Vocabulary) -> Parts:
    """What each new token is made of: itself where the old tokenizer has it, else the tokens that the old one writes it with.

    What the old one cannot write (some lack tokens for bytes that hardly occur) is made of all its ordinary tokens.
    """
    known, model = Vocabulary.of(old), _backend(old).model
    everything = tuple(known.ordinary.values())

    def written(token: str) -> tuple[int, ...]:
        return tuple(part.id for part in model.tokenize(token)) or everything

    found: list[tuple[int, ...]] = [()] * new.size
    for token, number in new.ordinary.items():
        found[number] = (known.ordinary[token],) if token in known.ordinary else written(token)
    for token, number in new.added.items():
        found[number] = (known.added[token],) if token in known.added else written(_byte_level(token))
    return tuple(found)


def _byte_level(text: str) -> str:
    from tokenizers.pre_tokenizers import ByteLevel

    pieces: Iterator[str] = (piece for piece, _ in ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text))
    return "".join(pieces)


def check_lossless(tokenizer: PreTrainedTokenizerBase, pieces: Sequence[Piece], batch: int = 1000) -> None:
    """Raises `InputError`, naming file and line, where a text does not come back from its tokens as it was."""
    encoder = PlainEncoder(tokenizer)
    for start in range(0, len(pieces), batch):
        some = pieces[start : start + batch]
        for piece, ids in zip(some, encoder([piece.text for piece in some]), strict=True):
            back = encoder.decode(ids)
            if back != piece.text:
                raise _lost(piece, back)


def _lost(piece: Piece, back: str) -> InputError:
    pairs = enumerate(zip(piece.text, back, strict=False))
    place = next((number for number, (one, other) in pairs if one != other), min(len(piece.text), len(back)))
    shown = slice(max(0, place - 10), place + 10)
    return InputError(
        f"the tokenizer cannot write this text without changing it: {piece.text[shown]!r} comes back as {back[shown]!r}. "
        "Change the text so (its normal form, NFC, is what most tokenizers keep), or leave the line out",
        file=piece.file,
        line=piece.line + piece.text.count("\n", 0, place),
    )
