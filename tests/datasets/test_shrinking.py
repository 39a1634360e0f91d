"""``shrink`` makes photographs smaller in their own format, and leaves everything else alone, byte for byte."""

from __future__ import annotations

import os
import pickle
import random
import struct
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from ai4os_data import local_copy, shrink
from ai4os_data.cache.fingerprints import fingerprint
from tests.support.crowd import Warnings
from tests.support.pictures import difference, exif, file_of, labels, opened, photograph

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ORIENTATION = 0x0112

PHOTOGRAPHS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "jpeg": ("JPEG", "RGB", {}),
    "grey jpeg": ("JPEG", "L", {}),
    "cmyk jpeg": ("JPEG", "CMYK", {}),
    "progressive jpeg": ("JPEG", "RGB", {"progressive": True}),
    "jpeg with full colours": ("JPEG", "RGB", {"subsampling": 0, "quality": 98}),
    "png": ("PNG", "RGB", {}),
    "grey png": ("PNG", "L", {}),
    "png with opacity": ("PNG", "RGBA", {}),
    "grey png with opacity": ("PNG", "LA", {}),
    "tiff": ("TIFF", "RGB", {}),
    "grey tiff": ("TIFF", "L", {"compression": "tiff_adobe_deflate"}),
    "cmyk tiff": ("TIFF", "CMYK", {"compression": "tiff_lzw"}),
    "tiff with opacity": ("TIFF", "RGBA", {"compression": "packbits"}),
    "jpeg in tiff": ("TIFF", "RGB", {"compression": "jpeg"}),
    "webp": ("WEBP", "RGB", {}),
    "webp without loss": ("WEBP", "RGB", {"lossless": True}),
}


@pytest.mark.parametrize("kind", PHOTOGRAPHS)
def test_photograph_becomes_smaller_in_its_format(kind: str) -> None:
    """Format, colour model and proportions stay; the pixels are those of a careful reduction."""
    name, mode, options = PHOTOGRAPHS[kind]
    original = file_of(photograph(400, 300, mode), name, **options)
    made = shrink(100)(original)
    image = opened(made)
    assert (image.format, image.mode, image.size) == (name, mode, (100, 75))
    assert image.info.get("compression") == opened(original).info.get("compression")
    assert len(made) < len(original) / 3
    careful = opened(original).resize((100, 75), Image.Resampling.LANCZOS)
    assert difference(image, careful) < 4


@pytest.mark.parametrize(
    ("size", "expected"), [((640, 480), (100, 75)), ((301, 900), (33, 100)), ((1000, 2), (100, 1))]
)
def test_longest_side_is_what_was_asked_for(size: tuple[int, int], expected: tuple[int, int]) -> None:
    """Neither side is longer, whether draft or a filter does it, and none vanishes."""
    for kind in ("JPEG", "PNG"):
        assert opened(shrink(100)(file_of(photograph(*size), kind))).size == expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_is_seen_as_before(kind: str, orientation: int) -> None:
    """A reader that goes by the orientation sees the same picture, and so does one that does not."""
    original = file_of(photograph(400, 300), kind, exif=exif(orientation))
    before, after = opened(original), opened(shrink(100)(original))
    assert after.getexif().get(ORIENTATION, 1) == orientation
    assert after.size == (100, 75)
    for look in (Image.Image.copy, ImageOps.exif_transpose):
        was, now = look(before), look(after)
        assert was is not None
        assert now is not None
        assert difference(now, was.resize(now.size, Image.Resampling.LANCZOS)) < 4


def test_notes_of_the_camera_stay_without_preview_and_old_size() -> None:
    """Date, place and model are kept; what is large, or no longer true, is not."""
    original = file_of(photograph(), "JPEG", exif=exif(6, notes=True))
    made = shrink(100)(original)
    kept = opened(made).getexif()
    details = kept.get_ifd(0x8769)
    assert (kept[ORIENTATION], kept[0x0110], details[0x9003]) == (6, "Model 7", "2026:05:01 12:00:00")
    assert kept.get_ifd(0x8825)[2] == (52.0, 30.0, 0.0)
    assert 0x0100 not in kept
    assert not {0x927C, 0xA002} & set(details)
    assert len(made) < 6000 < len(b"maker" * 2000)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("damage", [slice(10, 14), slice(14, 30), slice(30, 200)])
