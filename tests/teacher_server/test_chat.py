"""Messages and texts, which the teacher renders and tokenises, against ids that a client made itself."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, processors
from transformers import AutoProcessor, PreTrainedTokenizerFast

from protos.client import TeacherClient
from protos.errors import InvalidItem, PreconditionFailed
from protos.item import ScoreItem
from protos.prompt import ChatPrompt
from teacher_server.chat_format import ChatFormat
from tests.conftest import TOY
from tests.loopback import serving
from tests.reference import Reference

IMAGE: dict[str, Any] = {"type": "image"}
ANSWER = "a temple under the sky"


def user(*parts: str | dict[str, Any]) -> dict[str, Any]:
    content = [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]
    return {"role": "user", "content": content}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def chat(*messages: dict[str, Any], images: tuple[bytes, ...] = (), **options: Any) -> ChatPrompt:
    return ChatPrompt(json.dumps(messages), images, **options)


@pytest.fixture(scope="module")
def toy() -> ChatFormat:
    return ChatFormat(AutoProcessor.from_pretrained(TOY / "teacher"))


async def test_messages_and_text_score_as_their_ids_do(
    qwen_server: str, qwen_reference: Reference, photographs: tuple[bytes, bytes]
):
    item = ScoreItem(qwen_reference.ids(ANSWER), k=5)
    async with TeacherClient(qwen_server) as teacher:
        ids = await teacher.put_prompt(qwen_reference.prompt("what is it?", photographs))
        put = await teacher.put_prompt(chat(user(IMAGE, IMAGE, "what is it?"), images=photographs))
        assert (put.mm_length, put.text_length) == (ids.mm_length, ids.text_length)
        expected = await teacher.score(ids, item)
        got = await teacher.score(put, ScoreItem(response_text=ANSWER, k=5, token_texts=True))
    assert "".join(got.token_texts) == ANSWER
    np.testing.assert_array_equal(got.response_ids, item.response_ids)
    np.testing.assert_array_equal(got.support_ids, expected.support_ids)
    np.testing.assert_allclose(got.vds, expected.vds, atol=1e-5)
    qwen_reference.check(got, "what is it?", photographs, item.response_ids)


async def test_every_turn_of_the_assistant_is_scored(
    qwen_server: str, qwen_reference: Reference, photographs: tuple[bytes, bytes]
):
    """Each as if it were a response to all that stands before it."""
    image = photographs[:1]
    first, second = "a temple", "it is blue, and wide"
    question = user(IMAGE, "what is it?")
    turns = [assistant(first), user("and the sky?"), assistant(second)]
    async with TeacherClient(qwen_server) as teacher:
        put = await teacher.put_prompt(chat(question, images=image))
        both = await teacher.score(
            put,
            ScoreItem(response_turns=json.dumps(turns), mode="vds_only", token_texts=True),
        )
        alone = await teacher.score(put, ScoreItem(response_text=first, mode="vds_only"))
        later = await teacher.put_prompt(chat(question, *turns[:2], images=image))
        last = await teacher.score(later, ScoreItem(response_text=second, mode="vds_only"))
    assert both.rows == alone.rows + last.rows
    assert "".join(both.token_texts) == first + second
    for name in ("vds", "sampled_mm_logprobs", "sampled_text_logprobs"):
        expected = np.concatenate([getattr(alone, name), getattr(last, name)])
        np.testing.assert_allclose(getattr(both, name), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("turns", "says"),
    [
        ([user("and?"), assistant("yes")], "the first of the turns is the user's"),
        ([assistant("yes"), user("and?")], "the last of the turns is the user's"),
        ([assistant("yes"), user(IMAGE, "and?"), assistant("no")], "shows an image"),
        ([assistant("")], "no token of the assistant's"),
    ],
)
async def test_turns_that_can_not_be_scored(qwen_server: str, turns: list[Any], says: str):
    async with TeacherClient(qwen_server) as teacher:
        put = await teacher.put_prompt(chat(user("what is it?")))
        with pytest.raises(InvalidItem, match=says):
            await teacher.score(
                put, ScoreItem(response_turns=json.dumps(turns), mode="sampled_only")
            )
        assert (await teacher.score(put, ScoreItem(response_text="a temple", k=4))).rows > 0


async def test_turns_need_messages_to_follow(qwen_server: str, qwen_reference: Reference):
    async with TeacherClient(qwen_server) as teacher:
        put = await teacher.put_prompt(qwen_reference.prompt("what is it?"))
        with pytest.raises(PreconditionFailed, match="the prompt came as ids"):
            await teacher.score(
                put, ScoreItem(response_turns=json.dumps([assistant("yes")]), mode="vds_only")
            )


def test_a_template_that_rewrites_the_past_is_refused(toy: ChatFormat, monkeypatch: Any):
    monkeypatch.setattr(
        ChatFormat, "_render", lambda self, messages, with_images=True: str(len(messages))
    )
    turns = json.dumps([assistant("yes"), user("and?"), assistant("no")])
    with pytest.raises(InvalidItem, match="otherwise than when it was answered"):
        toy.turns(json.dumps([user("what?")]), turns)


@settings(deadline=None, max_examples=200)
@given(text=st.text(max_size=40))
def test_texts_of_tokens_are_the_decoded_text(qwen_format: ChatFormat, text: str):
    ids = qwen_format._ids(text)
    texts = qwen_format.texts(ids)
    assert len(texts) == len(ids)
    whole = qwen_format._tokenizer.decode(ids.tolist(), skip_special_tokens=False)
    assert "".join(texts) == whole


@settings(deadline=None, max_examples=200)
@given(data=st.data(), length=st.integers(0, 40))
@pytest.mark.parametrize("kind", ["byte-level", "byte-fallback"])
def test_texts_of_any_ids_are_the_decoded_whole(
    qwen_format: ChatFormat, fallback: ChatFormat, kind: str, data: st.DataObject, length: int
):
    """But for what stands for bytes that are no character: byte fallback gives up a whole run of them at once."""
    found = qwen_format if kind == "byte-level" else fallback
    ids = data.draw(
        st.lists(st.integers(0, len(found._tokenizer) - 1), min_size=length, max_size=length)
    )
    texts = found.texts(ids)
    assert len(texts) == len(ids)
    whole = found._tokenizer.decode(ids, skip_special_tokens=False)
    if "\ufffd" not in whole:
        assert "".join(texts) == whole
    elif kind == "byte-level":
        assert "".join(texts).replace("\ufffd", "") == whole.replace("\ufffd", "")


def test_what_never_becomes_a_character_is_shown_and_takes_no_long(fallback: ChatFormat):
    byte = fallback._tokenizer.convert_tokens_to_ids("<0xC3>")
    started_s = time.monotonic()
    texts = fallback.texts([byte] * 3000)
    assert time.monotonic() - started_s < 5
    assert set("".join(texts)) == {"\ufffd"}


@pytest.fixture(scope="module")
def fallback() -> ChatFormat:
    """As Llama's tokenizer is made: a token for every byte, and a BOS that the template does not write."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["\u2581", *"abcdefghijklmnopqrstuvwxyz:?.", "\u2581the", "é"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    model = models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>")
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    return ChatFormat(Words(tokenizer, VICUNA))


