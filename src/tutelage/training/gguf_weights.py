"""A GGUF file as a folder of transformers: every tensor dequantised to float32, the settings, the tokenizer and the chat template.

Written with the package `gguf`, which knows every quantisation; transformers' own loader needs minutes for the same.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.errors import InputError
from tutelage.gguf_file import SMOLLM, find_gguf, fingerprint
from tutelage.training.extra import needs_train
from tutelage.training.gguf_head import read_gguf_head
from tutelage.training.gguf_tokenizer import write_tokenizer

if TYPE_CHECKING:
    import numpy as np

CONVERTED = "base.json"
"""The file in a converted folder that says which GGUF it came from."""
_SHARD_BYTES = 2 << 30
_ABANDONED_SECONDS = 6 * 3600
_DAMAGED = (ValueError, IndexError, KeyError, OverflowError, struct.error, MemoryError, TypeError, AttributeError)
"""What the reader of the package raises on files that are cut off or scrambled."""
_GLOBAL = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@dataclass(frozen=True)
class _Architecture:
    """model_type and class of transformers; permuted: llama.cpp stores the rows of q and k in another order for its rotary embedding."""

    model_type: str
    class_name: str
    permuted: bool = False


ARCHITECTURES = {
    "llama": _Architecture("llama", "LlamaForCausalLM", permuted=True),
    "qwen2": _Architecture("qwen2", "Qwen2ForCausalLM"),
    "qwen3": _Architecture("qwen3", "Qwen3ForCausalLM"),
}


def convert(gguf: Path, folder: Path) -> None:
    """Write `folder` whole or not at all; where another process was quicker, its work stands.

    Raises `InputError` for a damaged file, an architecture or tokenizer that cannot be converted, a missing chat template, a full disk.
    """
    begun = time.perf_counter()
    print(f"converting {gguf.name} to float32 for training, once ...", file=sys.stderr, flush=True)
    reader = _open(gguf)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _check_space(reader, folder.parent)
        _clear_abandoned(folder)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            _write(reader, gguf, partial)
            _put_in_place(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as failed:
        words = f"the converted weights cannot be written ({failed.strerror or failed}); free some space or set TUTELAGE_CACHE elsewhere"
        raise InputError(words, file=folder) from None
    print(f"converted in {time.perf_counter() - begun:.0f} s: {folder}", file=sys.stderr, flush=True)


def read_gguf_config(gguf: Path) -> dict[str, Any]:
    """The configuration in transformers' words, without converting. Raises `InputError` as `convert` does."""
    settings, shapes = read_gguf_head(gguf)
    try:
        return _config(_architecture(settings, gguf), settings, shapes)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise _damaged(gguf, error) from None


def _open(gguf: Path) -> Any:
    with needs_train("training on a GGUF"):
        from gguf import GGUFReader
    try:
        return GGUFReader(str(gguf))
    except _DAMAGED as error:
        raise _damaged(gguf, error) from None


def _damaged(gguf: Path, error: Exception) -> InputError:
    return InputError(f"the GGUF file is damaged or cut off ({type(error).__name__}: {error})", file=gguf, field="model")


def _write(reader: Any, gguf: Path, folder: Path) -> None:
    try:
        settings = {name: field.contents() for name, field in reader.fields.items()}
        architecture = _architecture(settings, gguf)
        template = settings.get("tokenizer.chat_template")
        if not isinstance(template, str):
            raise InputError("the model has no chat template; agents need one that was made for conversations", file=gguf, field="model")
        stops = write_tokenizer(settings, template, folder, gguf)
        shapes = {tensor.name: tuple(int(size) for size in reversed(tensor.shape)) for tensor in reader.tensors}
        config = _config(architecture, settings, shapes)
        _write_json(folder / "config.json", config)
        _write_json(folder / "generation_config.json", {"eos_token_id": stops})
        _write_tensors(reader, architecture, config, folder, gguf)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise _damaged(gguf, error) from None
    name = SMOLLM if _is_packaged(gguf) else gguf.name
    _write_json(folder / CONVERTED, {"name": name, "base_id": fingerprint(gguf), "gguf": str(gguf.absolute())})


def _is_packaged(gguf: Path) -> bool:
    with suppress(InputError):
        return find_gguf(SMOLLM).samefile(gguf)
    return False


def _architecture(settings: Mapping[str, Any], gguf: Path) -> _Architecture:
    name = settings.get("general.architecture")
    if name not in ARCHITECTURES:
        raise InputError(
            f"models of the architecture `{name}` cannot be converted; supported are {', '.join(ARCHITECTURES)}. "
            "Give the folder in which transformers saved the model instead",
            file=gguf,
            field="model",
        )
    odd = [key for key in settings if key.endswith((".expert_count", ".rope.scaling.type")) and settings[key] not in (0, "none")]
    if odd:
        raise InputError(f"{name} models with `{odd[0]}` cannot be converted", file=gguf, field="model")
    return ARCHITECTURES[name]


