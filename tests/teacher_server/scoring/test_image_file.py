import base64
import io

import pytest
from PIL import Image

from teacher_server.scoring.bad_row import BadRow
from teacher_server.scoring.image_file import ImageFile
from teacher_server.scoring.image_file import image_files as files_of
from teacher_server.scoring.image_folder import ImageFolder
from tests.pictures import noise

PICTURE = noise(1)
NESTED: dict = {}
for _ in range(5000):
    NESTED = {"bytes": NESTED}


def image_files(value, folder) -> tuple[ImageFile, ...]:
    return files_of(value, ImageFolder(folder))


def read(value, folder):
    return [image.read() for image in image_files(value, folder)]


def test_every_form_that_data_sets_have(tmp_path):
    (tmp_path / "there.png").write_bytes(PICTURE)
    uri = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
    forms = [
        PICTURE,
        bytearray(PICTURE),
        "there.png",
        str(tmp_path / "there.png"),
        uri,
        {"bytes": PICTURE, "path": None},
        {"bytes": PICTURE, "path": "elsewhere.png"},
        {"bytes": None, "path": "there.png"},
    ]
    for form in forms:
        assert read(form, tmp_path) == [PICTURE]
        assert read([form, form], tmp_path) == [PICTURE] * 2
    assert read(None, tmp_path) == read([], tmp_path) == []


def test_a_decoded_picture_becomes_a_png(tmp_path):
    with Image.open(io.BytesIO(PICTURE)) as picture:
        (encoded,) = read(picture, tmp_path)
        assert Image.open(io.BytesIO(encoded)).tobytes() == picture.tobytes()


def test_files_are_read_when_needed(tmp_path):
    (tmp_path / "there.png").write_bytes(PICTURE)
    (image,) = image_files("there.png", tmp_path)
    assert image.data is None
    assert image.size_bytes == len(PICTURE)
    assert image.name == "there.png"
    (tmp_path / "there.png").unlink()
    with pytest.raises(BadRow, match=r"can't read an image.*there\.png") as caught:
        image.read()
    assert caught.value.code == "unreadable_image"


@pytest.mark.parametrize(
    ("value", "code", "says"),
    [
        ("https://example.org/a.png", "remote_image", "https://example.org/a.png is a URL"),
        ("s3://bucket/a.png", "remote_image", "nothing is downloaded"),
        ({"bytes": None, "path": "hf://datasets/a.png"}, "remote_image", "nothing is downloaded"),
        ("nowhere.png", "unreadable_image", "no image file at"),
        ("x" * 5000, "unreadable_image", "no image file at"),
        ("zero\0.png", "unreadable_image", "no image file at"),
        ("data:image/png;base64,!!!", "unreadable_image", "not base64"),
        ("data:image/png;base64,é", "unreadable_image", "not base64"),
        ({"bytes": {"bytes": b"a"}}, "unreadable_image", "an image is dict"),
        ({"bytes": NESTED}, "unreadable_image", "an image is dict"),
        ({"path": 5}, "unreadable_image", "an image is dict"),
        ([10**5000], "unreadable_image", "image 0: an image is int"),
        (Image.new("CMYK", (2, 2)), "unreadable_image", "CMYK"),
        (b"", "unreadable_image", "no bytes"),
        (7, "unreadable_image", "an image is int 7"),
        ({"bytes": None, "path": None}, "unreadable_image", "an image is dict"),
        ([PICTURE, None], "unreadable_image", "image 1: an image is NoneType"),
    ],
)
def test_what_is_no_image_is_told(value, code, says, tmp_path):
    with pytest.raises(BadRow) as caught:
        image_files(value, tmp_path)
    assert caught.value.code == code
    assert says in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_name_is_a_text_or_none(tmp_path):
    (image,) = image_files({"bytes": PICTURE, "path": 5}, tmp_path)
    assert (image.read(), image.name) == (PICTURE, None)


def test_paths_stay_in_the_folder_of_the_data_unless_they_may_leave(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "in.png").write_bytes(PICTURE)
    (tmp_path / "out.png").write_bytes(PICTURE)
    (tmp_path / "datasets.png").write_bytes(PICTURE)
    (folder / "link").symlink_to(tmp_path, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    for base in (folder, folder.relative_to(tmp_path)):
        inside = ImageFolder(base)
        for path in ("in.png", "sub/../in.png", str(folder / "in.png"), "link/out.png"):
            (image,) = files_of(path, inside)
            assert image.read() == PICTURE
        out = ("../out.png", "sub/../../datasets.png", "link/../../out.png")
        for path in (*out, str(tmp_path / "out.png")):
            for value in (path, {"bytes": None, "path": path}, [path]):
                with pytest.raises(BadRow, match="--allow-paths-outside") as caught:
                    files_of(value, inside)
                assert caught.value.code == "unreadable_image"
        (image,) = files_of("../out.png", ImageFolder(base, allow_outside=True))
        assert image.read() == PICTURE


def test_data_in_no_folder_name_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.png").write_bytes(PICTURE)
    for path in ("here.png", str(tmp_path / "here.png")):
        with pytest.raises(BadRow, match="no folder is the data's; say --allow-paths-outside"):
            files_of(path, ImageFolder(None))
        assert files_of(path, ImageFolder(None, allow_outside=True))[0].read() == PICTURE
