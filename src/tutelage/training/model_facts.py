"""What a planner needs to know of a model, read from its description alone: a `config.json`, the heads of safetensors files, or a GGUF's.

No weights are read, so that it is quick, and works for models that are too large for this machine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.adapter import stored_tensors
from tutelage.errors import InputError
from tutelage.gguf_file import SMOLLM, find_gguf, is_gguf
from tutelage.training.extra import needs_train
from tutelage.training.gguf_weights import read_gguf_config

COUNTED = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Architectures whose layers were counted tensor by tensor; others are taken to be like Llama's."""
_OTHER_NAMES = {
    "hidden_size": ("n_embd", "d_model"),
    "num_hidden_layers": ("n_layer", "num_layers"),
    "num_attention_heads": ("n_head", "num_heads"),
    "intermediate_size": ("n_inner", "ffn_dim", "d_ff"),
    "max_position_embeddings": ("n_positions", "n_ctx"),
}


@dataclass(frozen=True)
class ModelFacts:
    """The sizes of a causal language model: H hidden, I intermediate, V vocabulary; queries and keys: width of all heads together.

    parameters: all of them; head: those of the output layer (V x H), which with `tied` are the embeddings' too. head_norms: queries and
    keys are normalised (Qwen 3). biases: of the projections of queries, keys and values.
    """

    name: str
    model_type: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    parameters: int
    context: int | None = None
    biases: bool = False

    @property
    def queries(self) -> int:
        """Width of all queries."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of all keys; and of all values."""
        return self.kv_heads * self.head_dim

    @property
    def head(self) -> int:
        """Numbers of the output layer."""
        return self.vocabulary * self.hidden

    @property
    def head_norms(self) -> bool:
        """Whether queries and keys are normalised."""
        return self.model_type.startswith("qwen3")

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """The Linear layers of one block: name -> (inputs, outputs)."""
        hidden, queries, keys, inner = self.hidden, self.queries, self.keys, self.intermediate
        return {
            "q_proj": (hidden, queries),
            "k_proj": (hidden, keys),
            "v_proj": (hidden, keys),
            "o_proj": (queries, hidden),
            "gate_proj": (hidden, inner),
            "up_proj": (hidden, inner),
            "down_proj": (inner, hidden),
        }

    @property
    def block(self) -> int:
        """Numbers in the matrices of one block."""
        return sum(inputs * outputs for inputs, outputs in self.matrices.values())

    @property
    def assumption(self) -> str | None:
        """What is taken for granted of an architecture that was not counted."""
        if self.model_type in COUNTED:
            return None
        return f"the layers of `{self.model_type}` are taken to be like Llama's; the forecast is less sure"


def read_model_facts(which: str) -> ModelFacts:
    """Of a .gguf file, a transformers folder, `smollm2-135m` or a model of the hub, of which only the description is fetched.

    Raises `InputError` for a model that is not there, or cannot be read.
    """
    path = Path(which).expanduser()
    if path.is_dir():
        return _of_folder(path)
    if which == SMOLLM or path.suffix == ".gguf" or (path.is_file() and is_gguf(path)):
        gguf = find_gguf(which)
        return facts_of_config(read_gguf_config(gguf), gguf.name if which != SMOLLM else SMOLLM, file=gguf)
    if path.exists():
        raise InputError("this is neither a GGUF file nor a folder of transformers", file=path, field="model")
    return facts_of_config(_from_hub(which), which, file=which)


def model_facts_of(agent_model: str) -> ModelFacts:
    """Of an agent's model by its name. Raises `InputError`, too, for one whose weights are not ours to train."""
    kind, _, rest = agent_model.partition(":")
    if kind not in ("gguf", "hf"):
        raise InputError(f"the weights of {agent_model} are not here to be trained; use an agent on hf:... or gguf:...", field="model")
    return read_model_facts(rest.partition("?")[0])


def facts_of_config(config: Mapping[str, Any], name: str, *, file: str | Path, parameters: int | None = None) -> ModelFacts:
    """From a configuration in transformers' words. parameters: counted in the files; None: worked out. Raises `InputError`."""
    inner = {**config, **(config.get("text_config") or {})}
    found = {key: _number(inner, key) for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")}
    missing = [key for key, value in found.items() if not value]
    if missing:
        raise InputError(f"the description of the model lacks {', '.join(missing)}; it cannot be planned for", file=file, field="model")
    hidden, heads = found["hidden_size"] or 0, found["num_attention_heads"] or 0
    made = ModelFacts(
        name=name,
        model_type=str(inner.get("model_type", "unknown")),
        hidden=hidden,
        layers=found["num_hidden_layers"] or 0,
        heads=heads,
        kv_heads=_number(inner, "num_key_value_heads") or heads,
        head_dim=_number(inner, "head_dim") or hidden // heads,
        intermediate=_number(inner, "intermediate_size") or 4 * hidden,
        vocabulary=found["vocab_size"] or 0,
        tied=bool(config.get("tie_word_embeddings", inner.get("tie_word_embeddings", False))),
        parameters=parameters or 0,
        context=_number(inner, "max_position_embeddings"),
        biases=bool(inner.get("attention_bias", inner.get("model_type") == "qwen2")),
    )
    return made if parameters else _counted(made)


def _counted(facts: ModelFacts) -> ModelFacts:
    """With its parameters as a Llama of these sizes has them."""
    norms = 2 * facts.hidden + (2 * facts.head_dim if facts.head_norms else 0)
    biases = facts.queries + 2 * facts.keys if facts.biases else 0
    total = facts.layers * (facts.block + norms + biases) + facts.hidden + facts.head * (1 if facts.tied else 2)
    return ModelFacts(**{**facts.__dict__, "parameters": total})


def _number(config: Mapping[str, Any], key: str) -> int | None:
    values = [config.get(name) for name in (key, *_OTHER_NAMES.get(key, ()))]
    return next((int(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)), None)


def _of_folder(folder: Path) -> ModelFacts:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError("there is no model in this folder (no config.json)", file=folder, field="model") from None
    except ValueError as wrong:
        raise InputError(f"this file cannot be read ({wrong})", file=path, field="model") from None
    if not isinstance(config, dict):
        raise InputError("this describes no model", file=path, field="model")
    parameters = None
    with suppress(InputError):  # files in another form, or none at all: worked out then
        parameters = sum(math.prod(tensor.shape) for tensor in stored_tensors(folder).values())
    quantised = "quantization_config" in config  # then the files do not hold what training computes with
    return facts_of_config(config, folder.resolve().name, file=path, parameters=None if quantised else parameters)


def _from_hub(which: str) -> dict[str, Any]:
    with needs_train(f"the model {which}"):
        from huggingface_hub import hf_hub_download
    try:
        found: dict[str, Any] = json.loads(Path(hf_hub_download(which, "config.json")).read_text(encoding="utf-8"))
    except Exception as error:  # noqa: BLE001 - offline, refused or misspelt: its client has many words for it, and they are passed on
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"there is no such file or folder, and no description of a model of that name could be fetched from the hub ({reason}). "
            f"Write {SMOLLM}, a .gguf file or a folder that transformers saved",
            file=which,
            field="model",
        ) from None
    return found
