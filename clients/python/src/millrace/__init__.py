"""A client for Millrace: features as of a time, fraud scores, and the versions of the model.

with millrace.Client("localhost:50051") as client:
    answer = client.get_features(["card_activity"], {"card_id": ["42", "43"]})
    answer.to_pandas()
"""

from .client import Client, Prepared, Tls
from .errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    MillraceError,
    NotFound,
    OutOfRange,
    Overloaded,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    Violation,
)
from .features import EntityStatus, Features, Field, View, ViewAnswer, ViewStatus
from .models import Model, ModelDetail, Step, Traffic
from .scores import Reason, Score, Scores

__all__ = [
    "Client",
    "DeadlineExceeded",
    "EntityStatus",
    "FailedPrecondition",
    "Features",
    "Field",
    "Internal",
    "InvalidArgument",
    "MillraceError",
    "Model",
    "ModelDetail",
    "NotFound",
    "OutOfRange",
    "Overloaded",
    "PermissionDenied",
    "Prepared",
    "Reason",
    "Score",
    "Scores",
    "Step",
    "Tls",
    "Traffic",
    "Unauthenticated",
    "Unavailable",
    "View",
    "ViewAnswer",
    "ViewStatus",
    "Violation",
]
