"""Image files that a careful server refuses, and odd ones that it should not. All are made here."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

MIB = 2**20
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB = 0, 2
"""PNG colour types."""


def saved(image: Image.Image, form: str, **settings: Any) -> bytes:
    """`image` as a file."""
    buffer = io.BytesIO()
    image.save(buffer, format=form, **settings)
    return buffer.getvalue()


def flat(size: tuple[int, int], form: str = "PNG", mode: str = "RGB", **settings: Any) -> bytes:
    """One colour: few bytes, whatever its size."""
    return saved(Image.new(mode, size), form, **settings)


def frames(form: str, **settings: Any) -> bytes:
    """Two frames in one file."""
    first, second = (Image.new("RGB", (40, 40), colour) for colour in ("red", "blue"))
    return saved(first, form, save_all=True, append_images=[second], **settings)


# ------------------------------------------------------------------------------------------------- PNG


def chunk(name: bytes, data: bytes) -> bytes:
    """A PNG chunk with its checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(
    size: tuple[int, int] = (8, 8),
    *,
    depth: int = 8,
    colour: int = RGB,
    before: bytes = b"",
    pixels: bytes | None = None,
    after: bytes = b"",
) -> bytes:
    """A black PNG by hand; `before` and `after` are chunks around the pixels, `pixels` the compressed rows."""
    width, height = size
    row = 1 + (width * depth * (3 if colour == RGB else 1) + 7) // 8
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    rows = zlib.compress(bytes(row * height), 9) if pixels is None else pixels
    parts = [chunk(b"IHDR", header), before, chunk(b"IDAT", rows), after, chunk(b"IEND", b"")]
    return PNG_SIGNATURE + b"".join(parts)


def png_of_texts(count: int, form: bytes = b"zTXt") -> bytes:
    """`count` compressed texts of a MiB each, about a KiB each in the file."""
    text = zlib.compress(b"a" * MIB, 9)
    head = {b"zTXt": b"\0\0", b"iTXt": b"\0\1\0\0\0"}[form]
    return png(before=b"".join(chunk(form, b"k%d" % i + head + text) for i in range(count)))


def png_of_profiles(count: int) -> bytes:
    """`count` colour profiles of a MiB each; only the last counts, every one is decompressed."""
    profile = chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(MIB - 1), 9))
    return png(before=profile * count)


# ------------------------------------------------------------------------------------------------ JPEG


def jpeg_with_size(width: int, height: int) -> bytes:
    """A small JPEG whose header tells another size."""
    data = bytearray(flat((16, 16), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def jpeg_of_depth(bits: int) -> bytes:
    """A JPEG that says it has so many bits per sample."""
    data = bytearray(flat((16, 16), "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = bits
    return bytes(data)


def jpeg_of_scans(count: int, size: tuple[int, int] = (40, 40)) -> bytes:
    """A progressive JPEG with `count` more scans, of 14 bytes each: every one goes over all pixels."""
    data = flat(size, "JPEG", mode="L", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + data[-2:]


def jpeg_with_orientation(size: tuple[int, int], orientation: int) -> bytes:
    """A photo from a phone that was held otherwise."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return flat(size, "JPEG", exif=exif)


def overlapping_exif(entries: int, value_bytes: int) -> bytes:
    """EXIF whose entries all point to the same bytes: copied out, `entries` times as many."""
    start = 10 + 12 * entries
    head = b"Exif\0\0II*\0" + struct.pack("<IH", 8, entries)
    rows = (struct.pack("<HHII", 0x9000 + i, 7, value_bytes, start) for i in range(entries))
    return head + b"".join(rows) + bytes(4 + value_bytes)


# ------------------------------------------------------------------------------------------------ WebP


def webp_with_canvas(width: int, height: int) -> bytes:
    """One frame of 16 x 16 as an animation on a canvas of any size."""
    frame = flat((16, 16), "WEBP")[12:]
    head = bytes(6) + _u24(15) + _u24(15) + _u24(100) + b"\0"
    body = (
        b"WEBP"
        + _riff(b"VP8X", b"\2\0\0\0" + _u24(width - 1) + _u24(height - 1))
        + _riff(b"ANIM", bytes(6))
        + _riff(b"ANMF", head + frame)
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _riff(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data


def _u24(value: int) -> bytes:
    return struct.pack("<I", value)[:3]


# --------------------------------------------------------------------------------------------- odd ones


def palette_with_transparency() -> bytes:
    """As drawing programs write them."""
    grey = Image.fromarray(np.arange(1600, dtype=np.uint8).reshape(40, 40))
    return saved(grey.convert("P"), "PNG", transparency=bytes(range(256)))


def sixteen_bit() -> bytes:
    """A grey PNG of 16 bits, as microscopes write them."""
    return saved(Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40) * 40), "PNG")
