"""What can be told of the explorer without a browser; tests/browser has the rest."""

import itertools
import re
from pathlib import Path

import pytest

EXPLORER = Path("teacher_server/explorer")
REPORT = Path("teacher_server/scoring/report_page")
SCRIPTS = sorted([*EXPLORER.glob("*.js"), *REPORT.glob("*.js")])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_make_no_markup_of_text_and_name_no_other_place(path):
    text = path.read_text(encoding="utf-8")
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert way not in text
    assert not re.search(r"https?://|localStorage|document\.cookie", text)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_what_a_script_imports_is_there(path):
    text = path.read_text(encoding="utf-8")
    for names, module in re.findall(r'^import \{([^}]*)\} from "\./([^"]+)";$', text, re.M):
        found = next(f / module for f in (path.parent, EXPLORER) if (f / module).exists())
        exporting = r"^export (?:async )?(?:function|const|class) (\w+)"
        exported = re.findall(exporting, found.read_text(encoding="utf-8"), re.M)
        for name in names.split(","):
            assert name.strip() in exported
            assert len(re.findall(rf"\b{name.strip()}\b", text)) > 1, f"{name} is not used"


def test_the_page_has_what_its_scripts_look_for():
    page = (EXPLORER / "index.html").read_text(encoding="utf-8")
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    wanted = {
        name for path in EXPLORER.glob("*.js") for name in re.findall(r'by\("([^"]+)"\)', path.read_text())
    }  # fmt: skip
    assert wanted <= set(ids)
    linked = re.findall(r'(?:src|href)="(?!data:)([^"]+)"', page)
    assert linked
    for place in linked:
        assert (EXPLORER / place.removeprefix("/explorer/")).is_file()
    assert " style=" not in page
    assert not re.search(r"\son\w+=", page)


def lightness(colour: str) -> float:
    """OKLab's L."""
    red, green, blue = linear(colour)
    cone = (
        0.4122214708 * red + 0.5363325363 * green + 0.0514459929 * blue,
        0.2119034982 * red + 0.6806995451 * green + 0.1073969566 * blue,
        0.0883024619 * red + 0.2817188376 * green + 0.6299787005 * blue,
    )
    long, middle, small = (part ** (1 / 3) for part in cone)
    return 0.2104542553 * long + 0.7936177850 * middle - 0.0040720468 * small


def linear(colour: str) -> list[float]:
    digits = colour.removeprefix("#")
    if len(digits) == 3:
        digits = "".join(2 * digit for digit in digits)
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    return [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]


def contrast(one: str, other: str) -> float:
    weights = (0.2126, 0.7152, 0.0722)
    lights = sorted(
        sum(w * p for w, p in zip(weights, linear(c), strict=True)) for c in (one, other)
    )
    return (lights[1] + 0.05) / (lights[0] + 0.05)


@pytest.mark.parametrize(("theme", "way"), [("light", -1), ("dark", 1)])
def test_the_scale_is_even_and_its_ink_is_legible(theme, way):
    text = (EXPLORER / "tokens.css").read_text(encoding="utf-8")
    light, _, dark = text.partition("@media")
    steps = re.findall(
        r"\.step-\d+ \{ --fill: (#\w+); --on: (#\w+)", light if theme == "light" else dark
    )
    assert len(steps) == 10
    for fill, ink in steps:
        assert contrast(fill, ink) >= 4.5
    lights = [lightness(fill) for fill, _ in steps]
    strides = [way * (b - a) for a, b in itertools.pairwise(lights)]
    assert max(strides) < 1.15 * min(strides)
