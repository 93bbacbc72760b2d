"""Learned weights, saved and put on again: LoRA as PEFT writes it, or a whole model.

A LoRA folder loads with plain `peft.PeftModel.from_pretrained(base_model, FOLDER)`, a full one with
`AutoModelForCausalLM.from_pretrained(FOLDER)`. Tokens that training added are supported where their rows are trained as peft has it
(`modules_to_save` for the embeddings, or `trainable_token_indices`): the tokenizer that knows them then lies in the adapter's folder,
and its rows are part of the adapter. It stays an adapter for the base's own tokenizer and template.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import JsonValue, TypeAdapter, ValidationError

from tutelage.adapter import MANIFEST, Adapter, adapter_id, check_base, read_adapter, stored_tensors, verify
from tutelage.errors import InputError, StoreError
from tutelage.training.base import PROCESSOR_FILES, Base, load_causal_lm, load_tokenizer, without_bars
from tutelage.training.extra import needs_train

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["check_fits", "load_adapter", "save_adapter", "save_lora", "tokenizer_folder", "verify"]

_TOKENIZER = "tokenizer.json"
_FACTS: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])


def save_adapter(
    model: Any, base: Base, out: Path, *, facts: Mapping[str, JsonValue], tokenizer: PreTrainedTokenizerBase | None = None
) -> Adapter:
    """Save what was learned on top of `base` to OUT/ID, whole or not at all; the same weights saved again are there already.

    model: a PeftModel (its active adapter is saved) or a plain PreTrainedModel (all of it). facts: how it was made, for people; no part of
    the id. tokenizer: where training added tokens to the base's, and for a plain model. Raises `InputError` for facts that are no JSON, a
    model that is no language model or has weights that are not finite, `StoreError` where it cannot be written.
    """
    kind: Literal["lora", "full"] = "lora" if hasattr(model, "peft_config") else "full"

    def write(folder: Path) -> None:
        _write_weights(model, base, folder, kind)
        _write_tokenizer(model, base, folder, kind, tokenizer)

    belongs = {"base": base.base_id, "base_name": base.name, "tokenizer": base.tokenizer_id, "template": base.template_id}
    return _save(out, kind, belongs, facts, write)


def save_lora(
    tensors: Mapping[str, Any], config: Mapping[str, Any], beside: Adapter, out: Path, *, facts: Mapping[str, JsonValue]
) -> Adapter:
    """Save LoRA weights at OUT/ID as `save_adapter` does, for the very base, tokenizer and template of another adapter.

    tensors: by peft's names. config: peft's, as JSON takes it. Raises `InputError` for weights that are not finite, `StoreError`.
    """
    belongs = {"base": beside.base, "base_name": beside.base_name, "tokenizer": beside.tokenizer, "template": beside.template}
    return _save(out, "lora", belongs, facts, lambda folder: _write_tensors(tensors, config, folder))


def _save(
    out: Path, kind: Literal["lora", "full"], belongs: Mapping[str, str], facts: Mapping[str, JsonValue], write: Callable[[Path], None]
) -> Adapter:
    """belongs: base, base_name, tokenizer and template of the adapter. write: its weights, and what else is needed, into a folder."""
    facts = _checked_facts(facts)
    try:
        out.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=".saving-", dir=out))
        try:
            write(beside)
            return _settle(beside, out, kind, belongs, facts)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as failed:
        raise StoreError(f"the adapter cannot be written to {out}: {failed}. Free some space or choose another folder") from None


def load_adapter(model: PreTrainedModel, adapter: Adapter, name: str = "default", *, trainable: bool = False) -> Any:
    """The model with the adapter on: a PeftModel whose adapter is called `name`, or for a full one the model's own weights replaced.

    model: a fresh base, or a PeftModel that is to have one more adapter. Its embeddings grow where the adapter brings tokens. Raises
    `InputError` where the adapter's files are not those that were saved. Whether it fits is for `check_fits` to say.
    """
    verify(adapter)
    _grow_embeddings(model, adapter)
    if adapter.kind == "full":
        return _with_weights(model, Path(adapter.folder))
    with needs_train("an adapter on a model of transformers"):
        import peft
    if isinstance(model, peft.PeftModel):
        model.load_adapter(adapter.folder, name, is_trainable=trainable)
        model.set_adapter(name)
        return model
    return peft.PeftModel.from_pretrained(model, adapter.folder, adapter_name=name, is_trainable=trainable)


def check_fits(adapter: Adapter, base: Base) -> None:
    """Raises `InputError` with the reason where the adapter was trained on another base, tokenizer or chat template."""
    check_base(adapter, base.name, base.base_id)
    for what, trained_with, has in (
        ("tokenizer", adapter.tokenizer, base.tokenizer_id),
        ("chat template", adapter.template, base.template_id),
    ):
        if trained_with != has:
            raise InputError(
                f"the adapter was trained with another {what} ({trained_with}) than {base.name} has ({has}); "
                "its prompts would not be those that it learned from. Use the files that it was trained with, or train anew",
                file=adapter.folder,
                field="adapter",
            )


def merge_to_folder(adapter: Adapter, base: Base, out: Path, *, dtype: Literal["float16", "bfloat16", "float32"] = "float16") -> Path:
    """Write base and adapter as one model to a folder that transformers, vLLM and others load, whole or not at all.

    Raises `InputError` where the adapter is not the base's or was damaged, or where `out` is there already, `StoreError`.
    """
    check_fits(adapter, base)
    if out.exists():
        raise InputError("this is there already; name a folder that is not", file=out, field="--out")
    model = load_adapter(load_causal_lm(base, "float32", "cpu"), adapter)
    model = (model.merge_and_unload() if adapter.kind == "lora" else model).to(getattr(_import_torch(), dtype))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=".merging-", dir=out.parent))
        try:
            with _full_disk_is_named():
                _write_model(model, beside)
            _tokenizer_of(adapter, base).save_pretrained(beside)
            _open_to_others(beside)
            beside.rename(out)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as failed:
        raise StoreError(f"the model cannot be written to {out}: {failed}. Free some space or choose another folder") from None
    return out


def _tokenizer_of(adapter: Adapter, base: Base) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    own = tokenizer_folder(adapter)
    return load_tokenizer(base) if own is None else AutoTokenizer.from_pretrained(str(own), local_files_only=True)


def _import_torch() -> Any:
    with needs_train("merging an adapter"):
        import torch
    return torch


def _open_to_others(folder: Path) -> None:
    """Give a folder that was made as a private temporary one the usual permissions."""
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)


def tokenizer_folder(adapter: Adapter) -> Path | None:
    """Where the tokenizer lies that knows the tokens which training added; None where the base's own is to be used."""
    folder = Path(adapter.folder)
    return folder if (folder / _TOKENIZER).is_file() else None


