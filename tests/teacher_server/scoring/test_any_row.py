"""Whatever a row holds, it gives a sample or is told to be bad: no row ends a run."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacher_server.scoring.bad_row import BadRow
from teacher_server.scoring.column_mapping import ColumnMapping
from teacher_server.scoring.image_folder import ImageFolder
from teacher_server.scoring.sample import Sample
from tests.pictures import noise

WORDS = (
    *("user", "assistant", "system", "human", "gpt", "role", "content", "from", "value", "type"),
    *("text", "image", "image_url", "url", "bytes", "path", "<image>", "a <image> b", "\ud800"),
    *(
        "data:image/png;base64,",
        "data:image/png;base64,é",
        "https://a/b",
        "../a",
        "/etc/passwd",
        "\0",
    ),
    *("[" * 100_000, "[]", "9" * 5000, '[{"role": "user", "content": "q"}]'),
)
TEXTS = st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=()))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXTS
    | st.binary()
    | st.just(noise(1))
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=8
)
IMAGES = st.one_of(
    VALUES,
    st.fixed_dictionaries({}, optional={"bytes": VALUES, "path": VALUES}),
    st.just(noise(1)),
)
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image", "image_url"]) | VALUES},
    optional={"text": VALUES, "image": IMAGES, "image_url": VALUES},
)
TURNS = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "user", "assistant"]) | VALUES,
        "content": TEXTS | st.lists(PARTS | VALUES, max_size=3) | VALUES,
    }
)
MESSAGES = st.lists(TURNS | VALUES, max_size=4) | VALUES
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "image": IMAGES | st.lists(IMAGES, max_size=2),
        "question": VALUES,
        "messages": MESSAGES,
        "response": VALUES,
        "id": VALUES,
    },
)
MAPPINGS = st.builds(
    ColumnMapping,
    response_column=st.sampled_from([None, "response"]),
    messages_column=st.sampled_from([None, "messages"]),
    id_column=st.sampled_from([None, "id"]),
    image_marker=st.sampled_from([None, "<image>"]),
    system_prompt=st.sampled_from([None, "Be brief."]),
)
NESTED: dict = {}
for _ in range(5000):
    NESTED = {"bytes": NESTED, "content": [NESTED], "role": NESTED}


def judge(mapping: ColumnMapping, row: dict, folder: ImageFolder) -> None:
    try:
        found = mapping.sample(0, row, folder)
    except BadRow as error:
        str(error).encode()
        return
    assert isinstance(found, Sample)
    json.loads(found.prompt("drop").messages)
    assert found.memory_bytes
    found.item()
    found.id.encode()


@given(MAPPINGS, ROWS)
def test_any_row_is_a_sample_or_a_bad_row(tmp_path_factory, mapping, row):
    judge(mapping, row, ImageFolder(tmp_path_factory.getbasetemp()))


@pytest.mark.parametrize("column", ["image", "question", "messages", "response", "id"])
@pytest.mark.parametrize(
    "value",
    [NESTED, [NESTED], 10**5000, "[" * 100_000],
    ids=["nested", "nested in a list", "digits", "brackets"],
)
def test_deep_and_long_values(column, value, tmp_path):
    row = {"image": noise(1), "question": "q", "response": "r", "id": "i", column: value}
    for messages in (None, "messages"):
        mapping = ColumnMapping(
            messages_column=messages, response_column="response", id_column="id"
        )
        judge(mapping, row, ImageFolder(tmp_path))