def test_damaged_notes_do_not_keep_a_photograph_from_becoming_smaller(damage: slice) -> None:
    """What Pillow cannot read of the notes is lost; the picture is there."""
    notes = bytearray(exif(6, notes=True).tobytes())
    notes[damage] = b"\xff" * len(notes[damage])
    made = shrink(100)(file_of(photograph(), "JPEG", exif=bytes(notes)))
    assert opened(made).size == (100, 75)


def test_colour_profile_stays() -> None:
    """Colours mean what they meant."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for kind in ("JPEG", "PNG", "TIFF", "WEBP"):
        made = shrink(100)(file_of(photograph(), kind, icc_profile=profile))
        assert opened(made).size == (100, 75)
        assert opened(made).info["icc_profile"] == profile


def test_inverted_cmyk_stays_right() -> None:
    """Adobe's JPEGs are inverted, and are read and written so: white stays white."""
    white = Image.new("CMYK", (400, 300))
    noisy = Image.blend(white, photograph(mode="CMYK"), 0.2)
    made = opened(shrink(100)(file_of(noisy, "JPEG")))
    assert difference(made.convert("RGB"), noisy.resize((100, 75)).convert("RGB")) < 6


def test_several_pictures_of_a_camera_are_one() -> None:
    """A JPEG with a second picture in it, as phones write them, is a JPEG of the first."""
    original = file_of(photograph(), "MPO", save_all=True, append_images=[photograph(200, 150, seed=2)])
    image = opened(shrink(100)(original))
    assert (image.format, image.size) == ("JPEG", (100, 75))
    assert difference(image, photograph().resize((100, 75), Image.Resampling.LANCZOS)) < 4


def test_transparent_colours_do_not_bleed() -> None:
    """At the edge of what is opaque, the hidden colour behind has no part."""
    picture = photograph(400, 300)
    picture.putalpha(Image.fromarray(np.repeat(np.repeat([[255, 0]], 300, 0), 200, 1).astype(np.uint8)))
    pixels = np.asarray(picture).copy()
    pixels[:, :200, :3] = pixels[:, :200, :3] // 4  # dark
    pixels[:, 200:, :3] = 255  # white, and not seen
    made = np.asarray(opened(shrink(50)(file_of(Image.fromarray(pixels), "PNG"))))
    seen = made[..., 3] > 0
    assert made[..., :3][seen].max() < 100
    assert made[:, 0, 3].min() == 255
    assert made[:, -1, 3].max() == 0


def tiff_of_pages() -> bytes:
    """A TIFF of two pages."""
    return file_of(photograph(), "TIFF", save_all=True, append_images=[photograph(seed=2)])


