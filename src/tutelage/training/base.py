"""The weights that training starts from: a transformers folder, which a GGUF file becomes once, in float32.

Finding a base needs no torch; loading its weights does.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from tutelage.adapter import stored_tensors
from tutelage.errors import InputError
from tutelage.gguf_file import SMOLLM, find_gguf, fingerprint, is_gguf
from tutelage.model import Model
from tutelage.records import content_id
from tutelage.training.extra import needs_train
from tutelage.training.gguf_weights import CONVERTED, convert
from tutelage.training.settings import TrainSettings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DType = Literal["auto", "float32", "bfloat16", "float16"]
BFLOAT16_FROM = 50_000_000
"""On a CPU a model of fewer parameters is about as fast in float32, and `auto` leaves it there."""
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
"""What lies beside a model that reads images: how these become numbers."""
_PACKS = "support_avx512bf16_for_cpu"
"""A layer of bitsandbytes that has this packs its weights on a CPU when it is used in eval mode, and passes no gradient on from then on."""
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")


@dataclass(frozen=True)
class Base:
    """Weights with their tokenizer and chat template.

    name: for people. folder: in the form of transformers. base_id, tokenizer_id, template_id: hashes of the weights (of the GGUF they came
    from, where they did), of the tokenizer's file and of the template's text. gguf: the file they came from, where it still lies.
    """

    name: str
    folder: Path
    base_id: str
    tokenizer_id: str
    template_id: str
    gguf: Path | None = None


def find_base(which: str) -> Base:
    """The base called `smollm2-135m`, or at the path of a .gguf file or of a transformers folder, or of that name on the model hub.

    A GGUF is dequantised to float32 and converted at its first use, into a folder of the cache (`cache_folder`), which is then used again.
    Raises `InputError` for weights that are missing, damaged or of an architecture that cannot be converted, and for a full disk.
    """
    gguf, folder = _locate(which)
    if gguf is not None and not (folder / CONVERTED).is_file():
        convert(gguf, folder)
    name, base_id = _identity(folder, which)
    source = gguf.absolute() if gguf else _source(folder)
    return Base(name, folder.absolute(), base_id, _tokenizer_id(folder), content_id(_read_template(folder)), source)


def find_converted(agent_model: str) -> Base | None:
    """The base behind an agent's model, where it is a folder already; None where it would first have to be converted or fetched."""
    kind, _, rest = agent_model.partition(":")
    which = rest.partition("?")[0]
    path = Path(which).expanduser()
    if kind not in ("gguf", "hf") or not (path.exists() or which == SMOLLM):
        return None
    try:
        gguf, folder = _locate(which)
        return find_base(which) if gguf is None or (folder / CONVERTED).is_file() else None
    except InputError:
        return None


def base_name(which: str) -> str:
    """`smollm2-135m`, or NAME@HASH by the content of the weights: what tells one base from another, found without converting."""
    gguf, folder = _locate(which)
    if which == SMOLLM:
        return SMOLLM
    if gguf is not None:
        return f"{gguf.name}@{fingerprint(gguf)}"
    name, base_id = _identity(folder, which)
    return name if name == SMOLLM else f"{name}@{base_id}"


def base_of(agent_model: str | Model) -> Base:
    """The base behind an agent's model. Raises `InputError` where its weights are not ours to train (a server's, a scripted double's)."""
    if not isinstance(agent_model, str):
        which = getattr(agent_model, "which", None) or getattr(agent_model, "path", None)
        if agent_model.name.startswith(("gguf:", "hf:")) and which is not None:
            return find_base(str(which))
        return base_of(agent_model.name)
    kind, _, rest = agent_model.partition(":")
    if kind not in ("gguf", "hf"):
        raise InputError(f"the weights of {agent_model} are not here to be trained; use an agent on hf:... or gguf:...", field="model")
    return find_base(rest.partition("?")[0])


def reads_images(base: Base) -> bool:
    """Whether it is a vision-language model, with the processor that its images go through. No torch is needed to tell."""
    return "vision_config" in _json(base.folder / "config.json") and bool(_processor_files(base.folder))


def _processor_files(folder: Path) -> list[Path]:
    return [folder / name for name in PROCESSOR_FILES if (folder / name).is_file()]


def load_tokenizer(base: Base) -> PreTrainedTokenizerBase:
    """The tokenizer with its chat template. Raises `MissingExtra` without transformers."""
    with needs_train("a tokenizer"):
        from transformers import AutoTokenizer
    with _readable(base.folder, "tokenizer"):
        return AutoTokenizer.from_pretrained(str(base.folder), local_files_only=True)


