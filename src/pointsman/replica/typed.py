"""Typed callables: their arguments are read from the request before user code runs, and their answers by annotation."""

from __future__ import annotations

import functools
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from pointsman.exceptions import AnswerError
from pointsman.forms import File
from pointsman.incoming import CODEC_HTTP, Incoming, RequestHead
from pointsman.replica import answers
from pointsman.replica.answers import Answer
from pointsman.replica.jsonform import jsonable, to_json
from pointsman.replica.methods import Method
from pointsman.request import Request
from pointsman.usercode import kinds
from pointsman.usercode.misfits import MAX_DETAILS, Misfit
from pointsman.usercode.models import JSON, MSGPACK, NPY, Form, PydanticForm
from pointsman.usercode.signatures import BODY, FILE, REQUEST, Parameter, Signature

FORM = "multipart/form-data"
_MEDIAS = {
    b"": JSON,
    b"application/json": JSON,
    b"application/msgpack": MSGPACK,
    b"application/x-msgpack": MSGPACK,
    b"application/vnd.msgpack": MSGPACK,
    b"application/x-npy": NPY,
    b"multipart/form-data": FORM,
}
MISSING = ("Field required", "missing")


class Arguments:
    """What a typed callable is called with. For a batch, those of one member."""

    __slots__ = ("by_name", "in_order", "request")

    def __init__(self, in_order: list[Any], by_name: dict[str, Any], request: Any) -> None:
        self.in_order = in_order
        self.by_name = by_name
        self.request = request


class TypedMethod(Method):
    """A typed function or method."""

    __slots__ = ()

    def request(self, incoming: Incoming) -> Any:
        """The arguments of a call.

        Raises:
            Misfit: the request has no values that fit.
            Exception: whatever a validator of user code raises.
        """
        signature = self.signature
        assert signature is not None
        if len(signature.parameters) == 1 and signature.parameters[0].role == BODY:  # hot: the usual one
            body = signature.parameters[0]
            try:
                return Arguments([_body(body, incoming)], {}, None)
            except Misfit as misfit:
                raise _in_body(misfit) from None
        return self._gather(signature, incoming)

    def _gather(self, signature: Signature, incoming: Incoming) -> Arguments:
        source = Source(incoming)
        arguments = Arguments([], {}, None)
        details: list[dict[str, Any]] = []
        for parameter in signature.parameters:
            value: Any = None
            try:
                if parameter.role == REQUEST:
                    value = arguments.request = self._plain_request(incoming)
                else:
                    value = source.value(parameter)
            except Misfit as misfit:
                if misfit.media_type:
                    raise
                details += misfit.details
            if parameter.keyword_only:
                arguments.by_name[parameter.name] = value
            else:
                arguments.in_order.append(value)
        if details:
            raise Misfit(details[:MAX_DETAILS])
        return arguments

    def _plain_request(self, incoming: Incoming) -> Any:
        return super().request(incoming)

    def call(self, request: Any) -> Any:
        if not self.batches:
            return self.function(*request.in_order, **request.by_name)
        in_order = list(map(list, zip(*(one.in_order for one in request), strict=True)))
        by_name = {name: [one.by_name[name] for one in request] for name in request[0].by_name}
        return self.function(*in_order, **by_name)


def typed_method(method: Method, signature: Signature) -> TypedMethod:
    """The same method, typed."""
    return TypedMethod(*method)._replace(encode=functools.partial(typed_answer, form=signature.returns))


class Source:
    """Where the values of parameters are found: in the body, the path, the query string, or keywords of a handle."""

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming
        self._files: dict[str, list[File]] | None = None
        self._data_is_given = False

    @functools.cached_property
    def _query(self) -> list[tuple[str, str]]:
        query = self._incoming.head.query
        return parse_qsl(query.decode("latin-1"), keep_blank_values=True) if query else []

    def value(self, parameter: Parameter) -> Any:
        """The value of a parameter. Raises ``Misfit`` with the whole place."""
        if parameter.role == BODY:
            try:
                return _body(parameter, self._incoming)
            except Misfit as misfit:
                raise _in_body(misfit) from None
        return self._file(parameter) if parameter.role == FILE else self._field(parameter)

    def _field(self, parameter: Parameter) -> Any:
        form, name, incoming = parameter.form, parameter.name, self._incoming
        assert isinstance(form, PydanticForm)
        place = "query"
        try:
            if incoming.kwargs is not None:
                if name in incoming.kwargs:
                    return form.take(incoming.kwargs[name])
            elif name in incoming.head.path_params:
                place = "path"
                return form.texts(incoming.head.path_params[name])
            else:
                found = [value for key, value in self._query if key == name]
                if found:
                    return form.take(found) if parameter.many else form.texts(found[-1])
        except Misfit as misfit:
            raise Misfit(misfit.under(place, name)) from None
        return _default(parameter, place, name)

    def _file(self, parameter: Parameter) -> Any:
        name, incoming = parameter.name, self._incoming
        if incoming.kwargs is not None:
            value = incoming.kwargs.get(name)
            if value is None and not self._data_is_given:  # what is passed by position is the first one's
                value, self._data_is_given = incoming.data, True
            found = [_as_file(one, name) for one in (value if isinstance(value, list) else [value]) if one is not None]
        else:
            if self._files is None:
                self._files = _uploads(incoming)
            found = self._files.get(name, [])
        if not found:
            return _default(parameter, "body", name)
        return found if parameter.many else found[-1]


def _in_body(misfit: Misfit) -> Misfit:
    return misfit if misfit.media_type else Misfit(misfit.under("body"))


def _as_file(value: Any, name: str) -> File:
    if isinstance(value, File):
        return value
    if isinstance(value, (bytes, bytearray)):
        return File(bytes(value))
    raise Misfit.of("Input should be a File or bytes", "file_type", "body", name)


