"""Error responses in the form that OpenAI's and ElevenLabs' clients expect."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


class ApiError(Exception):
    """A request is refused or failed.

    Attributes:
        status: the HTTP status.
        kind: the error's ``type``: ``invalid_request_error``, ``authentication_error``, ``not_found_error``,
            ``overloaded_error`` or ``server_error``.
        param: the invalid field, if any.
        code: a fixed name of the error, for programs.
        headers: additional headers of the response.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.param, self.code, self.headers = status, kind, param, code, headers or {}

    def body(self) -> dict[str, Any]:
        """The response's JSON."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}

    def renamed(self, names: Mapping[str, str]) -> ApiError:
        """The same error for a client that calls our fields by other names."""
        if self.param is None or self.param not in names:
            return self
        param = names[self.param]
        message = re.sub(rf"^{self.param}\b", param, str(self))
        return ApiError(self.status, self.kind, message, param=param, code=self.code, headers=self.headers)


def invalid(message: str, param: str | None = None, code: str = "invalid_value", status: int = 400) -> ApiError:
    """The request itself is wrong."""
    return ApiError(status, "invalid_request_error", message, param=param, code=code)


def overloaded(message: str, retry_after_s: int, code: str = "queue_full") -> ApiError:
    """There is no room now; the client should retry."""
    return ApiError(503, "overloaded_error", message, code=code, headers={"Retry-After": str(retry_after_s)})