def load_causal_lm(
    base: Base, dtype: DType = "auto", device: str | None = None, *, attn_implementation: str = "auto", four_bit: DType | None = None
) -> PreTrainedModel:
    """A fresh copy of the weights, in eval mode.

    dtype: of the weights (see `number_format`). device: by default the GPU, where there is one. attn_implementation: in transformers'
    words; `auto` leaves it to them. four_bit: keep the matrices of the layers in 4 bits (NF4 with double quantisation; Dettmers et al.
    2023, arXiv:2305.14314) and compute in this type. Raises `InputError` for a damaged folder, `MissingExtra` without torch.
    """
    with needs_train("a model with weights"):
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    kind: Any = AutoModelForImageTextToText if reads_images(base) else AutoModelForCausalLM
    place = place_of(device)
    of_weights = number_format(dtype, place, parameters_of(base))
    with _readable(base.folder, "weights"), without_bars():
        how: dict[str, Any] = {} if attn_implementation == "auto" else {"attn_implementation": attn_implementation}
        if four_bit is not None:
            how |= {"quantization_config": _in_four_bits(four_bit), "device_map": {"": str(place)}}
        model: Any = kind.from_pretrained(str(base.folder), dtype=of_weights, local_files_only=True, **how)
        for part in model.modules() if four_bit is not None else ():
            if hasattr(part, _PACKS):
                setattr(part, _PACKS, False)
        return cast("PreTrainedModel", (model if four_bit is not None else model.to(place)).eval())


def load_to_train(base: Base, settings: TrainSettings, formats: Formats, device: str | None = None) -> PreTrainedModel:
    """The weights as these settings want them. Raises as `load_causal_lm`."""
    four_bit = name_of(formats.computed) if settings.load_in_4bit else None
    return load_causal_lm(base, name_of(formats.weights), device, attn_implementation=settings.attn_implementation, four_bit=four_bit)


def _in_four_bits(computed: DType) -> Any:
    with needs_train("a model in 4 bits"):
        from transformers import BitsAndBytesConfig
    make: Any = BitsAndBytesConfig
    return make(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=computed)


def number_format(dtype: DType, place: torch.device, parameters: int) -> torch.dtype:
    """What a model computes in: the one place where `auto` is decided.

    `auto` is bfloat16 on a GPU that has it, and on a CPU with a unit for matrices of it (AMX) where the model has `BFLOAT16_FROM`
    parameters or more; else float32: without such a unit bfloat16 is unusably slow. Measured on two cores of a Xeon with SmolLM2-135M: a
    step of LoRA on 4 x 256 tokens took 1.7 s in place of 3.1 s, a token for each of 16 replies 44 ms in place of 68 ms.
    """
    import torch

    if dtype != "auto":
        return cast("torch.dtype", getattr(torch, dtype))
    if place.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        fast = place.type == "cpu" and parameters >= BFLOAT16_FROM and cpu_multiplies_bfloat16()
    return torch.bfloat16 if fast else torch.float32


def name_of(dtype: torch.dtype) -> DType:
    """Its name in settings."""
    return cast(DType, str(dtype).removeprefix("torch."))


def cpu_multiplies_bfloat16() -> bool:
    """Whether this processor has a unit for matrices of bfloat16, and torch the library that uses it."""
    import torch

    library: Any = torch.backends.mkldnn
    ask: Any = getattr(torch.cpu, "get_capabilities", None)  # an older torch cannot say
    return ask is not None and bool(ask().get("amx_bf16")) and bool(library.is_available())


def parameters_of(base: Base) -> int:
    """How many numbers the files of the weights hold; of files in torch's own form about as many."""
    try:
        return sum(math.prod(tensor.shape) for tensor in stored_tensors(base.folder).values())
    except InputError:  # loading them says what is wrong, if anything is
        return sum(path.stat().st_size for path in base.folder.glob("*.bin")) // 4


@dataclass(frozen=True)
class Formats:
    """What a model is trained in. weights: as it is loaded. autocast: what is computed in (None: what the weights are in).

    frozen: what matrices that learn nothing are kept in (None: as they are loaded).
    """

    weights: torch.dtype
    autocast: torch.dtype | None = None
    frozen: torch.dtype | None = None

    @property
    def computed(self) -> torch.dtype:
        """What is computed in."""
        return self.autocast or self.weights

    def settle(self, model: Any) -> None:
        """Put the model's frozen matrices into their format; the output layer, which may be the embeddings too, stays as it is."""
        import torch

        output = model.get_output_embeddings()
        for module in model.modules() if self.frozen is not None else ():
            if isinstance(module, torch.nn.Linear) and module is not output and not module.weight.requires_grad:
                module.to(self.frozen)


def training_formats(dtype: DType, place: torch.device, parameters: int, *, lora: bool, four_bit: bool = False) -> Formats:
    """How to train in `number_format`. What learns is float32 always, or small steps would be lost in rounding.

    All weights: float32 under autocast. LoRA on a GPU: the base in bfloat16, its adapters in float32. LoRA on a CPU: under autocast, with
    the base's matrices in bfloat16, which autocast would turn them into at each use: the numbers are the same, bit for bit, in 2 bytes a
    parameter in place of the 6 of a float32 base and its copies. four_bit: matrices of the base are of 4 bits, and stay so.
    """
    import torch

    wanted = number_format(dtype, place, parameters)
    if wanted == torch.float32:
        return Formats(torch.float32)
    if lora and place.type == "cuda":
        return Formats(wanted)
    return Formats(torch.float32, autocast=wanted, frozen=wanted if lora and not four_bit else None)


