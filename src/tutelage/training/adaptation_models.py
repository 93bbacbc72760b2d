"""The models of an adaptation: finding a base, checking that one was tuned from the other, and writing what came of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.errors import InputError, StoreError
from tutelage.records import content_id
from tutelage.training.base import Base, DType, base_name, find_base, load_tokenizer, without_bars
from tutelage.training.tokenizer_training import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHAPE = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
NEWLINE = "\N{LATIN CAPITAL LETTER C WITH DOT ABOVE}"
"""The token of a line's end in the byte-level alphabet."""


def find_pretrained(which: str) -> Base:
    """As `find_base`, but a folder needs no chat template: few models that are not tuned have one."""
    folder = Path(which).expanduser()
    if not folder.is_dir() or _has_template(folder) or not (folder / "tokenizer.json").is_file():
        return find_base(which)
    name = base_name(which)
    tokenizer_id = content_id((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return Base(folder.resolve().name, folder.absolute(), name.rpartition("@")[2], tokenizer_id, "")


def _has_template(folder: Path) -> bool:
    return (folder / "chat_template.jinja").is_file() or "chat_template" in _config(folder, "tokenizer_config.json")


def _config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as wrong:
        raise InputError(f"this file cannot be read ({wrong})", file=folder / name) from None
    return found if isinstance(found, dict) else {}


def check_tuned_from(base: Base, instruct: Base) -> None:
    """Raises `InputError` where a model's weights are quantised, or the two are of different shapes, with what differs."""
    ours, theirs = _config(base.folder), _config(instruct.folder)
    for which, config, field in ((base, ours, "BASE"), (instruct, theirs, "INSTRUCT")):
        if config.get("quantization_config"):
            raise InputError(
                "the weights are quantised, and embeddings cannot be put into them; name the folder of the original weights",
                file=which.folder,
                field=field,
            )
    different = [f"{name} {ours.get(name)} and {theirs.get(name)}" for name in _SHAPE if ours.get(name) != theirs.get(name)]
    if different:
        raise InputError(
            f"the instruct model was not tuned from this base: {'; '.join(different)}. Name the base that it was made from",
            field="INSTRUCT",
        )
    for which, config in ((base, ours), (instruct, theirs)):
        size = Vocabulary.of(load_tokenizer(which)).size
        if size > config.get("vocab_size", size):
            raise InputError(f"the tokenizer has ids up to {size - 1}, and the model {config['vocab_size']} rows", file=which.folder)


def separator_of(base: PreTrainedTokenizerBase, instruct: PreTrainedTokenizerBase) -> str:
    """The token that stands before a text: the base's own beginning or end of text, where both know it, else a line's end."""
    ours, theirs = Vocabulary.of(base).ids, Vocabulary.of(instruct).ids
    wanted = (base.bos_token, base.eos_token, instruct.bos_token, instruct.eos_token)
    return next((str(token) for token in wanted if token in ours and token in theirs), NEWLINE)


def stored_dtype(base: Base) -> DType:
    """What a folder's weights are written in; float32 where it does not say."""
    config = _config(base.folder)
    said = config.get("dtype") or config.get("torch_dtype")
    return said if said in ("bfloat16", "float16") else "float32"


def moved_ids(model: Any, old: Mapping[str, int], new: Mapping[str, int]) -> None:
    """Put the ids of the ends of a text that a model's settings name to where their tokens are now; what is gone becomes None."""
    names = {number: token for token, number in old.items()}

    def moved(value: Any) -> Any:
        if isinstance(value, list):
            return [one for one in map(moved, value) if one is not None] or None
        return new.get(names.get(value, "")) if isinstance(value, int) else value

    for config in (model.config, getattr(model, "generation_config", None)):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if getattr(config, name, None) is not None:
                setattr(config, name, moved(getattr(config, name)))


def write_model(model: Any, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """Write a folder that transformers loads, whole or not at all, and check that its tokenizer comes back as it is.

    Raises `StoreError` where it cannot be written, `InputError` where the tokenizer does not come back.
    """
    with whole_folder(out) as folder:
        with without_bars():
            model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        config = _config(folder)
        for name in ("_name_or_path", "quantization_config"):
            config.pop(name, None)
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        again = load_tokenizer(Base("", folder, "", "", ""))
        if again.backend_tokenizer.to_str() != tokenizer.backend_tokenizer.to_str():
            raise InputError(f"transformers reads tokenizers of {model.config.model_type} in a way of its own, and this one is lost so")


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder that appears under its name once all is written, in place of one that was there. Raises `StoreError`."""
    beside = out.with_name(f".{out.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        yield beside
        shutil.rmtree(out, ignore_errors=True)
        beside.rename(out)
    except OSError as failed:
        raise StoreError(f"{out} cannot be written: {failed}. Free some space, then run again to go on") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
