from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from . import values_pb2 as _values_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EntityStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENTITY_STATUS_UNSPECIFIED: _ClassVar[EntityStatus]
    ENTITY_STATUS_PRESENT: _ClassVar[EntityStatus]
    ENTITY_STATUS_OUT_OF_WINDOW: _ClassVar[EntityStatus]
    ENTITY_STATUS_UNKNOWN: _ClassVar[EntityStatus]

class ViewStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VIEW_STATUS_UNSPECIFIED: _ClassVar[ViewStatus]
    VIEW_STATUS_CURRENT: _ClassVar[ViewStatus]
    VIEW_STATUS_BEHIND: _ClassVar[ViewStatus]
    VIEW_STATUS_EMPTY: _ClassVar[ViewStatus]
    VIEW_STATUS_STALE: _ClassVar[ViewStatus]
ENTITY_STATUS_UNSPECIFIED: EntityStatus
ENTITY_STATUS_PRESENT: EntityStatus
ENTITY_STATUS_OUT_OF_WINDOW: EntityStatus
ENTITY_STATUS_UNKNOWN: EntityStatus
VIEW_STATUS_UNSPECIFIED: ViewStatus
VIEW_STATUS_CURRENT: ViewStatus
VIEW_STATUS_BEHIND: ViewStatus
VIEW_STATUS_EMPTY: ViewStatus
VIEW_STATUS_STALE: ViewStatus

class GetFeaturesRequest(_message.Message):
    __slots__ = ("features", "handle", "keys", "as_of")
    class KeysEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _values_pb2.Column
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_values_pb2.Column, _Mapping]] = ...) -> None: ...
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    features: _containers.RepeatedScalarFieldContainer[str]
    handle: int
    keys: _containers.MessageMap[str, _values_pb2.Column]
    as_of: _timestamp_pb2.Timestamp
    def __init__(self, features: _Optional[_Iterable[str]] = ..., handle: _Optional[int] = ..., keys: _Optional[_Mapping[str, _values_pb2.Column]] = ..., as_of: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GetFeaturesResponse(_message.Message):
    __slots__ = ("views", "as_of", "first_row")
    VIEWS_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    FIRST_ROW_FIELD_NUMBER: _ClassVar[int]
    views: _containers.RepeatedCompositeFieldContainer[ViewFeatures]
    as_of: _timestamp_pb2.Timestamp
    first_row: int
    def __init__(self, views: _Optional[_Iterable[_Union[ViewFeatures, _Mapping]]] = ..., as_of: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., first_row: _Optional[int] = ...) -> None: ...

class ViewFeatures(_message.Message):
    __slots__ = ("view", "features", "statuses", "status", "complete_until", "answers_since", "version")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_UNTIL_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_SINCE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    view: str
    features: _containers.RepeatedCompositeFieldContainer[_values_pb2.Column]
    statuses: _containers.RepeatedScalarFieldContainer[EntityStatus]
    status: ViewStatus
    complete_until: _timestamp_pb2.Timestamp
    answers_since: _timestamp_pb2.Timestamp
    version: str
    def __init__(self, view: _Optional[str] = ..., features: _Optional[_Iterable[_Union[_values_pb2.Column, _Mapping]]] = ..., statuses: _Optional[_Iterable[_Union[EntityStatus, str]]] = ..., status: _Optional[_Union[ViewStatus, str]] = ..., complete_until: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., answers_since: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., version: _Optional[str] = ...) -> None: ...

class PrepareRequest(_message.Message):
    __slots__ = ("features",)
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    features: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, features: _Optional[_Iterable[str]] = ...) -> None: ...

class PrepareResponse(_message.Message):
    __slots__ = ("handle", "views", "keys")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    VIEWS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    handle: int
    views: _containers.RepeatedCompositeFieldContainer[View]
    keys: _containers.RepeatedCompositeFieldContainer[_values_pb2.Field]
    def __init__(self, handle: _Optional[int] = ..., views: _Optional[_Iterable[_Union[View, _Mapping]]] = ..., keys: _Optional[_Iterable[_Union[_values_pb2.Field, _Mapping]]] = ...) -> None: ...

class ListViewsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListViewsResponse(_message.Message):
    __slots__ = ("views",)
    VIEWS_FIELD_NUMBER: _ClassVar[int]
    views: _containers.RepeatedCompositeFieldContainer[View]
    def __init__(self, views: _Optional[_Iterable[_Union[View, _Mapping]]] = ...) -> None: ...

class View(_message.Message):
    __slots__ = ("name", "stream", "entity", "features", "longest_window", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    LONGEST_WINDOW_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    stream: str
    entity: _containers.RepeatedCompositeFieldContainer[_values_pb2.Field]
    features: _containers.RepeatedCompositeFieldContainer[_values_pb2.Field]
    longest_window: _duration_pb2.Duration
    version: str
    def __init__(self, name: _Optional[str] = ..., stream: _Optional[str] = ..., entity: _Optional[_Iterable[_Union[_values_pb2.Field, _Mapping]]] = ..., features: _Optional[_Iterable[_Union[_values_pb2.Field, _Mapping]]] = ..., longest_window: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., version: _Optional[str] = ...) -> None: ...
