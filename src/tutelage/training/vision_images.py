"""Images as models see them: read from a file or a `data:` address, checked before they are decoded, and made plain RGB in one fixed way.

What Pillow would do differently: 16-bit greys are scaled to 8 bits (it clips them to white), what is transparent lies on white (it turns
black, or whatever colour is hidden there), a photograph stands upright as its EXIF orientation says, and of an animation the first frame is
taken. Formats that run programs to be read (EPS) are refused. Nothing is ever fetched from the web.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, unquote_to_bytes

from tutelage.errors import InputError, MissingExtra
from tutelage.records import ImagePart, Message

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 50_000_000
"""Larger images are refused before they are decoded: a file of a few kilobytes may say that it holds gigabytes."""
MAX_BYTES = 100 << 20
"""Larger files are refused."""
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
INSTALL = "pip install 'tutelage[vision]'"
FIRST_FRAME, ON_WHITE = "the first frame of an animation is taken", "what is transparent is shown on white"
SCALED, UPRIGHT = "16-bit values are scaled to 8 bits", "it is turned upright as its EXIF orientation says"
CONVERTED = "its colours are converted to RGB"
_ORIENTATION = 0x0112  # the tag's number in EXIF
_WHITE = (255, 255, 255, 255)
_SHOWN = 80  # characters of an address in messages


@dataclass(frozen=True)
class Picture:
    """An image by where it lies (a path or a `data:` address) and the hash of its content (the file's bytes)."""

    url: str
    id: str


@dataclass(frozen=True)
class Loaded:
    """A decoded image in mode RGB. notes: what was done to it beyond decoding."""

    image: Image
    picture: Picture
    notes: tuple[str, ...] = ()


def pictures_of(messages: Iterable[Message]) -> list[str]:
    """The addresses of all images in a conversation, in their order."""
    return [
        part.url for message in messages if not isinstance(message.content, str) for part in message.content if isinstance(part, ImagePart)
    ]


def picture(url: str) -> Picture:
    """The image at an address, by its content. Raises `InputError` as `load_image` does where it cannot be read."""
    return Picture(url, _hash(_read(url)))


def load_image(url: str, known: Picture | None = None) -> Loaded:
    """The image at a path, a `file://` or a `data:` address, as RGB.

    known: what it was when it was looked at before. Raises `InputError` saying what is wrong and the way out: no such file, no image or a
    damaged one, none or too many pixels, values of unknown range, a web address, and a content other than the known; `MissingExtra`
    without Pillow.
    """
    raw = _read(url)
    found = Picture(url, _hash(raw))
    if known is not None and known.id != found.id:
        raise InputError("the image has changed since the rows were read; run again", file=shown(url))
    with _readable(url):
        return _decoded(raw, found)


def shown(url: str) -> str:
    """An address as messages show it."""
    return url if len(url) <= _SHOWN or not url.startswith("data:") else f"{url[:_SHOWN]}..."


def _hash(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:32]


def _read(url: str) -> bytes:
    if url.startswith("data:"):
        return _from_data(url)
    if url.startswith(("http://", "https://")):
        raise InputError(
            "images are not fetched from the web; save it first (`curl -O ADDRESS`) and give the path of the file", file=shown(url)
        )
    path = Path(unquote(url.removeprefix("file://")) if url.startswith("file://") else url).expanduser()
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"the file is larger than {MAX_BYTES >> 20} MB; save the image smaller", file=path)
        return path.read_bytes()
    except (OSError, ValueError) as failed:  # ValueError: a null character in the path
        raise InputError(f"the image cannot be read: {getattr(failed, 'strerror', None) or failed}", file=path) from None


def _from_data(url: str) -> bytes:
    head, comma, body = url.partition(",")
    try:
        if not comma:
            raise ValueError("there is no comma")
        if len(body) > MAX_BYTES * 4 // 3:
            raise ValueError(f"it is larger than {MAX_BYTES >> 20} MB")
        raw = base64.b64decode(body, validate=True) if head.endswith(";base64") else unquote_to_bytes(body)
    except (ValueError, binascii.Error) as wrong:
        raise InputError(f"this `data:` address cannot be read ({wrong}); write data:image/png;base64,...", file=shown(url)) from None
    return raw


@contextmanager
def _readable(url: str) -> Iterator[None]:
    """Whatever the decoder says of a damaged file becomes an `InputError`."""
    try:
        yield
    except InputError as wrong:
        raise InputError(wrong.message, file=shown(url)) from None
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, ArithmeticError, MemoryError) as wrong:
        raise InputError(f"the image is damaged or cut short ({_first_line(wrong)}); save or copy it again", file=shown(url)) from None
    except Exception as wrong:
        if type(wrong).__name__ not in ("DecompressionBombError", "error"):  # Pillow's own, and struct's and zlib's
            raise
        raise InputError(f"the image is damaged, or far too large ({_first_line(wrong)})", file=shown(url)) from None


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _decoded(raw: bytes, found: Picture) -> Loaded:
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise MissingExtra("pillow", INSTALL, why="reading images") from None
    try:
        image: Any = Image.open(BytesIO(raw), formats=FORMATS)
    except UnidentifiedImageError:
        raise InputError(f"this is no image that can be read; save it as {', '.join(FORMATS[:-1])} or {FORMATS[-1]}") from None
    _check_size(*image.size)
    notes = []
    if getattr(image, "n_frames", 1) > 1:
        image.seek(0)
        notes.append(FIRST_FRAME)
    image.load()
    if image.getexif().get(_ORIENTATION, 1) != 1:
        notes.append(UPRIGHT)
    made, note = _as_rgb(ImageOps.exif_transpose(image))
    return Loaded(made, found, (*notes, *([note] if note else [])))


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise InputError(f"the image has no pixels ({width} x {height}); save it again")
    if width * height > MAX_PIXELS:
        raise InputError(f"the image has {width} x {height} pixels, and at most {MAX_PIXELS:,} are read; save it smaller")


def _as_rgb(image: Any) -> tuple[Any, str]:
    """The image in mode RGB, and what was done to it."""
    if image.mode.startswith(("I", "F")):
        return _scaled(image), SCALED
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _on_white(image), ON_WHITE
    if image.mode == "RGB":
        return image, ""
    return image.convert("RGB"), "" if image.mode in ("L", "1", "P") else CONVERTED


def _on_white(image: Any) -> Any:
    from PIL import Image

    seen = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, _WHITE), seen).convert("RGB")


def _scaled(image: Any) -> Any:
    """Greys of 16 bits as 8. Values of another range say nothing of what is black and what is white."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
        raise InputError(f"the image holds values of unknown range (mode {image.mode}); scale them to 8 or 16 bits and save it again")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8), "L").convert("RGB")
