import base64
import json
from pathlib import Path

import pytest

from student_trainer.data_config import DataConfig
from teacher_server.scoring.bad_row import BadRow
from teacher_server.scoring.column_mapping import ColumnMapping
from teacher_server.scoring.image_folder import ImageFolder
from tests.pictures import noise

HERE = ImageFolder(Path())
ONE, TWO = noise(1), noise(2)
IMAGE = {"type": "image"}
CHAT = ColumnMapping(messages_column="messages")


def text(said: str) -> dict[str, str]:
    return {"type": "text", "text": said}


def user(content) -> dict:
    return {"role": "user", "content": content}


def assistant(content) -> dict:
    return {"role": "assistant", "content": content}


def sample(mapping: ColumnMapping = ColumnMapping(), **values):  # noqa: B008
    return mapping.sample(4, values, HERE)


def test_question_and_response():
    found = sample(image=ONE, question="what?", response=" a fox\n")
    assert found.row == 4
    assert found.id == "4"
    assert found.messages == (user([IMAGE, text("\nwhat?")]),)
    assert [image.read() for image in found.images] == [ONE]
    assert found.response == " a fox\n", "it is scored as it stands"
    assert found.turns == ()


def test_other_names_several_images_and_a_system_prompt():
    mapping = ColumnMapping("pics", "q", "a", id_column="key", system_prompt="Be brief.")
    found = sample(mapping, pics=[ONE, TWO], q="which?", a=7, key=12)
    assert found.id == "12"
    assert found.messages == (
        {"role": "system", "content": "Be brief."},
        user([IMAGE, IMAGE, text("\nwhich?")]),
    )
    assert found.response == "7"


def test_the_wire_gets_what_was_mapped():
    found = sample(image=ONE, question="wé?", response="r")
    prompt, item = found.prompt("grey"), found.item(deadline_s=3)
    assert json.loads(prompt.messages) == list(found.messages)
    assert (prompt.images, prompt.text_context) == ((ONE,), "grey")
    assert (item.response_text, item.response_turns) == ("r", None)
    assert (item.mode, item.priority, item.token_texts, item.deadline_s) == (
        "vds_only",
        "score",
        True,
        3,
    )


def test_messages_whose_last_turn_is_the_response():
    turns = [user([IMAGE, text("what?")]), assistant("a fox")]
    for value in (turns, json.dumps(turns), tuple(turns)):
        found = sample(CHAT, image=ONE, messages=value)
        assert found.messages == (turns[0],)
        assert found.response == "a fox"


def test_images_come_before_the_first_question_where_no_place_is_named():
    turns = [{"role": "system", "content": "s"}, user("what?"), assistant("a fox")]
    found = sample(CHAT, image=[ONE, TWO], messages=turns)
    assert found.messages == (turns[0], user([IMAGE, IMAGE, text("\nwhat?")]))


def test_what_stands_between_images_and_question_is_the_trainers():
    assert ColumnMapping().after_images == DataConfig().after_images
    for after in ("", "\n", " : "):
        found = sample(ColumnMapping(after_images=after), image=ONE, question="q", response="r")
        assert found.messages == (user([IMAGE, text(after + "q")]),)
    # Whoever gives parts, or marks the places, says all that there is.
    parts = [user([text("what?")]), assistant("a fox")]
    assert sample(CHAT, image=ONE, messages=parts).messages == (user([IMAGE, text("what?")]),)
    parts = [user([IMAGE, text("what?")]), assistant("a fox")]
    assert sample(CHAT, image=ONE, messages=parts).messages == (parts[0],)
    kept = ColumnMapping(after_images="").to_json()
    assert kept["after_images"] == ""
    assert ColumnMapping.from_json(kept).after_images == ""


def test_every_turn_of_the_assistant_is_scored():
    turns = [
        user("what?"),
        assistant("a fox"),
        user("where?"),
        assistant([text("in the "), text("snow")]),
    ]
    found = sample(CHAT, image=ONE, messages=turns)
    assert found.response is None
    assert found.messages == (user([IMAGE, text("\nwhat?")]),)
    assert found.turns == tuple(turns[1:])
    assert json.loads(found.item().response_turns) == turns[1:]
    assert found.item().response_text is None


