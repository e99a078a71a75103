"""How calls are made: with the token and the caller's trace, within a deadline, and again where that makes sense.

Two refusals are worth another try: UNAVAILABLE, after a pause that doubles, and RESOURCE_EXHAUSTED, after the delay
that the server names. All tries and pauses of a call share its deadline.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any, Optional

import grpc

from .errors import DeadlineExceeded, InvalidArgument, MillraceError, Overloaded, Unavailable, from_rpc

try:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:  # Who traces has it.
    _TRACE = None
else:
    _TRACE = TraceContextTextMapPropagator()

#: How often a call is made again; the pauses after UNAVAILABLE then add up to 0.6 s.
_MAX_RETRIES = 5
_FIRST_PAUSE_S = 0.02


class Calls:
    """Makes calls."""

    def __init__(self, token: Optional[str], timeout: float) -> None:
        self._timeout = checked_timeout(timeout)
        self._metadata = () if token is None else (("authorization", f"Bearer {checked_token(token)}"),)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes along with a call: the token, and the span that is current where the call is made."""
        if _TRACE is None:
            return self._metadata
        trace: dict[str, str] = {}
        _TRACE.inject(trace)
        return (*self._metadata, *trace.items())

    def deadline(self, timeout: Optional[float]) -> float:
        """When a call that starts now has to be over, on the monotonic clock."""
        return time.monotonic() + (self._timeout if timeout is None else checked_timeout(timeout))

    def unary(self, method: Any, request: Any, deadline: float, *, repeatable: bool = True) -> Any:
        """The answer. What is not `repeatable` is not tried again where the server may have done it."""
        for attempt in range(_MAX_RETRIES + 1):
            try:
                return method(request, timeout=_left(deadline), metadata=self.metadata())
            except grpc.RpcError as error:
                _wait_or_raise(error, attempt, deadline, repeatable)
        raise AssertionError("the last attempt returns or raises")

    def stream(self, method: Any, request: Any, deadline: Optional[float]) -> Iterator[Any]:
        """The answers. Once the first has come, nothing is tried again."""
        started = False
        for attempt in range(_MAX_RETRIES + 1):
            call = method(request, timeout=_left(deadline), metadata=self.metadata())
            try:
                for answer in call:
                    started = True
                    yield answer
                return
            except grpc.RpcError as error:
                _wait_or_raise(error, _MAX_RETRIES if started else attempt, deadline, True)
            finally:
                call.cancel()  # For one that the caller leaves early; else it changes nothing.


def checked_timeout(timeout: float) -> float:
    """Refuses what is no number of seconds above 0."""
    if not timeout > 0:
        raise InvalidArgument(f"timeout: {timeout} is not above 0 seconds")
    return timeout


def checked_token(token: str) -> str:
    """A token without the line end that a file may have left on it. grpc would show one that it refuses."""
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidArgument("token: it is empty, or has spaces or characters outside of ASCII")
    return token


def _left(deadline: Optional[float]) -> Optional[float]:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise DeadlineExceeded(
            "the time for the call was over before its answer", code=grpc.StatusCode.DEADLINE_EXCEEDED
        )
    return left


def _wait_or_raise(error: grpc.RpcError, attempt: int, deadline: Optional[float], repeatable: bool) -> None:
    """Waits until the next try, or raises where there is none."""
    failure = from_rpc(error)
    pause = _pause(failure, attempt, repeatable)
    late = pause is not None and deadline is not None and time.monotonic() + pause >= deadline
    if pause is None or late or attempt >= _MAX_RETRIES:
        raise failure from error
    time.sleep(pause)


def _pause(failure: MillraceError, attempt: int, repeatable: bool) -> Optional[float]:
    """How long to wait after a failure, in seconds; None where another try is no use.

    The chance in it keeps callers that were refused together from coming back together.
    """
    if isinstance(failure, Overloaded) and failure.retry_after is not None:
        return failure.retry_after * random.uniform(1.0, 1.2)
    if isinstance(failure, Unavailable) and repeatable:
        backoff: float = _FIRST_PAUSE_S * 2**attempt * random.uniform(0.5, 1.0)
        return max(failure.retry_after or 0.0, backoff)
    return None
