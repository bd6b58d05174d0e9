"""The page at "/", over a real teacher."""

import io
import json
import re

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.conftest import Opened

pytestmark = pytest.mark.browser
ANSWER = r"<reason> left 4 right 7 4 + 7 = 11 </reason> \boxed{ 11 }"


def score_example(page: Page) -> None:
    page.locator("#examples button").first.click()
    page.get_by_role("button", name="Score").click()
    expect(page.locator("#result")).to_be_visible()


def picture(width: int = 32, height: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((width, height), 80).convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_an_example_is_scored(opened: Opened, origin, screenshots, width, scheme):
    watched = opened(origin, width, scheme)
    page = watched.page
    expect(page.locator("#examples button").first).to_be_visible()
    watched.screenshot(screenshots / f"explorer-empty-{width}-{scheme}.png")
    score_example(page)
    tokens = page.locator("#tokens .token")
    texts = tokens.all_inner_texts()
    inks = page.locator("#tokens .ink")
    classes = inks.evaluate_all("inks => inks.map((ink) => ink.className)")
    steps = [int(re.findall(r"step-(\d+)", name)[0]) for name in classes]
    assert max(steps) >= 7, "no digit hangs on the picture"
    assert steps[0] <= 1, f"{texts[0]!r} needs no picture"
    fills = {t.evaluate("e => getComputedStyle(e).backgroundColor") for t in inks.all()}
    assert len(fills) >= 2
    assert watched.overflow() == 0
    watched.screenshot(screenshots / f"explorer-{width}-{scheme}.png")


def test_candidates_show_on_focus_and_hover(opened: Opened, origin):
    page = opened(origin).page
    score_example(page)
    inspector = page.locator("#inspector")
    page.locator("#tokens .token[tabindex='0']").focus()
    page.keyboard.press("Home")
    expect(inspector).to_contain_text("token 1 of")
    page.keyboard.press("ArrowRight")
    expect(inspector).to_contain_text("token 2 of")
    expect(page.locator("#tokens .token").nth(1)).to_be_focused()
    for side in (".with", ".without"):
        assert page.locator(f"#inspector {side} li").count() >= 5
        assert "%" in page.locator(f"#inspector {side} li").first.inner_text()
    assert "with the picture" in page.locator("#spoken").inner_text()
    page.locator("#tokens .token").nth(4).hover()
    expect(inspector).to_contain_text("token 5 of")
    page.get_by_role("heading", level=1).hover()
    expect(inspector).to_contain_text("token 2 of")  # back to the one in focus


def test_the_keyboard_alone_is_enough(opened: Opened, origin):
    page = opened(origin).page
    page.locator("#file").set_input_files(
        {"name": "two.png", "mimeType": "image/png", "buffer": picture()}
    )
    expect(page.locator("#preview")).to_be_visible()
    expect(page.locator("#picture-note")).to_contain_text("32 \N{MULTIPLICATION SIGN} 16 pixels")
    page.locator("#question").focus()
    page.keyboard.type("What is the sum of the two digits?")
    page.keyboard.press("Tab")
    page.keyboard.type(ANSWER)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#result")).to_be_visible()
    assert page.locator("#tokens .token").count() >= 10


def test_pictures_are_dropped_and_pasted(opened: Opened, origin):
    page = opened(origin).page
    data = list(picture())
    for event, place in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(
            """([event, place, data]) => {
                const carried = new DataTransfer();
                carried.items.add(new File([new Uint8Array(data)], "a.png", { type: "image/png" }));
                const settings = { [place]: carried, bubbles: true, cancelable: true };
                const Kind = event === "drop" ? DragEvent : ClipboardEvent;
                document.body.dispatchEvent(new Kind(event, settings));
            }""",
            [event, place, data],
        )
        expect(page.locator("#preview")).to_be_visible()
        page.get_by_role("button", name="Remove the picture").click()
        expect(page.locator("#preview")).to_be_hidden()
        expect(page.locator("#file")).to_be_focused()


def test_a_link_brings_the_form_back(opened: Opened, origin):
    page = opened(origin).page
    score_example(page)
    question, shown = (
        page.locator("#question").input_value(),
        page.locator("#preview").get_attribute("src"),
    )
    page.get_by_label("a grey picture").check()
    page.get_by_role("button", name="Score").click()
    expect(page.locator("#status")).to_contain_text("Scored")
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator("#copied")).to_contain_text("Copied the link")
    again = opened(page.url).page
    expect(again.locator("#question")).to_have_value(question)
    expect(again.locator("#preview")).to_have_attribute("src", shown or "")
    expect(again.get_by_label("a grey picture")).to_be_checked()
    again.get_by_role("button", name="Score").click()
    expect(again.locator("#result")).to_be_visible()


@pytest.mark.parametrize(("size", "kept"), [((32, 16), True), ((400, 300), False)])
def test_a_picture_is_in_the_link_where_it_fits(opened: Opened, origin, size, kept):
    page = opened(origin).page
    page.locator("#file").set_input_files(
        {"name": "a.png", "mimeType": "image/png", "buffer": picture(*size)}
    )
    page.locator("#question").fill("What is the sum of the two digits?")
    page.locator("#answer").fill("é 4\n7")
    page.get_by_role("button", name="Score").click()
    expect(page.locator("#result")).to_be_visible()
    page.get_by_role("button", name="Copy link").click()
    told = expect(page.locator("#copied"))
    (told.not_to_contain_text if kept else told.to_contain_text)("too large for a link")
    again = opened(page.url).page
    expect(again.locator("#answer")).to_have_value("é 4\n7")
    expect(again.locator("#preview")).to_be_visible(visible=kept)
    expect(again.locator("#status")).to_contain_text(
        "Press Score" if kept else "without its picture"
    )


