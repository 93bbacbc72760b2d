"""The processor of a vision-language model: what it writes in the place of an image, and the numbers that the model sees of it.

Any family whose processor transformers has is read by `AutoProcessor`; asked for the variant that works with Pillow, so that the numbers do
not depend on whether torchvision is installed, and taken as it comes where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from tutelage.errors import InputError, MissingExtra
from tutelage.training.base import Base, load_tokenizer, reads_images
from tutelage.training.extra import INSTALL
from tutelage.training.vision_images import INSTALL as INSTALL_VISION
from tutelage.training.vision_images import Loaded, Picture, load_image

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OF_TEXT = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "text_replacement_offsets"})
"""What a processor gives for each token. The rest is the images'."""
_KINDS = ("mm_token_type_ids", "token_type_ids")


class Shown(Protocol):
    """What stands in for a text and its images: see `TokenRow` and `Request`."""

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """In the order in which they stand in the text."""
        ...


@dataclass(frozen=True, eq=False)
class Eyes:
    """A processor with the tokenizer that its texts are written with. name: of the model, for messages."""

    processor: Any
    tokenizer: PreTrainedTokenizerBase
    name: str

    @cached_property
    def image_token(self) -> str:
        """What a chat template writes for an image, before the processor puts the image's tokens there."""
        token = getattr(self.processor, "image_token", None)
        if not isinstance(token, str):
            raise InputError(f"the processor of {self.name} names no token for images; its family cannot be used here", field="model")
        return token

    @cached_property
    def image_ids(self) -> frozenset[int]:
        """The ids of tokens that stand for images; no loss falls on them."""
        named = [*self.processor.image_token_ids, getattr(self.tokenizer, "image_token_id", None)]
        return frozenset(int(one) for one in named if one is not None)

    def expansions(self, images: Sequence[Loaded]) -> list[str]:
        """What the processor writes in the place of each image."""
        if not images:
            return []
        made = self._process([images], text_replacement_offsets=True)
        found = [one["replacement"] for one in made.get("text_replacement_offsets", [[]])[0] if one["type"] == "image"]
        if len(found) != len(images):
            raise InputError(
                f"the processor of {self.name} does not say what it writes for an image; its family cannot be used here", field="model"
            )
        return found

    def pixels(self, groups: Sequence[Sequence[Loaded]]) -> dict[str, Any]:
        """What the model takes beside its tokens: tensors of the images of several texts, in their order. Empty without images."""
        shown = [group for group in groups if group]
        if not shown:
            return {}
        made = self._process(shown, tensors="pt")
        return {name: value for name, value in made.items() if name not in _OF_TEXT}

    def kinds(self, rows: Sequence[Sequence[int]]) -> dict[str, list[list[int]]]:
        """What the model takes beside each token (which are an image's), for the families that want it."""
        name = self._kinds_name
        return {} if name is None else {name: self.processor.create_mm_token_type_ids([list(row) for row in rows])}

    @cached_property
    def _kinds_name(self) -> str | None:
        made = self.processor(text=["text"], add_special_tokens=False)
        return next((name for name in _KINDS if name in made and getattr(self.processor, "return_mm_token_type_ids", False)), None)

    def _process(self, groups: Sequence[Sequence[Loaded]], *, tensors: str | None = None, text_replacement_offsets: bool = False) -> Any:
        """The processor's own work on texts that are nothing but these images; where it refuses them, `InputError` says which."""
        how: dict[str, Any] = {"return_text_replacement_offsets": True} if text_replacement_offsets else {}
        if tensors is not None:
            how |= {"return_tensors": tensors, "padding": True}
        try:
            return self.processor(
                text=[self.image_token * len(group) for group in groups],
                images=[[one.image for one in group] for group in groups],
                add_special_tokens=False,
                **how,
            )
        except (ValueError, TypeError, ZeroDivisionError) as refused:
            files = ", ".join(one.picture.url[:60] for group in groups[:1] for one in group[:3])
            raise InputError(f"the processor of {self.name} refuses these images: {refused}", file=files) from None


def load_eyes(base: Base, tokenizer: PreTrainedTokenizerBase | None = None) -> Eyes:
    """The processor of a vision-language model, with `tokenizer` in place of its own where one is given.

    Raises `InputError` for a model that reads text only or a processor that cannot be loaded, `MissingExtra` for an absent package.
    """
    if not reads_images(base):
        raise InputError(
            f"{base.name} reads text only; name a vision-language model (one with `vision_config` in config.json and a processor)",
            field="model",
        )
    processor = _load(base)
    own = load_tokenizer(base) if tokenizer is None else tokenizer
    if getattr(own, "chat_template", None) is None:  # older folders keep it with the processor
        own.chat_template = processor.chat_template
    processor.tokenizer = own
    return Eyes(processor, own, base.name)


def _load(base: Base) -> Any:
    try:
        import PIL  # noqa: F401 -- said here, where transformers would say it of torchvision
    except ImportError:
        raise MissingExtra("pillow", INSTALL_VISION, why="a model that reads images") from None
    try:
        from transformers import AutoProcessor
    except ImportError as absent:
        raise MissingExtra(absent.name or "transformers", INSTALL, why="a model that reads images") from None
    try:
        return _from_folder(AutoProcessor, base)
    except ImportError as absent:
        if "torchvision" not in str(absent).lower():
            raise
        raise MissingExtra("torchvision", "pip install torchvision", why=f"the processor of {base.name}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as wrong:
        reason = next(iter(str(wrong).strip().splitlines()), type(wrong).__name__)[:300]
        raise InputError(f"the processor cannot be loaded: {reason}", file=base.folder, field="model") from None


def _from_folder(kind: Any, base: Base) -> Any:
    try:
        return kind.from_pretrained(str(base.folder), local_files_only=True, backend="pil")
    except (ImportError, ValueError):
        return kind.from_pretrained(str(base.folder), local_files_only=True)


def load_pictures(shown: Shown) -> list[Loaded]:
    """The images of a row or a request, decoded. Raises `InputError` where one was changed since it was looked at."""
    return [load_image(one.url, known=one) for one in shown.pictures]