def _checked_facts(facts: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    try:
        return _FACTS.validate_python(dict(facts), strict=True)
    except ValidationError as invalid:
        place = ".".join(map(str, invalid.errors()[0]["loc"][:1]))
        raise InputError("the facts recorded with an adapter must be plain JSON", field=f"facts.{place}") from None


def _write_weights(model: Any, base: Base, folder: Path, kind: str) -> None:
    if kind == "lora":
        _write_lora(model, base, folder)
        return
    with _full_disk_is_named():
        _write_model(model, folder)


@contextmanager
def _full_disk_is_named() -> Iterator[None]:
    """What safetensors says where it cannot write becomes an `OSError`, as other writers raise it."""
    with needs_train("saving weights"):
        from safetensors import SafetensorError
    try:
        yield
    except SafetensorError as failed:
        raise OSError(str(failed)) from None


def _write_lora(model: Any, base: Base, folder: Path) -> None:
    """As `PeftModel.save_pretrained` does, without its model card, names of this machine and looks at a hub."""
    with needs_train("an adapter on a model of transformers"):
        from peft.utils import get_peft_model_state_dict

    name = model.active_adapter
    config = model.peft_config[name]
    if str(getattr(config.peft_type, "value", config.peft_type)) != "LORA":
        raise InputError(f"adapters are LoRA; this one is {config.peft_type}", field="peft_type")
    tensors = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    said = {**config.to_dict(), "base_model_name_or_path": base.name, "inference_mode": True, "revision": None, "auto_mapping": None}
    _write_tensors(tensors, said, folder)


def _write_tensors(tensors: Mapping[str, Any], config: Mapping[str, Any], folder: Path) -> None:
    with needs_train("an adapter on a model of transformers"):
        from safetensors.torch import save_file
    own = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
    _refuse_not_finite(own)
    with _full_disk_is_named():
        save_file(own, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(_plain(config), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_model(model: Any, folder: Path) -> None:
    if not hasattr(model, "save_pretrained"):
        raise InputError(f"a PeftModel or a transformers model is saved, and this is a {type(model).__name__}")
    _refuse_not_finite(model.state_dict())
    with without_bars():
        model.save_pretrained(folder, safe_serialization=True)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for name in ("_name_or_path", "quantization_config"):  # a path of this machine; what the base's file once was
        config.pop(name, None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _refuse_not_finite(tensors: Mapping[str, Any]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise InputError(f"the weights diverged: {name} holds NaN or infinity; train with a lower learning_rate", field="learning_rate")


def _plain(value: Any) -> Any:
    """As JSON takes it, and the same in every process: sets sorted, enumerations by their value."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(_plain, value))
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return getattr(value, "value", value)


def _write_tokenizer(model: Any, base: Base, folder: Path, kind: str, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """The tokenizer of a whole model; of LoRA weights only where it knows more tokens than the base's. Refuses rows that would be lost."""
    rows = model.get_input_embeddings().weight.shape[0]
    config = json.loads((base.folder / "config.json").read_text(encoding="utf-8"))
    grown = rows > int(config["vocab_size"] if "vocab_size" in config else config["text_config"]["vocab_size"])
    if grown and tokenizer is None:
        raise InputError("training added tokens, and the tokenizer that knows them was not given", field="tokenizer")
    if kind == "full":
        (tokenizer or load_tokenizer(base)).save_pretrained(folder)
        for file in (base.folder / name for name in PROCESSOR_FILES):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
    elif tokenizer is not None and len(tokenizer) > len(load_tokenizer(base)):
        if grown and not _holds_rows(stored_tensors(folder)):
            raise InputError(
                "training added tokens whose rows are no part of the adapter; give LoRA modules_to_save=['embed_tokens', 'lm_head'] "
                "or trainable_token_indices",
                field="modules_to_save",
            )
        tokenizer.save_pretrained(folder)


def _holds_rows(names: Iterable[str]) -> bool:
    """Whether the rows of added tokens are there, in the embeddings and in the output layer (peft trains tied rows together)."""
    own = " ".join(names)
    return "trainable_tokens_delta" in own or ("embed_tokens.weight" in own and "lm_head.weight" in own)


def _settle(beside: Path, out: Path, kind: Literal["lora", "full"], belongs: Mapping[str, str], facts: dict[str, JsonValue]) -> Adapter:
    """Name the folder by what is in it and put it in its place, where the same may lie already."""
    which = adapter_id(beside, kind, base=belongs["base"], tokenizer=belongs["tokenizer"], template=belongs["template"])
    adapter = Adapter(id=which, kind=kind, **belongs, folder=".", facts=facts)
    (beside / MANIFEST).write_text(adapter.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (beside / "README.md").write_text(_words(adapter), encoding="utf-8")
    folder = out / which
    if not (folder / MANIFEST).is_file():
        _open_to_others(beside)
        try:
            beside.rename(folder)
        except OSError:  # another process was first
            if not (folder / MANIFEST).is_file():
                raise
    return read_adapter(folder)


def _words(adapter: Adapter) -> str:
    how = "peft.PeftModel.from_pretrained(base_model, FOLDER)" if adapter.kind == "lora" else "AutoModelForCausalLM.from_pretrained(FOLDER)"
    what = "LoRA weights" if adapter.kind == "lora" else "All weights"
    return (
        f"{what} learned by an agent on top of {adapter.base_name}. In an agent file: `adapter: FOLDER`. "
        f"Elsewhere: `{how}`. `{MANIFEST}` says what they belong to and how they were made.\n"
    )


def _grow_embeddings(model: Any, adapter: Adapter) -> None:
    folder = tokenizer_folder(adapter)
    if folder is None or adapter.kind == "full":
        return
    from transformers import AutoTokenizer

    size = len(AutoTokenizer.from_pretrained(folder))
    if size > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(size, mean_resizing=False)


def _with_weights(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    given: Any = model
    inner = given.get_base_model() if hasattr(given, "get_base_model") else given
    moved: Any = type(inner).from_pretrained(folder, dtype=model.dtype, local_files_only=True)
    return cast("PreTrainedModel", moved.to(model.device).eval())