VICUNA = (
    "{% for m in messages %}{{ m.role }}: "
    "{% for p in m.content %}{{ p.text }}{% endfor %} {% endfor %}assistant:"
)
STRINGS = "{% for m in messages %}{{ m.role }}: {{ m.content | trim }} {% endfor %}assistant:"


class Words:
    """A processor of texts."""

    def __init__(self, tokenizer: Any, template: str) -> None:
        self.tokenizer, self.chat_template = tokenizer, template

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        return self.tokenizer.apply_chat_template(
            messages, chat_template=self.chat_template, **options
        )


def test_the_token_that_begins_every_text_stands_once(fallback: ChatFormat):
    plain = json.dumps([user("the?")])
    ids = fallback.prompt(ChatPrompt(plain)).mm_ids
    assert ids.tolist().count(1) == 1
    assert ids[0] == 1
    written = ChatFormat(Words(fallback._tokenizer, "<s>" + VICUNA))
    again = written.prompt(ChatPrompt(plain)).mm_ids
    assert again.tolist().count(1) == 1
    assert not (fallback.response("the?") == 1).any(), "a response goes on"


def test_a_template_that_wants_a_plain_text_gets_one(fallback: ChatFormat):
    found = ChatFormat(Words(fallback._tokenizer, STRINGS))
    ids = found.prompt(ChatPrompt(json.dumps([user("is it ", "the?")]))).mm_ids
    assert "user: is it the?" in found._tokenizer.decode(ids)
    with pytest.raises(InvalidItem, match="no images in a turn of the user's"):
        found.prompt(ChatPrompt(json.dumps([user(IMAGE, "the?")]), (b"x",)))


