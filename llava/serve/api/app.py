"""The routes of the server, as a FastAPI application behind its door."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from llava.serve.api.answering import Answering
from llava.serve.api.door import Door
from llava.serve.api.errors import ApiError, as_json, failed, invalid
from llava.serve.api.questions import make_question
from llava.serve.api.replies import Replies
from llava.serve.api.request import ChatRequest
from llava.serve.api.row import Finished, Piece
from llava.serve.api.service import Service
from llava.utils import shown

_LONGEST = 300  # characters of a message that may quote the client
_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}  # a proxy is to hand it on at once


def make_app(service: Service) -> FastAPI:
    """The application; the engine starts and ends with it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(title="LLaVA with VisionZip", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(
        Door,
        limits=service.limits,
        key=service.key,
        local_only=service.local_only,
        most_open=service.limits.waiting + service.engine.batch_size,
        retry_after=service.retry_after,
        on_reply=service.metrics.request,
        on_open=service.metrics.open_requests,
    )
    _add_errors(app)
    _add_routes(app, service)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        return await _chat(service, body, request)

    @app.get("/v1/models")
    async def models() -> Response:
        return _json(service.names.listed())

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> Response:
        return _json(service.names.described(model))

    @app.get("/health")
    async def health() -> Response:
        is_well = service.engine.is_alive
        return _json({"status": "ok" if is_well else "the engine has ended"}, 200 if is_well else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


async def _chat(service: Service, body: ChatRequest, request: Request) -> Response:
    """One request for chat completions."""
    limits, metrics = service.limits, service.metrics
    body.check(limits)
    budget = service.names.budget_of(body.model)
    question = make_question(body.messages, limits)
    question = replace(question, images=await service.read_images(question.images, budget))
    answering = Answering(body, question, budget, limits, service.temperature, metrics.finished)
    replies = Replies(body.model, len(question.images))
    service.engine.submit(answering.rows)
    gone = asyncio.create_task(answering.cancel_when_gone(request.receive))

    def end() -> None:
        gone.cancel()
        answering.cancel()

    events = answering.events()
    try:
        if body.stream:
            first = await anext(events)  # what fails before it is an error with a status of its own
            chunks = replies.chunks(_followed_by(first, events), includes_usage=body.includes_usage)
            return _EventStream(chunks, end)
        ends = {place: event async for place, event in events if isinstance(event, Finished)}
    except BaseException:
        end()
        raise
    end()
    return _json(replies.whole([ends[place] for place in sorted(ends)]))


class _EventStream(StreamingResponse):
    """A stream that says when it has ended, or was left."""

    def __init__(self, chunks: AsyncIterator[bytes], end: Callable[[], None]) -> None:
        super().__init__(chunks, media_type="text/event-stream", headers=_STREAM_HEADERS)
        self._end = end

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Sends it; that the client has left is noticed by whoever made the chunks."""
        try:
            await self.stream_response(send)
        finally:
            self._end()


async def _followed_by(
    first: tuple[int, Piece | Finished], events: AsyncIterator[tuple[int, Piece | Finished]]
) -> AsyncIterator[tuple[int, Piece | Finished]]:
    yield first
    async for event in events:
        yield event


# ----- Errors ----------------------------------------------------------------


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def told(request: Request, error: ApiError) -> Response:
        return _refusal(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        return _refusal(_of_validation(error))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        message = f"{error.detail}: {request.method} {request.url.path}"
        return _refusal(ApiError(error.status_code, message))

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        return _refusal(failed(f"the server failed: {type(error).__name__}"))


def _of_validation(error: RequestValidationError) -> ApiError:
    """The one of pydantic's complaints that is deepest in the body: of a text or a list, it is about what was meant."""
    worst: dict[str, Any] = max(error.errors(), key=lambda each: len(each["loc"]))
    where = [str(part) for part in worst["loc"][1:] if part != "str" and not str(part).startswith("list[")]
    if worst["type"] == "json_invalid":
        return invalid(f"the body is no JSON: {worst.get('ctx', {}).get('error', worst['msg'])}")
    if not where:
        return invalid("the body must be a JSON object, sent with Content-Type: application/json")
    name = shown(".".join(where))  # a part of it, and of the message, may be the client's own words
    return invalid(f"{name}: {shown(worst['msg'], _LONGEST)}", name)


def _refusal(error: ApiError) -> Response:
    headers = {name.decode(): value.decode() for name, value in error.headers()}
    return Response(error.to_json(), error.status, headers)


def _json(value: Any, status: int = 200) -> Response:
    return Response(as_json(value), status, media_type="application/json")