def png_of_16_bits() -> bytes:
    """A PNG of 16 bits a colour, which Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = np.random.default_rng(1).integers(0, 65536, (300, 400 * 3)).astype(">u2")
    content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", 400, 300, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def random_16() -> Image.Image:
    """16 bits of grey."""
    return Image.fromarray(np.random.default_rng(1).integers(0, 65536, (300, 400)).astype(np.uint16))


UNTOUCHED: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "no picture": lambda: os.urandom(100_000),
    "text": lambda: b"JFIF" * 1000,
    "a magic number alone": lambda: b"\xff\xd8\xff",
    "a small jpeg": lambda: file_of(photograph(100, 75), "JPEG"),
    "a gif": lambda: file_of(photograph(), "GIF"),
    "a moving gif": lambda: file_of(photograph(), "GIF", save_all=True, append_images=[photograph(seed=2)]),
    "a bmp": lambda: file_of(photograph(), "BMP"),
    "a palette": lambda: file_of(photograph().quantize(200), "PNG"),
    "a palette of labels": lambda: file_of(labels().convert("P"), "PNG"),
    "a palette in tiff": lambda: file_of(photograph().quantize(200), "TIFF"),
    "one bit": lambda: file_of(photograph(mode="1"), "PNG"),
    "one bit in tiff": lambda: file_of(photograph(mode="1"), "TIFF", compression="group4"),
    "16 bits of grey": lambda: file_of(random_16(), "PNG"),
    "16 bits of grey in tiff": lambda: file_of(random_16(), "TIFF"),
    "16 bits a colour": png_of_16_bits,
    "floating point": lambda: file_of(Image.fromarray(np.random.default_rng(1).random((300, 400), np.float32)), "TIFF"),
    "labels in grey": lambda: file_of(labels(), "PNG"),
    "labels in colours": lambda: file_of(labels().convert("RGB"), "PNG"),
    "labels with opacity": lambda: file_of(labels().convert("RGBA"), "PNG"),
    "labels in tiff": lambda: file_of(labels(), "TIFF"),
    "labels in webp": lambda: file_of(labels().convert("RGB"), "WEBP", lossless=True),
    "many instances": lambda: file_of(labels(values=250, side=20), "PNG"),
    "a mask of 0 and 255": lambda: file_of(labels(values=2).point(lambda value: 255 * value), "PNG"),
    "a depth map": lambda: file_of(Image.linear_gradient("L").rotate(90).resize((4000, 300)), "PNG"),
    "a colour that means transparent": lambda: file_of(photograph(), "PNG", transparency=(1, 2, 3)),
    "a moving png": lambda: file_of(photograph(), "PNG", save_all=True, append_images=[photograph(seed=2)]),
    "a moving webp": lambda: file_of(photograph(), "WEBP", save_all=True, append_images=[photograph(seed=2)]),
    "pages": tiff_of_pages,
    "a turned tiff": lambda: file_of(photograph(), "TIFF", tiffinfo={ORIENTATION: 6}),
    "a map": lambda: file_of(photograph(), "TIFF", tiffinfo={33550: (1.0, 1.0, 0.0)}),
    "a cut jpeg": lambda: file_of(photograph(), "JPEG")[:-3000],
    "a cut png": lambda: file_of(photograph(), "PNG")[:-50_000],
    "a cut tiff": lambda: file_of(photograph(), "TIFF", compression="tiff_lzw")[:-50_000],
    "a cut webp": lambda: file_of(photograph(), "WEBP")[:-3000],
    "a header alone": lambda: file_of(photograph(), "JPEG")[:300],
}


@pytest.mark.parametrize("kind", UNTOUCHED)
def test_anything_else_stays_byte_for_byte(kind: str) -> None:
    """Labels, deep colours, animations, maps, what is small, and what is damaged."""
    data = UNTOUCHED[kind]()
    assert shrink(100)(data) is data


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_the_content_decides_and_not_the_name(kind: str) -> None:
    """A function of bytes knows no name: a PNG that is called .jpg becomes a smaller PNG."""
    assert opened(shrink(100)(file_of(photograph(), kind))).format == kind


MASKS: dict[str, Callable[[], Image.Image]] = {
    "palette": lambda: labels().convert("P"),
    "grey": labels,
    "colours": lambda: labels().convert("RGB"),
    "one bit": lambda: labels(values=2).point(lambda value: 255 * value).convert("1"),
    "16 bits": lambda: Image.fromarray(np.asarray(labels()).astype(np.uint16) * 1000),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("mask", MASKS)
def test_masks_are_made_smaller_by_the_nearest_pixel_if_asked_for(mask: str, kind: str) -> None:
    """They get the size that their photograph gets, have no value that was not there, and keep each where it was."""
    original = file_of(MASKS[mask](), kind)
    made = opened(shrink(100, masks=True)(original))
    before, after = np.asarray(opened(original)), np.asarray(made)
    assert (made.size, made.mode) == ((100, 75), opened(original).mode)
    np.testing.assert_array_equal(after, before[2::4, 2::4])
    if made.mode == "P":
        assert made.getpalette() == opened(original).getpalette()


def test_a_file_never_becomes_larger() -> None:
    """A JPEG of a low quality keeps that, and what cannot become smaller stays."""
    for size in (101, 110, 150, 300):
        for quality in (5, 30, 75, 95):
            original = file_of(photograph(size, size), "JPEG", quality=quality)
            made = shrink(100, quality=95)(original)
            assert len(made) <= len(original)
            assert made is original or opened(made).size == (100, 100)
    low = file_of(photograph(110, 110), "JPEG", quality=30)
    assert opened(shrink(100, quality=95)(low)).quantization == opened(low).quantization  # type: ignore[attr-defined]


def test_quality_decides_about_the_bytes() -> None:
    """More of it is more of them, for JPEG and WebP."""
    for kind in ("JPEG", "WEBP"):
        original = file_of(photograph(), kind, quality=97)
        assert len(shrink(200, quality=40)(original)) < len(shrink(200)(original)) < len(shrink(200, 98)(original))


@pytest.mark.parametrize("limit", [1000, 70_000])
def test_more_pixels_than_pillow_decodes_are_left_alone(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether Pillow refuses, or warns and warnings are errors: one log line, and the file as it is."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    data = file_of(photograph(), "PNG")
    with Warnings() as warnings:
        assert shrink(100)(data) is data
        assert shrink(100)(data) is data
    assert len(warnings) == 1
    assert "120000 pixels" in warnings[0]
    assert "MAX_IMAGE_PIXELS" in warnings[0]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damage_of_any_kind_is_no_error() -> None:
    """Bytes that flip anywhere give a picture that can be read, or the file as it is."""
    chance = random.Random(7)
    files = [file_of(photograph(160, 120, mode), kind, **more) for kind, mode, more in PHOTOGRAPHS.values()]
    files.append(file_of(photograph(160, 120), "JPEG", exif=exif(6, notes=True)))
    made = 0
    for prepare in (shrink(40), shrink(40, masks=True), shrink(40, keep="pixels")):
        for _ in range(300):
            damaged = bytearray(chance.choice(files))
            for _ in range(chance.choice((1, 3, 20))):
                damaged[chance.randrange(min(len(damaged), chance.choice((64, 600, 10**9))))] = chance.randrange(256)
            data = bytes(damaged[: chance.choice((len(damaged), chance.randrange(len(damaged))))])
            result = prepare(data)
            if result is not data and prepare.keep == "file":
                opened(result)
                made += 1
    assert made > 50


def test_arguments_that_mean_nothing_are_refused() -> None:
    """Before anything is fetched."""
    for longest_side in (0, -5, 2.5, "640", True):
        with pytest.raises(ValueError, match="longest_side is a number of pixels"):
            shrink(longest_side)  # type: ignore[arg-type]
    for quality in (0, 101, "high", None):
        with pytest.raises(ValueError, match="quality is a number from 1 to 100"):
            shrink(640, quality)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="keep is 'file' or 'pixels', not 'array'"):
        shrink(640, keep="array")  # type: ignore[arg-type]


ALIKE = [shrink(640), shrink(640, 90), shrink(640, keep="file"), shrink(640, masks=False)]
DIFFERENT = [shrink(640), shrink(641), shrink(640, 91), shrink(640, keep="pixels"), shrink(640, masks=True)]


def test_equal_arguments_have_one_name_and_others_another() -> None:
    """What was cached by one is found by its equal, also after a pickle; and never taken for another's."""
    assert len({fingerprint(one) for one in ALIKE}) == 1
    assert len({fingerprint(one) for one in DIFFERENT}) == len(DIFFERENT)
    again = pickle.loads(pickle.dumps(DIFFERENT[-1]))  # noqa: S301  it was made here
    assert (again, fingerprint(again)) == (DIFFERENT[-1], fingerprint(DIFFERENT[-1]))


