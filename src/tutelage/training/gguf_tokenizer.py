"""The tokenizer inside a GGUF as transformers' `tokenizer.json`, giving the very token ids that llama.cpp gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tutelage.errors import InputError
from tutelage.training.extra import needs_train

_CONTROL, _USER_DEFINED = 3, 4  # llama.cpp's kinds of tokens that are found in a text before it is cut into words
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LATE = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {"qwen2": f"{_CONTRACTIONS}|{_LATE % ''}", "llama-bpe": f"{_CONTRACTIONS}|{_LATE % '{1,3}'}"}
"""How a text is cut into words before its bytes are merged, by llama.cpp's name for it."""
SUPPORTED = ("gpt-2", "smollm", *_SPLITS)
_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|end_of_text|>")
"""Control tokens that end a turn, whatever else the file names as its end."""


def write_tokenizer(settings: Mapping[str, Any], template: str, folder: Path, gguf: Path) -> list[int]:
    """Write the tokenizer's files; returns the ids of the tokens that end a reply. Raises `InputError` for kinds that are not known."""
    tokens: list[str] = settings["tokenizer.ggml.tokens"]
    kinds: list[int] = settings["tokenizer.ggml.token_type"]
    _tokenizer(settings, tokens, kinds, gguf).save(str(folder / "tokenizer.json"))
    named = {
        role: tokens[settings[key]]
        for role, key in (
            ("bos_token", "tokenizer.ggml.bos_token_id"),
            ("eos_token", "tokenizer.ggml.eos_token_id"),
            ("pad_token", "tokenizer.ggml.padding_token_id"),
            ("unk_token", "tokenizer.ggml.unknown_token_id"),
        )
        if key in settings
    }
    own = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(own, indent=2, ensure_ascii=False), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8", newline="")
    ends = {number for number, token in enumerate(tokens) if token in _ENDS and kinds[number] == _CONTROL}
    return sorted(ends | {settings["tokenizer.ggml.eos_token_id"]})


def _tokenizer(settings: Mapping[str, Any], tokens: list[str], kinds: list[int], gguf: Path) -> Any:
    with needs_train("training on a GGUF"):
        from tokenizers import AddedToken, Tokenizer, decoders, models
    cut = settings.get("tokenizer.ggml.pre", "default")
    if settings.get("tokenizer.ggml.model") != "gpt2" or cut not in SUPPORTED:
        kind = f"{settings.get('tokenizer.ggml.model')}/{cut}"
        raise InputError(
            f"the tokenizer `{kind}` cannot be converted; supported are gpt2/{', gpt2/'.join(SUPPORTED)}", file=gguf, field="model"
        )
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ", 1)) for merge in settings["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=cut == "llama-bpe"))
    made.pre_tokenizer = _cutter(cut)
    made.decoder = decoders.ByteLevel()
    for code, add in ((_CONTROL, made.add_special_tokens), (_USER_DEFINED, made.add_tokens)):
        special = code == _CONTROL
        add([AddedToken(token, special=special, normalized=False) for token, own in zip(tokens, kinds, strict=True) if own == code])
    return made


def _cutter(cut: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    if cut == "gpt-2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if cut == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    words = pre_tokenizers.Split(Regex(_SPLITS[cut]), behavior="isolated")
    return pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