def _default(parameter: Parameter, *place: str) -> Any:
    if parameter.required:
        raise Misfit.of(*MISSING, *place)
    return parameter.default


def _body(parameter: Parameter, incoming: Incoming) -> Any:
    form, data = parameter.form, incoming.data
    assert form is not None
    if incoming.kwargs is None:
        if data:
            return form.read(data, media_of(incoming.head, form))
        return _default(parameter)
    if data is None and parameter.name in incoming.kwargs:
        data = incoming.kwargs[parameter.name]
    if data is None and not parameter.required:
        return parameter.default
    if isinstance(data, (bytes, bytearray)):
        return form.read(bytes(data), JSON)
    return form.take(data)


def media_of(head: RequestHead, form: Form | None) -> str:
    """The media type of a body.

    Raises:
        Misfit: it is none that can be read here.
    """
    for name, value in head.headers:
        if name == b"content-type":
            media = _MEDIAS.get(value) or _media(value)
            break
    else:
        media = JSON
    if media not in (form.medias if form is not None else (FORM,)):
        known = " or ".join(form.medias if form is not None else (FORM,))
        raise Misfit.of(f"the body should be {known}", "media_type", media_type=True)
    return media


def _media(value: bytes) -> str:
    bare = value.partition(b";")[0].strip().lower()
    return _MEDIAS.get(bare) or (JSON if bare.startswith(b"application/") and bare.endswith(b"+json") else "")


def _uploads(incoming: Incoming) -> dict[str, list[File]]:
    """The files of a multipart form, by field."""
    from starlette.exceptions import HTTPException
    from starlette.formparsers import MultiPartException

    if not incoming.data:
        return {}
    media_of(incoming.head, None)
    try:
        form: Any = Request(incoming).form()
        with form:
            files: dict[str, list[File]] = {}
            for name, value in form.multi_items():
                if hasattr(value, "file"):
                    files.setdefault(name, []).append(
                        File(value.read(), value.filename or "", value.content_type or "")
                    )
            return files
    except (MultiPartException, HTTPException, ValueError, KeyError):
        raise Misfit.of("it is no multipart form, or one of too many parts", "form_invalid", "body") from None


# --- answers ----------------------------------------------------------------------------------------------------------


def typed_answer(value: Any, request: RequestHead, *, form: Form | None) -> Answer:
    """Encode what a typed callable has returned, as its annotation says and the client accepts.

    Raises:
        AnswerError: it does not fit the annotation, or has no JSON form.
    """
    if request.codec != CODEC_HTTP or answers.is_response(value):
        return answers.encode_answer(value, request)
    wanted = accepted(request.headers)
    if form is None:
        if wanted == JSON or value is None or answers.is_text(value):
            return answers.encode_answer(value, request)
        return _encoded(value, wanted) or answers.encode_answer(value, request)
    fitted = _fitted(form, value)
    if wanted == NPY and kinds.array_class(type(fitted)) is not None:
        return _encoded(fitted, NPY) or Answer(200, answers.JSON, _json_of(form, fitted))
    if wanted == MSGPACK:
        return _msgpack_of(form, fitted)
    return Answer(200, answers.JSON, _json_of(form, fitted))


MSGPACK_HEADERS: answers.Headers = [(b"content-type", MSGPACK.encode())]
NPY_HEADERS: answers.Headers = [(b"content-type", NPY.encode())]


def _json_of(form: Form, value: Any) -> bytes:
    try:
        return form.json(value)
    except Exception:  # noqa: BLE001 - serializers of models are user code; the usual way says what is wrong, and where
        return to_json(value)


def _msgpack_of(form: Form, value: Any) -> Answer:
    try:
        return Answer(200, MSGPACK_HEADERS, msgspec.msgpack.encode(form.plain(value)))
    except Exception:  # noqa: BLE001 - as above
        return _as_msgpack(value)


def _fitted(form: Form, value: Any) -> Any:
    try:
        return form.take(value)
    except Misfit as misfit:
        first = misfit
    try:  # numbers of numpy, tables and the like: by their JSON form, as in other answers
        return form.read(to_json(value), JSON)
    except (Misfit, AnswerError):
        details = [{**detail, "loc": ["answer", *detail["loc"]]} for detail in first.details]
        text = str(Misfit(details))
    raise AnswerError(f"what was returned does not fit its annotation: {text}")


def _encoded(value: Any, media: str) -> Answer | None:
    if media == MSGPACK:
        return _as_msgpack(value)
    if kinds.array_class(type(value)) is None or value.dtype.hasobject:
        return None
    from pointsman.usercode.arrays import to_npy

    return Answer(200, NPY_HEADERS, to_npy(value))


def _as_msgpack(value: Any) -> Answer:
    try:
        return Answer(200, MSGPACK_HEADERS, msgspec.msgpack.encode(value, enc_hook=jsonable))
    except Exception as error:
        raise AnswerError(f"the answer has no msgpack form: {type(error).__name__} was raised") from error


def accepted(headers: list[tuple[bytes, bytes]]) -> str:
    """The media type of the answer: the one that ``Accept`` prefers, JSON if it says nothing of the others."""
    for name, value in headers:
        if name == b"accept" and (b"msgpack" in value or b"npy" in value):
            return _preferred(value)
    return JSON


@functools.lru_cache(maxsize=64)
def _preferred(value: bytes) -> str:
    best, rank = JSON, 0.0
    for part in value.lower().split(b","):
        media, *parameters = (piece.strip() for piece in part.split(b";"))
        known = JSON if media == b"*/*" else _MEDIAS.get(media, "")
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith(b"q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        if known in (JSON, MSGPACK, NPY) and quality > rank:
            best, rank = known, quality
    return best
