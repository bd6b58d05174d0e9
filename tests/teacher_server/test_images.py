"""Pictures as the contract has them, the student's way and the teacher's; and what a decoder is spared."""

import asyncio
import io
import itertools
import subprocess
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

import teacher_server.core
from protos.arrays import as_ids
from protos.errors import InvalidItem
from protos.prompt import Prompt
from protos.teacher_info import Limits
from student_trainer.prompting import decode_image
from teacher_server.core import PROMPTS_DECODED, TeacherCore
from teacher_server.engines.engine import PreparedPrompt
from teacher_server.images import decode_images
from tests import nasty_pictures as nasty
from tests.pictures import noise
from tests.stand_in_engine import IMAGE, StandInEngine

# The server silences Pillow's warnings, but pytest has its own say in what is silent.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def picture(mode: str) -> Image.Image:
    """Noise, transparent here and there."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 4), dtype=np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


def with_orientation(form: str, mode: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return nasty.saved(picture(mode), form, exif=exif)


MODES = [
    *itertools.product(["PNG"], ["1", "L", "LA", "P", "RGB", "RGBA"]),
    *itertools.product(["JPEG"], ["L", "RGB", "CMYK"]),
    *itertools.product(["WEBP"], ["L", "RGB", "RGBA"]),
]
ODD = {
    "16-bit": nasty.sixteen_bit(),
    "transparent-palette": nasty.palette_with_transparency(),
    "second-frame": nasty.frames("MPO"),
    "orientation-in-xmp": nasty.png(
        (2, 1),
        before=nasty.chunk(
            b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation='1' tiff:Orientation=\"6\"/>"
        ),
    ),
}


def assert_same(data: bytes) -> Image.Image:
    (ours,) = decode_images([data], Limits())
    students = decode_image(data)
    assert ours.mode == students.mode == "RGB"
    assert ours.size == students.size
    assert ours.tobytes() == students.tobytes()
    assert ours.info == {}, "what else stood in the file is let go"
    return ours


@pytest.mark.parametrize(("form", "mode"), MODES)
def test_student_and_teacher_see_the_same_pixels(form: str, mode: str):
    assert_same(nasty.saved(picture(mode), form))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_it_was_held(form: str, orientation: int):
    ours = assert_same(with_orientation(form, "RGB", orientation))
    assert ours.size == ((50, 30) if orientation < 5 else (30, 50))


@pytest.mark.parametrize("name", ODD)
def test_odd_files_are_the_same_on_both_sides(name: str):
    ours = assert_same(ODD[name])
    assert (name != "orientation-in-xmp") or ours.size == (1, 2)


def test_a_blank_screen_is_fine_and_a_blank_wall_is_not():
    (screen,) = decode_images([nasty.flat((3840, 2160))], Limits())
    assert screen.size == (3840, 2160)
    wall = nasty.flat((5600, 5600))
    with pytest.raises(InvalidItem, match=rf"31360000 pixels in {len(wall)} bytes.*scale them"):
        decode_images([wall], Limits())
    screens = [nasty.flat((3840, 2160), mode="1")] * 5
    with pytest.raises(InvalidItem, match="41472000 pixels"):
        decode_images(screens, Limits())


def test_a_large_photograph_is_fine():
    (photo,) = decode_images([noise(0, (4900, 4900), "JPEG")], Limits())
    assert photo.size == (4900, 4900)


def test_ordinary_progressive_files_have_few_scans():
    for mode in ("L", "RGB", "CMYK"):
        data = nasty.saved(picture(mode), "JPEG", progressive=True)
        assert 2 < data.count(b"\xff\xda") < 20
        decode_images([data], Limits())


def test_parts_are_counted_before_anything_is_parsed(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr(Image, "open", fail)
    for data, says in (
        (nasty.jpeg_of_scans(200), "scans, the limit is 100"),
        (nasty.png_of_profiles(5), "5 colour profiles, the limit is 4"),
    ):
        with pytest.raises(InvalidItem, match=says):
            decode_images([data], Limits())
    with pytest.raises(InvalidItem, match="no image of an allowed format"):
        decode_images([noise(0)], Limits())


def test_what_pillow_warns_of_is_not_written_a_thousand_times():
    """Import sets the filter, which pytest takes away: so it is looked at in a clean process."""
    code = (
        "import sys, io\n"
        "from teacher_server.images import decode_images\n"
        "from protos.teacher_info import Limits\n"
        "decode_images([sys.stdin.buffer.read()], Limits())\n"
    )
    exif = nasty.overlapping_exif(2000, 6000)[6:]
    data = nasty.png(before=nasty.chunk(b"eXIf", exif))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        Image.open(io.BytesIO(data)).getexif()
    assert len(told) > 1000
    run = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert run.stderr == b""


class SlowEngine(StandInEngine):
    """Prepares one prompt after the other, when it is told to."""

    def __init__(self) -> None:
        super().__init__(Limits())
        self.next = asyncio.Semaphore(0)

    async def prepare(self, prompt: Prompt, images: Sequence[Image.Image]) -> PreparedPrompt:
        async with self.next:
            return await super().prepare(prompt, images)


async def test_pictures_do_not_pile_up_before_a_slow_engine(monkeypatch: pytest.MonkeyPatch):
    decoded: list[int] = []

    def counted(images: Sequence[bytes], limits: Limits) -> list[Image.Image]:
        decoded.append(len(images))
        return decode_images(images, limits)

    monkeypatch.setattr(teacher_server.core, "decode_images", counted)
    engine = SlowEngine()
    core = TeacherCore(engine)
    prompt = Prompt(as_ids([IMAGE, 40]), as_ids([40]), (noise(0),))
    preparing = [asyncio.create_task(core.prepare(prompt)) for _ in range(9)]
    await asyncio.sleep(0.3)
    assert len(decoded) == PROMPTS_DECODED
    preparing[0].cancel()
    engine.next.release()
    await asyncio.wait_for(asyncio.gather(*preparing, return_exceptions=True), 20)
    assert [task.cancelled() for task in preparing] == [True] + [False] * 8
    assert all(task.result().mm_length == 2 for task in preparing[1:])
    await core.close()


async def test_what_is_too_long_without_its_images_is_not_decoded(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(teacher_server.core, "decode_images", fail)
    core = TeacherCore(StandInEngine(Limits()))
    prompt = Prompt(as_ids([IMAGE] + [40] * 511), as_ids([40]), (noise(0),))
    with pytest.raises(InvalidItem, match="context is 512"):
        await core.prepare(prompt)
    await core.close()