def test_the_name_is_the_same_in_every_process_and_with_every_python() -> None:
    """It follows from the arguments and a version of ours; if it changes, every cache is filled anew."""
    assert fingerprint(shrink(640)) == "8583097c4fab8ac1"
    script = (
        "from ai4os_data import shrink; from ai4os_data.cache.fingerprints import fingerprint;"
        "import sys; print(fingerprint(shrink(640)), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == f"{fingerprint(shrink(640))} False\n"


def test_a_copy_has_smaller_photographs_under_their_names(tmp_path: Path) -> None:
    """Labels and texts beside them are those of the source."""
    source = tmp_path / "source"
    source.mkdir()
    files = {
        "a.jpg": file_of(photograph(), "JPEG"),
        "b.png": file_of(photograph(), "PNG"),
        "b_mask.png": file_of(labels(), "PNG"),
        "notes.txt": b"notes",
    }
    for name, data in files.items():
        (source / name).write_bytes(data)
    copy = local_copy(source, tmp_path / "copy", prepare=shrink(100), progress=False)
    kept = {name: (copy.path / name).read_bytes() for name in copy.files}
    assert kept == {name: shrink(100)(data) for name, data in files.items()}
    assert opened(kept["a.jpg"]).size == (100, 75)
    assert local_copy(source, tmp_path / "copy", prepare=shrink(100), progress=False).stats()["fetched"] == 0
    with pytest.raises(ValueError, match=r"keeps arrays.*keep='pixels'"):
        local_copy(source, tmp_path / "copy", prepare=shrink(100, keep="pixels"), progress=False)


def test_a_draft_of_a_jpeg_is_what_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A photograph of 4000 x 3000 is decoded at an eighth: that is where the time is saved."""
    seen: list[tuple[int, int]] = []
    load = Image.Image.resize

    def noted(image: Image.Image, *arguments: Any, **options: Any) -> Image.Image:
        seen.append(image.size)
        return load(image, *arguments, **options)

    data = file_of(Image.new("RGB", (4000, 3000), (90, 120, 70)), "JPEG", quality=50)
    monkeypatch.setattr(Image.Image, "resize", noted)
    assert opened(shrink(256)(data)).size == (256, 192)
    assert seen[0] == (500, 375)