def test_a_damaged_link_is_told(opened: Opened, origin):
    page = opened(f"{origin}/#state=e30x").page
    expect(page.get_by_role("alert")).to_contain_text("damaged")


def test_what_is_missing_is_told_at_its_place(opened: Opened, origin):
    page = opened(origin).page
    page.get_by_role("button", name="Score").click()
    expect(page.get_by_role("alert")).to_contain_text("no picture")
    expect(page.locator("#file")).to_be_focused()
    page.locator("#examples button").first.click()
    page.locator("#answer").fill("")
    page.get_by_role("button", name="Score").click()
    expect(page.get_by_role("alert")).to_contain_text("no answer")
    expect(page.locator("#answer")).to_have_attribute("aria-invalid", "true")


def test_a_refusal_of_the_server_is_told_in_words(opened: Opened, origin, screenshots):
    watched = opened(origin)
    watched.expected = ["the server responded with a status of"]
    page = watched.page
    page.locator("#examples button").first.click()
    page.locator("#answer").fill("seven " * 3000)
    page.get_by_role("button", name="Score").click()
    alert = page.get_by_role("alert")
    expect(alert).to_be_visible()
    expect(alert).to_contain_text(re.compile("limit", re.I))
    expect(page.locator("#answer")).to_have_attribute("aria-invalid", "true")
    watched.screenshot(screenshots / "explorer-refused.png")


def test_text_of_tokens_is_never_markup(opened: Opened, origin):
    page = opened(origin).page
    evil = '<img src=x onerror="document.title=1">'
    page.route(
        "**/v1/score", lambda route: route.fulfill(json=answer([evil, "\n", " ", "", "\u202e"]))
    )
    score_example(page)
    assert page.locator("#tokens .token").first.inner_text() == evil
    assert page.locator("#result img").count() == 0
    signs = page.locator("#tokens .sign").all_inner_texts()
    assert signs == ["↵", "·", "◌", "U+202E"]


def test_a_token_is_asked_for_and_kept_in_the_tab(opened: Opened, guarded, screenshots):
    origin, token = guarded
    watched = opened(origin)
    watched.expected = ["401"]
    page = watched.page
    expect(page.locator("#token")).to_be_focused()
    expect(page.get_by_role("alert")).to_contain_text("wants a token")
    watched.screenshot(screenshots / "explorer-token.png")
    page.locator("#examples button").first.click()
    page.locator("#token").fill("vgs_wrong")
    page.get_by_role("button", name="Score").click()
    expect(page.get_by_role("alert")).to_contain_text("refused")
    page.locator("#token").fill(token)
    page.get_by_role("button", name="Score").click()
    expect(page.locator("#result")).to_be_visible()
    expect(page.locator("#token")).to_be_hidden()
    kept = page.evaluate(
        "[Object.values(sessionStorage), Object.values(localStorage), document.cookie]"
    )
    assert kept == [[token], [], ""]
    assert token not in page.url
    page.reload()
    expect(page.locator("#teacher")).to_contain_text("engine")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_scoring_can_be_stopped(opened: Opened, origin):
    page = opened(origin).page
    page.route("**/v1/score", lambda route: None)
    page.locator("#examples button").first.click()
    page.get_by_role("button", name="Score").click()
    expect(page.locator("#status")).to_contain_text("Scoring")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#status")).to_have_text("Stopped.")
    expect(page.get_by_role("button", name="Score")).to_be_enabled()
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_server_that_is_gone_is_told(opened: Opened, origin):
    watched = opened(origin)
    watched.expected = ["ERR_CONNECTION_REFUSED"]
    page = watched.page
    page.route("**/v1/score", lambda route: route.abort("connectionrefused"))
    score = page.get_by_role("button", name="Score")
    page.locator("#examples button").first.click()
    score.click()
    expect(page.get_by_role("alert")).to_contain_text("did not answer")
    expect(score).to_be_enabled()


def test_the_scores_are_copied_as_json(opened: Opened, origin):
    page = opened(origin).page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    score_example(page)
    page.get_by_role("button", name="Copy as JSON").click()
    expect(page.locator("#copied")).to_contain_text("Copied")
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert len(copied["scores"]["tokens"]) == page.locator("#tokens .token").count()
    assert copied["request"]["question"] == page.locator("#question").input_value()
    assert "image" not in copied["request"]


def answer(texts: list[str]) -> dict:
    token = {"id": 5, "vds": 1.2, "mm_logprob": -0.1, "text_logprob": -1.3}
    tokens = [token | {"text": text, "top": [token | {"text": text}]} for text in texts]
    summary = {
        "tokens": len(texts),
        "vds_mean": 1.2,
        "vds_max": 1.2,
        "vds_p90": 1.2,
        "sequence_gain": 1.2,
    }
    times = {"mm_length": 9, "text_length": 5, "queue_s": 0.0, "engine_s": 0.01}
    return {"id": None, "teacher_id": "t", "tokens": tokens, "summary": summary} | times