def test_sharegpt_with_a_marker():
    turns = [
        {"from": "human", "value": "<image>\nWhat?"},
        {"from": "gpt", "value": "A fox."},
    ]
    marked = ColumnMapping(messages_column="conversations", image_marker="<image>")
    found = sample(marked, image=ONE, conversations=turns)
    assert found.messages == (user([IMAGE, text("\nWhat?")]),)
    assert found.response == "A fox."
    plain = ColumnMapping(messages_column="conversations")
    found = sample(plain, image=ONE, conversations=turns)
    assert found.messages == (user([IMAGE, text("\n<image>\nWhat?")]),), "no text is magic unasked"


def test_a_marker_inside_the_question():
    marked = ColumnMapping(image_marker="<image>")
    found = sample(marked, image=[ONE, TWO], question="<image> or <image>?", response="r")
    assert found.messages == (user([IMAGE, text(" or "), IMAGE, text("?")]),)
    found = sample(marked, image=[ONE, TWO], question="which?", response="r")
    assert found.messages == (user([IMAGE, IMAGE, text("\nwhich?")]),)
    with pytest.raises(BadRow, match="1 places for 2 images"):
        sample(marked, image=[ONE, TWO], question="<image>?", response="r")


def test_the_response_may_stand_beside_the_messages():
    turns = [user("a"), assistant("b"), user("c")]
    mapping = ColumnMapping(messages_column="messages", response_column="chosen")
    found = sample(mapping, image=ONE, messages=turns, chosen="d")
    assert found.messages == (user([IMAGE, text("\na")]), *turns[1:])
    assert found.response == "d"


def test_parts_may_bring_their_images():
    uri = "data:image/png;base64," + base64.b64encode(TWO).decode()
    parts = [
        {"type": "image", "image": ONE, "text": None},  # as Parquet has it: every field, most null
        {"type": "text", "text": "and", "image": None},
        {"type": "image_url", "image_url": {"url": uri}},
        {"type": "image"},
    ]
    found = sample(CHAT, image=ONE, messages=[user(parts), assistant("r")])
    assert [image.read() for image in found.images] == [ONE, TWO, ONE]
    assert found.messages == (user([IMAGE, text("and"), IMAGE, IMAGE]),)


def test_a_system_prompt_does_not_displace_the_rows_own():
    mapping = ColumnMapping(messages_column="messages", system_prompt="ours")
    theirs = [{"role": "system", "content": "theirs"}, user("q"), assistant("r")]
    assert sample(mapping, image=ONE, messages=theirs).messages[0]["content"] == "theirs"
    assert sample(mapping, image=ONE, messages=theirs[1:]).messages[0]["content"] == "ours"


