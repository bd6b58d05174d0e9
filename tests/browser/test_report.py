"""The report of a data set, opened from disk."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from teacher_server.scoring.report import ReportConfig, write_report
from teacher_server.scoring.row_result import RowResult
from tests.browser.conftest import Opened
from tests.teacher_server.scoring.scored_folder import scored_row, write_data, write_scores

pytestmark = pytest.mark.browser
WORDS = "<reason> left {} right {} {} + {} = {} </reason> \\boxed{{ {} }}"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of the file; 120 rows, three of them failed, one of them nasty."""
    folder = tmp_path_factory.mktemp("scores")
    pairs = [(row % 10, (3 * row + 1) % 10) for row in range(120)]
    tokens = [
        [
            (" " if i else "") + word
            for i, word in enumerate(WORDS.format(a, b, a, b, a + b, a + b).split())
        ]
        for a, b in pairs
    ]
    tokens[17] = ["</script><img src=x onerror=alert(1)>", "\n", " ", "", " 4", "\u202e"]
    tokens[18] = ["so", " it", " is", " 7"] * 300
    data = write_data(folder / "digits.parquet", ["".join(words) for words in tokens])
    results = [
        RowResult.failed(row, f"image-{row}", "no_image", "the row has no image; give it one")
        if row in (5, 50, 100)
        else scored_row(row, words, f"image-{row}")
        for row, words in enumerate(tokens)
    ]
    scores = write_scores(folder / "scores", data, results)
    return write_report(ReportConfig(folder=scores, samples=60)).as_uri()


def values(page: Page) -> list[float]:
    shown = page.locator(".samples .value").all_text_contents()
    return [float(text.replace("%", "").replace("\u2212", "-").replace("+", "")) for text in shown]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_the_file_opens_from_disk(opened: Opened, report, screenshots: Path, width, scheme):
    watched = opened(report, width, scheme)
    page = watched.page
    expect(page.get_by_role("heading", level=1)).to_contain_text("digits.parquet")
    assert page.locator(".spread .some").count() > 5
    assert page.locator(".samples > li").count() == 20
    image = page.locator(".samples img").first
    image.scroll_into_view_if_needed()  # it is loaded, from the page itself, when it is seen
    expect(image).to_have_js_property("naturalWidth", 32)
    assert watched.overflow() == 0
    watched.screenshot(screenshots / f"report-{width}-{scheme}.png")


def test_samples_are_ranked_by_choice(opened: Opened, report):
    page = opened(report).page
    assert values(page) == sorted(values(page), reverse=True)
    expect(page.locator(".samples h3").first).to_contain_text("rank 1 of 117")
    page.get_by_label("Order").select_option("up")
    assert values(page) == sorted(values(page))
    for measure in ("Highest VDS", "90th percentile", "Sequence gain"):
        page.get_by_label("Ranked by").select_option(label=measure)
        page.get_by_label("Order").select_option("down")
        assert values(page) == sorted(values(page), reverse=True)
        expect(page.locator(".samples h3").first).to_contain_text("rank 1 of 117")


def test_samples_are_filtered_and_searched(opened: Opened, report):
    page = opened(report).page
    page.get_by_label("At most").fill("0.9")
    page.get_by_label("At least").fill("0.5")
    assert values(page)
    assert all(0.5 <= value <= 0.9 for value in values(page))
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("searchbox").fill("image-18")
    expect(page.locator(".samples > li")).to_have_count(1)
    expect(page.locator(".samples > li")).to_contain_text("row 18")
    page.get_by_role("searchbox").fill("nothing is like this")
    expect(page.locator(".samples > li")).to_contain_text("clear the search")


def test_more_samples_come_on_request(opened: Opened, report):
    page = opened(report).page
    page.get_by_role("button", name="Show 20 more").click()
    expect(page.locator(".samples > li")).to_have_count(40)
    page.get_by_role("button", name="Show 20 more").click()
    expect(page.locator(".samples > li")).to_have_count(60)
    expect(page.get_by_role("button", name="more")).to_be_hidden()


def test_tokens_tell_their_figures(opened: Opened, report):
    page = opened(report).page
    tip = page.get_by_role("tooltip")
    token = page.locator(".samples .token").nth(2)
    token.hover()
    expect(tip).to_contain_text("With the picture")
    page.get_by_role("heading", level=1).hover()
    expect(tip).to_be_hidden()
    page.locator(".samples .token").first.focus()
    page.keyboard.press("ArrowRight")
    expect(tip).to_be_visible()
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()


def test_nasty_texts_stay_text(opened: Opened, report):
    page = opened(report).page
    page.get_by_role("searchbox").fill("onerror")
    expect(page.locator(".samples .token").first).to_have_text(
        "</script><img src=x onerror=alert(1)>"
    )
    assert page.locator(".samples .sign").all_inner_texts() == ["↵", "·", "◌", "U+202E"]


def test_long_responses_are_folded(opened: Opened, report):
    page = opened(report).page
    page.get_by_role("searchbox").fill("image-18")
    expect(page.locator(".samples .token")).to_have_count(400)
    page.get_by_role("button", name="Show all 1,200 tokens").click()
    expect(page.locator(".samples .token")).to_have_count(1200)


def test_tokens_of_the_vocabulary_and_errors_are_listed(opened: Opened, report):
    page = opened(report).page
    section = page.locator("section", has_text="Most and least visual tokens")
    first = section.locator("tbody tr").first
    assert first.locator("th").inner_text().strip("\N{MIDDLE DOT}\n ").isdigit()
    errors = page.locator("section", has_text="Rows that could not be scored")
    expect(errors).to_contain_text("no_image 3 rows")
    expect(errors).to_contain_text("Row 5 (image-5): the row has no image")
