"""Errors as OpenAI's clients read them."""

from __future__ import annotations

import json
from typing import Any


class ApiError(Exception):
    """Why a request is not answered.

    Attributes:
        status: Of HTTP.
        message: For people.
        kind: OpenAI's `type`.
        param: Which field is to blame, or None.
        code: OpenAI's `code`, or None.
        retry_after: Seconds after which the client may try again, or None.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        """Takes what the class says."""
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.param, self.code, self.retry_after = param, code, retry_after

    def to_json(self) -> bytes:
        """The body of the reply; also what a stream says in place of its next piece."""
        told = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return as_json({"error": told})

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Of the reply."""
        found = [(b"content-type", b"application/json")]
        if self.retry_after is not None:
            found.append((b"retry-after", str(self.retry_after).encode()))
        if self.status == 401:
            found.append((b"www-authenticate", b"Bearer"))
        return found


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that is wrong."""
    return ApiError(400, message, param=param, code=code)


def failed(message: str) -> ApiError:
    """A request that is right, and an answer that could not be made."""
    return ApiError(500, message, "server_error")


def as_json(value: Any) -> bytes:
    """JSON in ASCII, so that half a character in a client's text cannot stop the reply that tells of it."""
    return json.dumps(value).encode()
