"""What is refused, as OpenAI's clients expect to be told. Needs no web library."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """A request that is refused or failed; the message holds nothing of a prompt."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        self.status = status
        self.message = message
        self.param = param
        """The field that is at fault."""
        self.code = code
        super().__init__(message)

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def bad_field(param: str, message: str, code: str | None = None) -> ApiError:
    """The refusal of a field."""
    return ApiError(400, message, param=param, code=code)
