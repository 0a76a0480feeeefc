"""What is refused, and how: each time in OpenAI's form, with a status, and a message that says what to do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from pydantic import ValidationError

from llava.serve.api.errors import failed
from llava.serve.api.limits import Limits
from llava.serve.api.replies import Replies
from llava.serve.api.request import ChatRequest
from llava.serve.api.row import Piece
from tests.images.test_download import Server, whole
from tests.serve.api.conftest import PATIENCE, Running, Start, asked, part, picture

LIMITS = Limits(
    body_bytes=300_000, image_bytes=100_000, pixels=100_000, images=2, text_characters=2000, new_tokens=16, choices=2
)


@pytest.fixture(scope="module")
def running(start: Start) -> Running:
    return start(LIMITS)


def told(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return error  # type: ignore[no-any-return]


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"max_tokens": 17}, "max_tokens", "answers have at most 16 tokens"),
        ({"max_completion_tokens": 17}, "max_completion_tokens", "at most 16"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"n": 3}, "n", "at most 2 answers"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"temperature": "hot"}, "temperature", "valid number"),
        ({"temperature": 1e-40}, "temperature", "too small to divide by"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"stop": [""]}, "stop", "none of them empty"),
        ({"stop": ["a"] * 5}, "stop", "at most 4"),
        ({"stop": "a" * 257}, "stop", "over 256 characters"),
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"logprobs": True}, "logprobs", "not supported"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "not supported"),
        ({"top_k": 5}, "top_k", "no parameter 'top_k'"),
        ({"model": "tiny@visionzip:9999"}, "model", "outside"),
        ({"model": "tiny@zip"}, "model", "not of the form"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": "hi"}, "messages", "valid list"),
        ({"messages": [user("")]}, "messages", "message 1 of the conversation is empty"),
        ({"messages": [user("a"), {"role": "assistant", "content": "b"}]}, "messages", "must be the user's"),
        ({"messages": [user("a"), {"role": "system", "content": "b"}, user("c")]}, "messages", "come first"),
        ({"messages": [{"role": "tool", "content": "b"}]}, "messages.0.role", "'user'"),
        ({"messages": [user([{"type": "video_url", "url": "x"}])]}, "messages.0.content.0", "'image_url'"),
        ({"messages": [user("\ud800")]}, "messages", "not Unicode"),
        ({"messages": [user("a" * 2001)]}, "messages", "more than 2000 characters"),
        ({"messages": [user("<image> what?")]}, "messages", "names 1 <image> in its text and has 0 images"),
        ({"messages": [{"role": "system", "content": "<image>"}, user("a")]}, "messages", "cannot name <image>"),
        ({"messages": [user([part(picture(i)) for i in range(3)])]}, "messages", "3 images are more than"),
        ({"messages": [user([part(picture(0, (400, 300)))])]}, "messages", "400x300 pixels are more than the limit"),
        ({"messages": [user([part("file:///etc/passwd")])]}, "messages", "file:// is not supported"),
        ({"messages": [user([part("/etc/passwd")])]}, "messages", "begins with data:, http:// or https://"),
        ({"messages": [user([part("data:image/png;base64,!!")])]}, "messages", "image 1: the upload is damaged"),
        ({"messages": [user([part(b"%!PS-Adobe-3.0 EPSF-3.0")])]}, "messages", "not a picture"),
        ({"messages": [user([part(picture()[:80])])]}, "messages", "image"),
        ({"messages": [user([part(b"a" * 100_001)])]}, "messages", "make the file smaller"),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, Any], param: str, message: str, running: Running) -> None:
    for stream in (False, True):
        body = json.dumps(asked("Hello.", stream=stream) | change)  # so that half a character arrives as its escape
        response = httpx.post(
            f"{running.url}/v1/chat/completions",
            content=body,
            headers={"content-type": "application/json"},
            timeout=PATIENCE,
            trust_env=False,
        )
        error = told(response, 400)
        assert error["param"] == param and message in error["message"], error


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [user([1] * 100_000)]},
        {"messages": [1] * 100_000},
        {"stop": [1] * 100_000},
        {"messages": [user([part("data:") | {str(number): 1 for number in range(20_000)}])]},
        {str(number): 1 for number in range(20_000)},
        {"messages": [user([{"type": "a" * 250_000}])]},
    ],
)
def test_a_body_full_of_mistakes_is_refused_in_few_words(change: dict[str, Any], running: Running) -> None:
    body = asked("Hello.") | change
    try:
        ChatRequest.model_validate(body)
    except ValidationError as error:
        assert error.error_count() < 200, "each takes time and memory"
    response = running.post(body)
    assert len(told(response, 400)["message"]) < 1000


def test_what_says_nothing_is_let_pass(running: Running) -> None:
    neutral = {"logprobs": None, "tools": [], "frequency_penalty": 0, "response_format": {"type": "text"}, "user": "me"}
    response = running.post(asked("Hello.", metadata={"a": "b"}, store=False, **neutral))
    assert response.status_code == 200, response.text
    message = {"role": "assistant", "content": "b", "refusal": None, "tool_calls": None}
    body = asked("") | {"messages": [user("a"), message, user("c") | {"name": "Ann"}]}
    assert running.post(body).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/v1/chat/completions", 405), ("POST", "/v1/completions", 404)],
)
def test_other_routes_are_refused_in_json(method: str, path: str, status: int, running: Running) -> None:
    told(httpx.request(method, running.url + path, trust_env=False, timeout=PATIENCE), status)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 50_000, b"1" * 10_000])
def test_a_body_that_is_no_request_is_refused(content: bytes, running: Running) -> None:
    url, headers = f"{running.url}/v1/chat/completions", {"content-type": "application/json"}
    told(httpx.post(url, content=content, headers=headers, trust_env=False, timeout=PATIENCE), 400)
    told(httpx.post(url, content=b"a" * 300_001, headers=headers, trust_env=False, timeout=PATIENCE), 413)


def test_a_body_of_unknown_length_is_read_up_to_the_limit(running: Running) -> None:
    def endless():  # type: ignore[no-untyped-def]
        for _ in range(1000):
            yield b"a" * 10_000

    url = f"{running.url}/v1/chat/completions"
    told(httpx.post(url, content=endless(), trust_env=False, timeout=PATIENCE), 413)


def test_another_name_of_this_machine_is_not_answered_to(running: Running) -> None:
    """As where the page of another site has its name lead here."""
    response = httpx.get(f"{running.url}/v1/models", headers={"host": "evil.example"}, trust_env=False)
    assert told(response, 403)["type"] == "permission_error"


def test_a_prompt_that_is_too_long_is_refused(start: Start) -> None:
    running = start(Limits(text_characters=100_000))
    error = told(running.post(asked("word " * 5000)), 400)
    assert "tokens long" in error["message"] and "model sees" in error["message"]


def test_only_who_has_the_key_is_let_in(start: Start) -> None:
    running = start(key="s3cret", local_only=False)
    assert running.client.chat.completions.create(**asked("Hello.")).choices
    for key in ("wrong", "s3cret2", "\u00e9"):
        headers = {"authorization": f"Bearer {key}".encode()}
        assert told(running.post(asked("Hello."), headers=headers), 401)["code"] == "invalid_api_key"
    told(httpx.get(f"{running.url}/metrics", trust_env=False, timeout=PATIENCE), 401)
    assert httpx.get(f"{running.url}/health", trust_env=False, timeout=PATIENCE).json() == {"status": "ok"}


def test_images_of_private_networks_are_fetched_where_that_is_allowed(start: Start) -> None:
    web = Server()
    web.answers["/a.png"] = whole(picture())
    web.answers["/r"] = whole(b"", "Location: /a.png", status="302 Found")
    web.answers["/large"] = whole(b"a" * 200_000)
    body = asked("What is this?", f"{web.url}/a.png")
    error = told(start(LIMITS).post(body), 400)
    assert "private address (--allow-private-urls" in error["message"] and not web.requests
    running = start(LIMITS, allow_private=True)
    text = running.post(body).json()["choices"][0]["message"]["content"]
    assert text == running.post(asked("What is this?", picture())).json()["choices"][0]["message"]["content"]
    assert running.post(asked("What is this?", f"{web.url}/r")).status_code == 200
    assert "larger than" in told(running.post(asked("What?", f"{web.url}/large")), 400)["message"]
    assert "answers 404" in told(running.post(asked("What?", f"{web.url}/none")), 400)["message"]
    web.listening.close()


def test_images_at_urls_are_bounded_together(start: Start) -> None:
    web, images = Server(), [picture(number, (300, 200)) for number in range(2)]
    web.answers |= {f"/{number}.png": whole(image) for number, image in enumerate(images)}
    running = start(Limits(body_bytes=sum(map(len, images)) - 1, new_tokens=16), allow_private=True)
    assert running.post(asked("What?", f"{web.url}/0.png")).status_code == 200
    error = told(running.post(asked("What?", f"{web.url}/0.png", f"{web.url}/1.png")), 400)
    assert "at URLs are larger" in error["message"]
    web.listening.close()


def test_an_error_on_the_way_ends_a_stream_without_its_last_word() -> None:
    async def events() -> AsyncIterator[tuple[int, Piece]]:
        yield 0, Piece("Half an")
        raise failed("the model failed")

    async def chunks() -> list[bytes]:
        return [chunk async for chunk in Replies("tiny", 0).chunks(events(), includes_usage=False)]

    *_, piece, last = asyncio.run(chunks())
    assert b"Half an" in piece and json.loads(last.removeprefix(b"data: "))["error"]["message"] == "the model failed"
    handler = httpx.MockTransport(
        lambda request: httpx.Response(
            200, headers={"content-type": "text/event-stream"}, content=b"".join(asyncio.run(chunks()))
        )
    )
    client = openai.OpenAI(base_url="http://t/v1", api_key="k", http_client=httpx.Client(transport=handler))
    said = []
    with pytest.raises(openai.APIError, match="the model failed"):
        for chunk in client.chat.completions.create(model="tiny", messages=[user("a")], stream=True):
            said.append(chunk.choices[0].delta.content)
    assert said == ["", "Half an"]