def cache_folder() -> Path:
    """Where converted weights are kept: $TUTELAGE_CACHE/weights, or ~/.cache/tutelage/weights."""
    return Path(os.environ.get("TUTELAGE_CACHE") or Path.home() / ".cache" / "tutelage") / "weights"


def _locate(which: str) -> tuple[Path | None, Path]:
    """(the GGUF file or None, the transformers folder, which for a GGUF may have to be made)."""
    path = Path(which).expanduser()
    if which != SMOLLM and path.is_dir():
        return None, path
    if which == SMOLLM or path.suffix == ".gguf" or (path.is_file() and is_gguf(path)):
        gguf = find_gguf(which)
        return gguf, cache_folder() / fingerprint(gguf)
    if path.exists():
        raise InputError("this is neither a GGUF file nor a folder of transformers", file=path, field="model")
    return None, _from_hub(which)


def _from_hub(which: str) -> Path:
    with needs_train(f"the model {which}"):
        from huggingface_hub import snapshot_download
    wanted = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(which, allow_patterns=wanted))
    except Exception as error:  # noqa: BLE001 - offline, refused or misspelt: its client has many words for it, and they are passed on
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"there is no such file or folder, and no model of that name could be fetched from the hub ({reason}). "
            f"Write {SMOLLM}, a .gguf file or a folder that transformers saved",
            file=which,
            field="model",
        ) from None


def _identity(folder: Path, which: str) -> tuple[str, str]:
    """(name, base_id) of a transformers folder: what it says of itself where it was converted, else by its files."""
    if (folder / CONVERTED).is_file():
        said = _json(folder / CONVERTED)
        return said["name"], said["base_id"]
    if not (folder / "config.json").is_file():
        raise InputError("there is no model in this folder (no config.json)", file=folder, field="model")
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not weights:
        raise InputError("there are no weights in this folder (no *.safetensors)", file=folder, field="model")
    name = folder.resolve().name if Path(which).expanduser().is_dir() else which
    return name, content_id([[path.name, fingerprint(path)] for path in weights])


def _source(folder: Path) -> Path | None:
    """The GGUF that a folder was converted from, where it still lies."""
    if not (folder / CONVERTED).is_file():
        return None
    said = _json(folder / CONVERTED)
    gguf = Path(said["gguf"])
    return gguf if gguf.is_file() and fingerprint(gguf) == said["base_id"] else None


def _read_template(folder: Path) -> str:
    """The chat template in a transformers folder. Raises `InputError` where there is none."""
    own = folder / "chat_template.jinja"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    files = [folder / name for name in ("tokenizer_config.json", "chat_template.json") if (folder / name).is_file()]
    template = next((found for file in files if (found := _json(file).get("chat_template"))), None)
    if isinstance(template, list):  # several by name
        template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
    if not isinstance(template, str):
        raise InputError("the model has no chat template; agents need one that was made for conversations", file=folder, field="model")
    return template


def _json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as wrong:
        raise InputError(f"this file cannot be read ({wrong})", file=path, field="model") from None
    return read if isinstance(read, dict) else {}


def _tokenizer_id(folder: Path) -> str:
    files = [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    if not files:
        raise InputError("there is no tokenizer in this folder (no tokenizer.json)", file=folder, field="model")
    own = files[:1] if files[0].name in _TOKENIZER_FILES[:2] else files
    seen = [*own, *_processor_files(folder)]  # an adapter that learned from images of one size is no use with another
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in seen)).hexdigest()[:16]


def place_of(device: str | None = None) -> torch.device:
    """The device of that name, by default the GPU, where there is one. Raises `InputError` for one that is not there."""
    import torch

    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise InputError(f"`{device}` is no device of torch; write cpu or cuda", field="device") from None
    if place.type == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no GPU here that torch can use; write cpu", field="device")
    return place


@contextmanager
def without_bars() -> Iterator[None]:
    """Without the bar that transformers draws at every loading, and without changing whether it draws others."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def _readable(folder: Path, what: str) -> Iterator[None]:
    """Whatever the loader says of a damaged folder becomes an `InputError`; so does a lack of memory."""
    again = "; delete this folder and it is converted again" if (folder / CONVERTED).is_file() else ""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, MemoryError) as error:
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise InputError(f"the {what} cannot be loaded: {reason}{again}", file=folder, field="model") from None
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # its own root, in a package that need not be there
            raise
        raise InputError(f"the {what} are damaged: {error}{again}", file=folder, field="model") from None