def _config(architecture: _Architecture, settings: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    name = settings["general.architecture"]
    width, heads = int(settings[f"{name}.embedding_length"]), int(settings[f"{name}.attention.head_count"])
    theta = float(settings.get(f"{name}.rope.freq_base", 10000.0))
    return {
        "architectures": [architecture.class_name],
        "model_type": architecture.model_type,
        "vocab_size": shapes["token_embd.weight"][0],
        "hidden_size": width,
        "intermediate_size": int(settings[f"{name}.feed_forward_length"]),
        "num_hidden_layers": int(settings[f"{name}.block_count"]),
        "num_attention_heads": heads,
        "num_key_value_heads": int(settings.get(f"{name}.attention.head_count_kv", heads)),
        "head_dim": int(settings.get(f"{name}.attention.key_length", width // heads)),
        "max_position_embeddings": int(settings[f"{name}.context_length"]),
        "rms_norm_eps": float(settings[f"{name}.attention.layer_norm_rms_epsilon"]),
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in shapes,
        "tie_word_embeddings": "output.weight" not in shapes,
        "use_cache": True,
        "dtype": "float32",
        "bos_token_id": settings.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": settings.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": settings.get("tokenizer.ggml.padding_token_id"),
    }


def _write_tensors(reader: Any, architecture: _Architecture, config: Mapping[str, Any], folder: Path, gguf: Path) -> None:
    """One file, or several with an index where they pass 2 GiB; no more than one file's tensors are in memory at once."""
    from safetensors.numpy import save_file

    shards = _shards(reader)
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {_name(tensor.name, gguf): _values(tensor, architecture, config) for tensor in shard}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, file)
    if len(shards) > 1:
        size = sum(_bytes(tensor) for tensor in reader.tensors)
        _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": places})


def _shards(reader: Any) -> list[list[Any]]:
    shards: list[list[Any]] = [[]]
    size = 0
    for tensor in reader.tensors:
        if size and size + _bytes(tensor) > _SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += _bytes(tensor)
    return shards


def _bytes(tensor: Any) -> int:
    """Its size in float32."""
    return 4 * int(tensor.n_elements)


def _name(name: str, gguf: Path) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`."""
    stem, _, kind = name.rpartition(".")
    if stem in _GLOBAL:
        return f"{_GLOBAL[stem]}.{kind}"
    block, _, rest = stem.partition(".")
    number, _, part = rest.partition(".")
    if block != "blk" or part not in _LAYER:
        raise InputError(f"the tensor `{name}` has no known place in this architecture", file=gguf, field="model")
    return f"model.layers.{number}.{_LAYER[part]}.{kind}"


def _values(tensor: Any, architecture: _Architecture, config: Mapping[str, Any]) -> np.ndarray:
    import numpy as np
    from gguf import dequantize

    shape = tuple(int(size) for size in reversed(tensor.shape))
    values = dequantize(tensor.data, tensor.tensor_type).reshape(shape).astype(np.float32, copy=False)
    stem = tensor.name.rpartition(".")[0]
    if architecture.permuted and stem.endswith((".attn_q", ".attn_k")):
        values = _rotary_rows(values, config["num_attention_heads" if stem.endswith("q") else "num_key_value_heads"])
    return np.ascontiguousarray(values)


def _rotary_rows(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from llama.cpp's order (pairs side by side) to that of transformers (first halves, then second halves)."""
    half = values.shape[0] // heads // 2
    return values.reshape(heads, half, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def _check_space(reader: Any, folder: Path) -> None:
    needed = sum(_bytes(tensor) for tensor in reader.tensors) + (32 << 20)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"the converted weights need {needed / 2**30:.1f} GiB and {free / 2**30:.1f} are free; free some space or set TUTELAGE_CACHE "
            "to another folder",
            file=folder,
        )


def _clear_abandoned(folder: Path) -> None:
    """What conversions that were killed have left behind."""
    for left in folder.parent.glob(f".{folder.name}.*"):
        if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
            shutil.rmtree(left, ignore_errors=True)


def _put_in_place(partial: Path, folder: Path) -> None:
    partial.chmod(0o755)  # a temporary folder is closed to others
    try:
        os.rename(partial, folder)  # noqa: PTH104 - Path.rename is the same; this one is documented to fail on a folder that is not empty
    except OSError:
        if not (folder / CONVERTED).is_file():
            raise


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False), encoding="utf-8")