def test_a_fingerprint_is_of_template_and_tokenizer(fallback: ChatFormat, toy: ChatFormat):
    other = ChatFormat(Words(fallback._tokenizer, STRINGS))
    again = ChatFormat(Words(fallback._tokenizer, VICUNA))
    assert fallback.fingerprint == again.fingerprint
    assert len({fallback.fingerprint, other.fingerprint, toy.fingerprint}) == 3


def test_a_processor_without_a_template_makes_no_format(fallback: ChatFormat):
    assert ChatFormat.of(Words(fallback._tokenizer, "")) is None


def test_too_many_turns_are_refused(toy: ChatFormat):
    turns = [assistant("1"), *[user("2"), assistant("3")] * 100]
    with pytest.raises(InvalidItem, match="201 turns, the limit is 200"):
        toy.turns(json.dumps([user("0")]), json.dumps(turns))


async def test_text_past_the_limit_is_not_tokenised(qwen: Path):
    with serving(qwen, limits={"max_text_bytes": 1000}) as address:
        async with TeacherClient(address) as teacher:
            assert teacher.info.limits.max_text_bytes == 1000
            assert teacher.info.text_fingerprint
            with pytest.raises(InvalidItem, match=r"messages_json has .* bytes, the limit is 1000"):
                await teacher.put_prompt(chat(user("a" * 1000)))
            put = await teacher.put_prompt(chat(user("what is it?")))
            with pytest.raises(InvalidItem, match="response_text has 1001 bytes"):
                await teacher.score(put, ScoreItem(response_text="a" * 1001, mode="vds_only"))


def test_a_character_of_several_tokens_stands_where_it_is_complete(qwen_format: ChatFormat):
    ids = qwen_format._ids("é🙂!")
    texts = qwen_format.texts(ids)
    assert [t for t in texts if t] == ["é", "🙂", "!"]
    assert len(ids) > 3, "bytes are tokens of their own in this vocabulary"


@pytest.fixture(scope="module")
def qwen_format(qwen: Path) -> ChatFormat:
    return ChatFormat(AutoProcessor.from_pretrained(qwen))


@settings(deadline=None, max_examples=300)
@given(
    messages=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["role", "content", "type", "text", "image"]), inner, max_size=3
            )
        ),
        max_leaves=12,
    ).map(json.dumps)
    | st.text(max_size=20)
)
def test_whatever_comes_as_messages_is_rendered_or_refused(toy: ChatFormat, messages: str):
    try:
        prompt = toy.prompt(ChatPrompt(messages))
    except InvalidItem as refused:
        error = refused
    else:
        assert len(prompt.mm_ids)
        return
    assert error.detail.field.startswith("messages_json")
    assert len(error.message) < 500