ROW = {"image": ONE, "question": "q", "response": "r"}
BAD = [
    (ROW | {"image": None}, "no_image", "no image"),
    (ROW | {"image": []}, "no_image", "no image"),
    (ROW | {"image": "http://a/b.png"}, "remote_image", "http://a/b.png"),
    (ROW | {"question": None}, "missing_column", "'question'"),
    (ROW | {"question": 3}, "bad_messages", "'question' is a int"),
    (ROW | {"response": None}, "empty_response", "'response' is missing"),
    (ROW | {"response": " \n"}, "empty_response", "'response' is empty"),
    (ROW | {"response": ["r"]}, "empty_response", "is a list"),
    (ROW | {"response": True}, "empty_response", "is a bool"),
    (ROW | {"response": 10**5000}, "empty_response", "'response' is int"),
    (ROW | {"response": "half \ud800"}, "unreadable_row", "not Unicode"),
]  # fmt: skip
BAD_CHATS = [
    ([user([IMAGE, IMAGE]), assistant("r")], "image_count", "2 places for 1 images"),
    ([user([{"type": "image", "image": TWO}]), assistant("r")], "image_count", "0 places for 1"),
    ([user("q"), assistant("r"), user([IMAGE]), assistant("s")], "image_count", "after the first response"),
    ([user("q")], "empty_response", "end with a turn of the user's"),
    ([user("q"), assistant("")], "empty_response", "the assistant's turn is empty"),
    ([user("q"), assistant(""), user("q"), assistant("")], "empty_response", "every turn"),
    ([assistant("r")], "bad_messages", "before the user"),
    ([{"role": "system", "content": "s"}, assistant("r")], "bad_messages", "before the user"),
    ([user("q"), assistant([IMAGE])], "bad_messages", "message 1 is the assistant's and shows an image"),
    ([user(None), assistant("r")], "bad_messages", "message 0 has no content"),
    ([user(5), assistant("r")], "bad_messages", "a int for content"),
    ([user([{"type": "audio"}]), assistant("r")], "bad_messages", "message 0, part 0 is neither"),
    ([user([{"type": "image_url", "image_url": {"url": "https://a/b"}}]), assistant("r")], "remote_image", "https://a/b"),
    ([user([{"type": "image", "image": [ONE, TWO]}]), assistant("r")], "image_count", "2 images in one part"),
    ([{"role": "tool", "content": "x"}], "bad_messages", "role tool"),
    ([{"role": ["user"], "content": "x"}], "bad_messages", "role list ['user']"),
    ([{"role": {"a": 1}, "content": "x"}], "bad_messages", "role dict"),
    ("[" * 100_000, "bad_messages", "not JSON"),
    (["hello"], "bad_messages", "message 0 is a str"),
    ([], "bad_messages", "a list"),
    ("not json", "bad_messages", "not JSON"),
    ('{"role": "user"}', "bad_messages", "a dict"),
    (None, "missing_column", "'messages'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("mapping", "values", "code", "says"),
    [
        *((ColumnMapping(), *case) for case in BAD),
        *((CHAT, {"image": ONE, "messages": chat}, *rest) for chat, *rest in BAD_CHATS),
        (CHAT, {"messages": [user([IMAGE]), assistant("r")]}, "no_image", "1 places for 0 images"),
        (CHAT, {"messages": [user("q"), assistant("r")]}, "no_image", "no image"),
        (
            ColumnMapping(id_column="id"),
            ROW | {"id": 10**5000},
            "unreadable_row",
            "the id 'id' is int",
        ),
    ],
)
def test_bad_rows_say_what_is_wrong(mapping, values, code, says):
    with pytest.raises(BadRow) as caught:
        mapping.sample(0, values, HERE)
    assert caught.value.code == code
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("mapping", "columns", "flag"),
    [
        (ColumnMapping(), "image question answer", "--response-column"),
        (ColumnMapping(), "image prompt response", "--question-column (or --messages-column)"),
        (ColumnMapping(), "img question response", "--image-column"),
        (ColumnMapping(id_column="key"), "image question response", "--id-column"),
        (CHAT, "image conversations", "--messages-column"),
        (ColumnMapping(messages_column="m", response_column="r"), "m", "--response-column"),
    ],
)
def test_missing_columns_are_told_with_their_flag(mapping, columns, flag):
    with pytest.raises(ValueError, match="has no column") as caught:
        mapping.check(columns.split(), "data.jsonl")
    assert flag in str(caught.value)
    assert columns.split()[0] in str(caught.value), "it says what there is"


def test_columns_that_are_enough():
    ColumnMapping().check(["response", "question", "image", "more"], "d")
    CHAT.check(["messages"], "d")
    assert CHAT.columns == ["image", "messages"]


@pytest.mark.parametrize(
    "mapping",
    [
        ColumnMapping(),
        CHAT,
        ColumnMapping("i", "q", "a", id_column="k", system_prompt="s"),
        ColumnMapping(messages_column="m", response_column="r", image_marker="<image>"),
    ],
)
def test_a_manifest_gives_the_mapping_back(mapping):
    kept = json.loads(json.dumps(mapping.to_json()))
    again = ColumnMapping.from_json(kept)
    assert again.to_json() == mapping.to_json()
    assert again.columns == mapping.columns
