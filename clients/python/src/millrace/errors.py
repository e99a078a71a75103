"""Why a call was not answered: one exception a gRPC status, with what the server says about it.

What is wrong with arguments is raised before anything is sent, as the `InvalidArgument` that the server would give.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, cast

import grpc
from google.protobuf.message import DecodeError

from ._proto import details_pb2

__all__ = [
    "DeadlineExceeded",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "MillraceError",
    "NotFound",
    "OutOfRange",
    "Overloaded",
    "PermissionDenied",
    "Unauthenticated",
    "Unavailable",
    "Violation",
]


@dataclass(frozen=True)
class Violation:
    """What is wrong with one field of a request."""

    #: The field's path, as in `keys[card_id]` or `event_json[3]`.
    field: str
    description: str


class MillraceError(Exception):
    """A call that was not answered. `str()` of it is the server's message."""

    def __init__(
        self,
        message: str,
        *,
        code: Optional[grpc.StatusCode] = None,
        violations: tuple[Violation, ...] = (),
        retry_after: Optional[float] = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        #: The gRPC status; None where nothing was sent.
        self.code = code
        #: The fields that are wrong, where the server names them.
        self.violations = violations
        #: After how many seconds the server says that trying again makes sense.
        self.retry_after = retry_after


class InvalidArgument(MillraceError, ValueError):
    """The request cannot be answered as it is, now or later. `violations` names its fields."""


class OutOfRange(MillraceError):
    """A time for which the store no longer has all events. The message says from when on it has."""


class NotFound(MillraceError):
    """The project has no such view or feature, or the registry no such version."""


class FailedPrecondition(MillraceError):
    """The project has no model, no version to go back to, or a handle is not known to the server."""


class Unauthenticated(MillraceError):
    """There is no token, or the server does not know it."""


class PermissionDenied(MillraceError):
    """The token does not allow this."""


class Overloaded(MillraceError):
    """The server, or what the caller may ask of it, is at its limit. `retry_after` says when to come again."""


class Unavailable(MillraceError):
    """There is no connection to the server, or it is starting or stopping."""


class DeadlineExceeded(MillraceError):
    """The answer did not come in time."""


class Internal(MillraceError):
    """A fault of the server's."""


_CLASSES: dict[grpc.StatusCode, type[MillraceError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRange,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.INTERNAL: Internal,
}


def from_rpc(error: grpc.RpcError) -> MillraceError:
    """The exception for what grpc raised."""
    if not isinstance(error, grpc.Call):
        return MillraceError(str(error))
    call = cast(grpc.Call, error)
    violations, retry_after = _details(call)
    code = call.code()
    return _CLASSES.get(code, MillraceError)(
        call.details() or code.name, code=code, violations=violations, retry_after=retry_after
    )


def _details(call: grpc.Call) -> tuple[tuple[Violation, ...], Optional[float]]:
    """What `grpc-status-details-bin` holds of BadRequest and RetryInfo."""
    violations: list[Violation] = []
    retry_after: Optional[float] = None
    for detail in _status(call).details:
        kind = detail.type_url.rpartition("/")[2]
        if kind == "google.rpc.BadRequest":
            bad = details_pb2.BadRequest.FromString(detail.value)
            violations += [Violation(v.field, v.description) for v in bad.field_violations]
        elif kind == "google.rpc.RetryInfo":
            delay = details_pb2.RetryInfo.FromString(detail.value).retry_delay
            retry_after = delay.seconds + delay.nanos / 1e9
    return tuple(violations), retry_after


def _status(call: grpc.Call) -> details_pb2.Status:
    for key, value in call.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            try:
                return details_pb2.Status.FromString(value)
            except DecodeError:  # A proxy's, perhaps: the status and its message stand without it.
                break
    return details_pb2.Status()
