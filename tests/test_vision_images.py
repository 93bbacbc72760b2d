"""Images made plain RGB: every mode by numbers worked out by hand, and everything that is no image refused with its reason."""

from __future__ import annotations

import base64
import struct
import zlib
from contextlib import suppress
from io import BytesIO

import pytest

pytest.importorskip("PIL", reason="extra `vision` is not installed")

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tutelage.environments import shapes
from tutelage.errors import InputError
from tutelage.records import ImagePart, Message, TextPart
from tutelage.training import vision_images as vision
from tutelage.training.vision_images import load_image, picture, pictures_of


def saved(image, form="PNG", **how) -> bytes:
    raw = BytesIO()
    image.save(raw, format=form, **how)
    return raw.getvalue()


def url(raw: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(raw).decode()


def pixels(image, form="PNG", **how) -> list:
    loaded = load_image(url(saved(image, form, **how)))
    assert loaded.image.mode == "RGB"
    return [tuple(pixel) for row in np.asarray(loaded.image).tolist() for pixel in row]


def notes(image, form="PNG", **how) -> tuple:
    return load_image(url(saved(image, form, **how))).notes


def one(mode, value):
    return Image.new(mode, (1, 1), value)


@pytest.mark.parametrize(
    ("image", "wanted"),
    [
        (one("RGB", (10, 20, 30)), (10, 20, 30)),
        (one("L", 7), (7, 7, 7)),
        (one("1", 1), (255, 255, 255)),
        (one("RGBA", (10, 20, 30, 255)), (10, 20, 30)),
        (one("RGBA", (200, 0, 0, 0)), (255, 255, 255)),  # the colour hidden under what is transparent does not show
        (one("RGBA", (0, 0, 0, 51)), (204, 204, 204)),  # a fifth of black over white
        (one("LA", (0, 0)), (255, 255, 255)),
        (Image.fromarray(np.array([[0, 257, 65535, 25700]], dtype=np.uint16)), None),
    ],
)
def test_modes_become_rgb(image, wanted):
    if wanted is None:
        assert pixels(image) == [(0,) * 3, (1,) * 3, (255,) * 3, (100,) * 3], "Pillow would clip 16 bits to white"
        assert notes(image) == (vision.SCALED,)
    else:
        assert pixels(image) == [wanted]


def test_palettes_cmyk_and_a_transparent_colour():
    palette = Image.new("P", (1, 1), 3)
    palette.putpalette([0, 0, 0, 1, 1, 1, 2, 2, 2, 9, 8, 7])
    assert pixels(palette) == [(9, 8, 7)]
    assert pixels(palette, transparency=3) == [(255, 255, 255)]
    assert pixels(one("RGB", (1, 2, 3)), transparency=(1, 2, 3)) == [(255, 255, 255)]
    assert pixels(one("CMYK", (0, 255, 255, 0)), "TIFF") == [(255, 0, 0)]
    assert notes(one("CMYK", (0, 255, 255, 0)), "TIFF") == (vision.CONVERTED,)


def test_a_photograph_stands_upright():
    image = Image.new("RGB", (2, 1))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    loaded = load_image(url(saved(image, exif=exif)))
    assert loaded.image.size == (1, 2)
    assert loaded.image.getpixel((0, 0)) == (255, 0, 0)
    assert loaded.notes == (vision.UPRIGHT,)


def test_of_an_animation_the_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    raw = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    loaded = load_image(url(raw))
    assert loaded.image.getpixel((0, 0)) == (255, 0, 0)
    assert vision.FIRST_FRAME in loaded.notes


def png_that_says(width: int, height: int) -> bytes:
    """A file of some dozen bytes that claims to hold so many pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


GOOD = saved(Image.effect_noise((40, 40), 50).convert("RGB"))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "no image that can be read"),
        (b"hello", "no image that can be read"),
        (GOOD[: len(GOOD) // 2], "damaged or cut short"),
        (GOOD[:60] + b"\0" * 40 + GOOD[100:], "damaged or cut short"),
        (png_that_says(8_000, 8_000), "8000 x 8000 pixels"),
        (png_that_says(60_000, 60_000), "far too large"),
        (png_that_says(8, 8), "damaged or cut short"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image that can be read"),
        (saved(Image.fromarray(np.array([[0.5]], dtype=np.float32)), "TIFF"), "unknown range"),
        (saved(Image.fromarray(np.array([[70_000]], dtype=np.int32)), "TIFF"), "unknown range"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path, raw, reason):
    (tmp_path / "it.png").write_bytes(raw)
    for where in (str(tmp_path / "it.png"), url(raw)):
        with pytest.raises(InputError, match=reason) as refused:
            load_image(where)
        assert refused.value.file is not None


def test_no_pixels_at_all_are_refused():
    with pytest.raises(InputError):
        load_image(url(png_that_says(0, 5)))


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("https://example.org/cat.png", "not fetched from the web.*curl"),
        ("nowhere/cat.png", "No such file"),
        ("data:image/png;base64,%%%", "data:.*address cannot be read"),
        ("data:image/png;base64", "there is no comma"),
        ("bad\0name.png", "cannot be read"),
    ],
)
def test_addresses_that_lead_nowhere(address, reason):
    with pytest.raises(InputError, match=reason):
        load_image(address)


def test_a_folder_and_a_huge_file_are_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="directory"):
        load_image(str(tmp_path))
    monkeypatch.setattr(vision, "MAX_BYTES", 100)
    (tmp_path / "big.png").write_bytes(GOOD)
    with pytest.raises(InputError, match="larger than"):
        load_image(str(tmp_path / "big.png"))
    with pytest.raises(InputError, match="larger than"):
        load_image(url(GOOD))


def test_files_and_addresses_of_one_content_are_one_picture(tmp_path):
    path = tmp_path / "a b.png"
    path.write_bytes(GOOD)
    ids = {picture(where).id for where in (str(path), path.as_uri(), url(GOOD))}
    assert len(ids) == 1
    known = picture(str(path))
    path.write_bytes(saved(one("RGB", 0)))
    with pytest.raises(InputError, match="has changed since"):
        load_image(str(path), known=known)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.integers(0, len(GOOD) - 1), st.integers(1, 40))
def test_any_damage_is_an_input_error_or_an_image(noise, start, length):
    damaged = GOOD[:start] + noise + GOOD[start + length :]
    with suppress(InputError):
        assert load_image(url(damaged)).image.mode == "RGB"


def test_the_images_of_a_conversation_in_their_order():
    parts = (ImagePart(url="a"), TextPart(text="and"), ImagePart(url="b"))
    assert pictures_of([Message(role="user", content=parts), Message(role="user", content="c")]) == ["a", "b"]


# Drawn shapes


def test_shapes_are_the_same_for_a_seed_and_even_over_kinds():
    tasks = shapes.shapes_tasks(30, 0)
    assert tasks == shapes.shapes_tasks(30, 0)
    assert tasks != shapes.shapes_tasks(30, 1)
    assert len({task.input_id for task in tasks}) == 30
    assert [task.kind for task in tasks[:4]] == ["shape", "colour", "count", "shape"]
    assert load_image(pictures_of(tasks[0].messages)[0]).image.size == (48, 48)


@pytest.mark.parametrize(("unseen", "wanted"), [("only", {True}), ("without", {False}), ("with", {True, False})])
def test_pairs_are_kept_apart(unseen, wanted):
    random = shapes.Random(0)
    scenes = [shapes.random_scene(random, unseen) for _ in range(200)]
    assert {(scene.shape, scene.colour) in shapes.UNSEEN for scene in scenes} == wanted


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_an_image_shows_as_many_shapes_of_its_colour_as_it_says(seed):
    scene = shapes.random_scene(shapes.Random(seed), "with")
    seen = np.asarray(shapes.draw(scene, 48)).astype(int)
    colour = np.array(shapes.COLOURS[scene.colour])
    there = np.abs(seen - colour).sum(-1) < 40
    quarters = [there[y : y + 24, x : x + 24].any() for y in (0, 24) for x in (0, 24)]
    assert sum(quarters) == len(scene.spots)
    assert scene.answers["count"] == shapes.NUMBERS[len(scene.spots) - 1]


@pytest.mark.parametrize("wrong", [{"size": 8}, {"kinds": ()}, {"kinds": ("size",)}, {"unseen": "never"}])
def test_wrong_options_of_shapes_are_named(wrong):
    with pytest.raises(InputError):
        shapes.shapes_tasks(3, 0, **wrong)
