#!/usr/bin/env python3
"""Client of Ringcast's upstream protocol, version 1. Standard library only, Python 3.9 or later.

    from ringcast_upstream import Upstream

    with Upstream("127.0.0.1:8001", service="orders") as upstream:
        receipt = upstream.publish("news", '{"t":"hi"}')
        print(receipt.offset)

`publish` waits for its acknowledgement. `send` does not: call it many times, then collect the answers
with `next_answer`. A service that decides what clients may do registers and answers:

    upstream.register(["subscribe", "rpc"])
    while True:
        event = upstream.next_event()
        if event["kind"] == "rpc":
            upstream.answer(event, result={"data": {"sum": 3}})
        else:
            upstream.answer(event, error=(403, "members only"))

clients/python/example_service.py is such a service. Rooms can be asked about:

    page = upstream.history("news", limit=10, reverse=True)
    print(page["offset"], [publication["data"] for publication in page["publications"]])
    print(upstream.presence("news"), upstream.channels("chat:*"))

One thread at a time may use a connection; it never reconnects by itself. The
protocol is specified in docs/upstream-protocol.md.

On the command line:

    python3 ringcast_upstream.py publish 127.0.0.1:8001 news '{"t":"hi"}'

with key id and secret, if the broker wants them, in RINGCAST_KEY_ID and RINGCAST_SECRET.
"""

import argparse
import collections
import hashlib
import hmac
import json
import os
import selectors
import socket
import struct
import sys
import time

VERSION = 1
MAGIC = b"RCST"
HEADER = struct.Struct("<IBBHQ")  # length, type, flags, name_len, request_id
LENGTH_MIN = 12
NAME_MAX = 255
ROOMS_MAX = 1024
PING_MAX = 64
NAMES_MAX = 256  # in each list of a REGISTER
MAX_FRAME = 1024 * 1024  # until WELCOME says otherwise
RESULT_MAX = 1024 * 1024 + 8 * 1024  # from the broker
TAGS_MAX = 2048  # bytes of all tags of a publication, lengths included

NONE, ACCEPTED, SEQUENCED, REPLICATED = range(4)
CONTENTS = ("json", "text", "bytes")
EVENTS = (
    "connect",
    "subscribe",
    "publish",
    "rpc",
    "refresh",
    "sub_refresh",
    "message",
    "disconnect",
    "unsubscribe",
)
ORDERS = ("disconnect", "subscribe", "unsubscribe", "refresh", "expire", "message")
VERDICTS = ("result", "error", "temporary_error", "disconnect")
RESULTS = ("history", "presence", "presence_stats", "done", "channels")
KEY_FLAG, SKIP_HISTORY_FLAG, HEADER_FLAG, KNOWN_FLAGS = 0x04, 0x20, 0x40, 0x7F

TYPES = {
    0x01: "HELLO",
    0x02: "PUBLISH",
    0x03: "BROADCAST",
    0x04: "REGISTER",
    0x05: "ANSWER",
    0x06: "ORDER",
    0x07: "HISTORY",
    0x08: "PRESENCE",
    0x09: "PRESENCE_STATS",
    0x0A: "FORGET_HISTORY",
    0x0B: "CHANNELS",
    0x20: "PING",
    0x21: "PONG",
    0x80: "CHALLENGE",
    0x81: "WELCOME",
    0x82: "ACK",
    0x83: "ERROR",
    0x84: "CREDIT",
    0x85: "GOAWAY",
    0x86: "EVENT",
    0x87: "RESULT",
}
TYPE_BYTES = {name: byte for byte, name in TYPES.items()}

(
    MALFORMED,
    UNSUPPORTED,
    UNAUTHORISED,
    FORBIDDEN_ROOM,
    TOO_LARGE,
    INVALID_PAYLOAD,
    OVER_CREDIT,
    OVERLOADED,
    DRAINING,
    INTERNAL,
    LEVEL_UNAVAILABLE,
) = range(1, 12)
CLOSING = (MALFORMED, UNAUTHORISED, OVER_CREDIT)


class UpstreamError(Exception):
    """Anything that goes wrong between this service and the broker."""


class Closed(UpstreamError):
    """The broker closed the connection."""


class TimedOut(UpstreamError):
    """The broker did not answer, grant credit or read in time."""


class GoingAway(UpstreamError):
    """The broker goes down and takes nothing new; `grace_ms` is what it gave from its announcement."""

    def __init__(self, grace_ms):
        super().__init__(f"the broker goes down in {grace_ms} ms")
        self.grace_ms = grace_ms


class Refused(UpstreamError):
    """The broker's ERROR frame."""

    def __init__(self, code, text):
        super().__init__(f"{text} (code {code})")
        self.code = code
        self.text = text


class FrameError(UpstreamError):
    """Bytes that are not a frame: what to answer and, in `skip`, how many bytes to discard before going
    on, None when the connection has to be closed. The bytes to discard need not have arrived yet."""

    def __init__(self, code, text, request_id=0, skip=None):
        super().__init__(f"{text} (code {code})")
        self.code = code
        self.text = text
        self.request_id = request_id
        self.skip = skip


Receipt = collections.namedtuple("Receipt", "level duplicate epoch offset")


# ---------------------------------------------------------------------------------------- the connection


class Upstream:
    """One connection. `addr` is "host:port", `key` is (key id, secret) or None, `timeout` is how many
    seconds a call waits for a sign of life of the broker."""

    def __init__(self, addr, service="python", key=None, timeout=10.0):
        host, _, port = addr.rpartition(":")
        self._timeout = timeout
        self._received = bytearray()
        self._answers = collections.OrderedDict()
        self._events = collections.deque()
        self._results = {}
        self._goaway_ms = None
        self._pong = None
        self._published = 0
        self._last_request = 0
        self._failure = None
        self._opened = False
        self._socket = socket.create_connection((host.strip("[]"), int(port)), timeout)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setblocking(False)
            self._open(service, key)
        except BaseException:
            self._socket.close()
            raise

    def publish(self, room, data, **options):
        """Publishes to one room and waits for the acknowledgement: a Receipt, or None at level NONE.
        The options are those of `send`."""
        request = self.send(room, data, **options)
        return self._receipt(request, options.get("level", SEQUENCED))

    def broadcast(self, rooms, data, **options):
        """Publishes to up to 1,024 rooms and waits for the one acknowledgement, as `publish`."""
        request = self.send_broadcast(rooms, data, **options)
        return self._receipt(request, options.get("level", SEQUENCED))

    def send(self, room, data, **options):
        """Publishes without waiting: the request id that the answer will have. `data` is str or bytes.
        Options: content (see CONTENTS), level, skip_history; key, 16 bytes, makes a repetition harmless;
        delta (subscribers that take deltas may be sent one), exclude (the id of a client that is not sent
        it), tags (a dict that subscribers see); version (a count of your own: a room takes nothing that is
        not newer than what it has) and version_epoch (what it counts in)."""
        frame = _publication("PUBLISH", data, **options)
        frame["room"] = room
        return self._send_publication(frame)

    def send_broadcast(self, rooms, data, **options):
        """As `send`, to up to 1,024 rooms."""
        frame = _publication("BROADCAST", data, **options)
        frame["rooms"] = list(rooms)
        return self._send_publication(frame)

    def next_answer(self):
        """The next answer to `send`, waiting for it: (request id, Receipt or Refused)."""
        while not self._answers:
            self._wait()
        return self._answers.popitem(last=False)

    def register(self, kinds, namespaces=(), methods=()):
        """Registers for events of these kinds (see EVENTS), of channels in these namespaces (none for all,
        "" for channels without one) and of calls of these methods (none for all)."""
        self._last_request += 1
        request = self._last_request
        events = sum(1 << EVENTS.index(kind) for kind in set(kinds))
        frame = {"type": "REGISTER", "request_id": request, "events": events}
        self._write(encode(dict(frame, namespaces=list(namespaces), methods=list(methods))))
        self._receipt(request, ACCEPTED)

    def next_event(self):
        """The next event, waiting for it: a dict with kind, subject, user, client, meta, data and the rest."""
        while not self._events:
            self._wait()
        return self._events.popleft()

    def answer(self, event, result=None, error=None, temporary=False, disconnect=None):
        """Answers an event: with a result (a dict, see the protocol), or refuses it with `error`, or closes
        the client with `disconnect`, both (code, text)."""
        if event["request_id"] == 0:
            return
        verdict, (code, text), body = "result", (0, ""), b""
        if error is not None:
            verdict, (code, text) = "temporary_error" if temporary else "error", error
        elif disconnect is not None:
            verdict, (code, text) = "disconnect", disconnect
        elif result:
            body = json.dumps(result).encode()
        frame = {"type": "ANSWER", "request_id": event["request_id"], "verdict": verdict}
        self._write(encode(dict(frame, code=code, text=text, result=body)))

    def order(self, kind, user="", **options):
        """Has something done (see ORDERS) to the connections of a user, or to the one that `client` names.
        Options: client, channel, code, text, expire_at, info and data (JSON as bytes)."""
        self._last_request += 1
        request = self._last_request
        frame = {"type": "ORDER", "request_id": request, "user": user, "kind": kind}
        defaults = {"client": "", "channel": "", "code": 0, "text": "", "expire_at": 0}
        contents = {"info_content": "json", "info": b"", "content": "json", "data": b""}
        self._write(encode({**frame, **defaults, **contents, **options}))
        self._receipt(request, ACCEPTED)

    def history(self, room, limit=-1, since=None, reverse=False):
        """Past publications of a room: a dict with found, epoch, offset (of the newest) and publications.
        `limit` is how many at most, 0 for the position only, negative for as many as the broker gives.
        `since` is (epoch, offset), excluded itself, the epoch as a number or as clients have it; None or
        "" for any. `found` is False when that position is not of this history."""
        if since is not None:
            epoch, offset = since
            epoch = epoch_text(epoch) if isinstance(epoch, int) else epoch or ""
            since = {"epoch": epoch, "offset": offset}
        result = self._ask("HISTORY", room=room, limit=limit, reverse=reverse, since=since)
        fields = {"found": result["whole"], "epoch": result["epoch"], "offset": result["offset"]}
        return dict(fields, publications=_publications(result["publications"]))

    def presence(self, room):
        """Who is present in a room: a list of dicts with user, client, conn_info and chan_info."""
        result = self._ask("PRESENCE", room=room)
        _check_whole(result)
        return _clients(result["clients"])

    def presence_stats(self, room):
        """How many connections and distinct users are present in a room."""
        result = self._ask("PRESENCE_STATS", room=room)
        return result["num_clients"], result["num_users"]

    def forget_history(self, room):
        """Drops a room's history; its position stays."""
        self._ask("FORGET_HISTORY", room=room)

    def channels(self, pattern=""):
        """Channels with subscribers whose names match a glob ("" for all), with the number of these."""
        result = self._ask("CHANNELS", pattern=pattern)
        _check_whole(result)
        return _channels(result["channels"])

    def ping(self):
        """Asks for a sign of life: the seconds that it took."""
        self._last_request += 1
        request = self._last_request
        began = time.monotonic()
        self._write(encode({"type": "PING", "request_id": request, "body": b""}))
        while self._pong != request:
            self._wait()
        return time.monotonic() - began

    @property
    def goaway_ms(self):
        """Milliseconds of grace once the broker has said that it goes down, None before."""
        return self._goaway_ms

    @property
    def credit_left(self):
        """Bytes of publications that the broker takes without granting more."""
        return self._credit - self._published

    def close(self):
        """Says that nothing follows and waits for the broker to have read everything."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
            while True:
                self._fill()
                self._received.clear()
        except (UpstreamError, OSError):
            pass
        finally:
            self._socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _open(self, service, key):
        challenge = self._opening("CHALLENGE")["challenge"]
        hello = {"type": "HELLO", "request_id": 0, "service": service, "method": 0}
        if key is not None:
            key_id, secret = key
            secret = secret.encode() if isinstance(secret, str) else secret
            mac = hello_mac(secret, challenge, service, key_id)
            hello.update(method=1, key_id=key_id, mac=mac)
        self._write(encode(hello))
        welcome = self._opening("WELCOME")
        self._max_frame = welcome["max_frame"]
        self._credit = welcome["credit"]
        self._opened = True
        self._take_frames()

    def _opening(self, expected):
        while True:
            frame = self._next_frame()
            if frame is None:
                self._fill()
            elif frame["type"] == expected:
                return frame
            elif frame["type"] == "ERROR":
                raise Refused(frame["code"], frame["text"])
            else:
                raise UpstreamError(f"{frame['type']} in the opening")

    def _send_publication(self, frame):
        if self._goaway_ms is not None:
            raise GoingAway(self._goaway_ms)
        self._last_request += 1
        frame["request_id"] = self._last_request
        data = encode(frame)
        if len(data) - 4 > self._max_frame:
            raise ValueError(f"frame of {len(data)} bytes, the broker takes {self._max_frame}")
        while self.credit_left < len(data):
            self._wait()
            if self._goaway_ms is not None:
                raise GoingAway(self._goaway_ms)
        self._published += len(data)
        self._write(data)
        return frame["request_id"]

    def _ask(self, kind, **fields):
        if self._goaway_ms is not None:
            raise GoingAway(self._goaway_ms)
        self._last_request += 1
        request = self._last_request
        self._write(encode(dict(fields, type=kind, request_id=request)))
        while request not in self._results:
            if request in self._answers:
                raise self._answers.pop(request)
            self._wait()
        return self._results.pop(request)

    def _receipt(self, request, level):
        if level == NONE:
            return None
        while request not in self._answers:
            self._wait()
        answer = self._answers.pop(request)
        if isinstance(answer, Refused):
            raise answer
        return answer

    def _wait(self):
        """Waits until something has come in. Answers that came before a failure are kept and the failure
        is raised by the next wait."""
        if self._failure is not None:
            raise self._failure
        # A write may have taken bytes in.
        if not self._take_frames():
            self._fill()
            self._take_frames()

    def _take_frames(self):
        """Takes the frames that are there in full; says whether there were any."""
        taken = False
        try:
            while True:
                frame = self._next_frame()
                if frame is None:
                    return taken
                self._take(frame)
                taken = True
        except UpstreamError as error:
            self._failure = error
            if not taken:
                raise
            return True

    def _take(self, frame):
        kind = frame["type"]
        if kind == "ACK":
            self._answers[frame["request_id"]] = Receipt(
                frame["level"], frame["duplicate"], frame["epoch"], frame["offset"]
            )
        elif kind == "ERROR":
            refused = Refused(frame["code"], frame["text"])
            if frame["request_id"] == 0 or frame["code"] in CLOSING:
                raise refused
            self._answers[frame["request_id"]] = refused
        elif kind == "EVENT":
            self._events.append(dict(frame, **_client(frame["info"])))
        elif kind == "RESULT":
            self._results[frame["request_id"]] = frame
        elif kind == "CREDIT":
            self._credit = max(self._credit, frame["total"])
        elif kind == "GOAWAY":
            self._goaway_ms = frame["grace_ms"]
        elif kind == "PONG":
            self._pong = frame["request_id"]
        elif kind == "PING":
            self._write(encode(dict(frame, type="PONG")))
        else:
            raise UpstreamError(f"{kind} from the broker")

    def _next_frame(self):
        decoded = decode(self._received, RESULT_MAX)
        if decoded is None:
            return None
        frame, size = decoded
        del self._received[:size]
        return frame

    def _write(self, data):
        """Writes everything. While the broker does not read, what it says is taken in: two full sockets
        must not wait for each other."""
        view = memoryview(data)
        try:
            while view:
                readable, writable = self._ready(selectors.EVENT_READ | selectors.EVENT_WRITE)
                if readable:
                    self._receive()
                if writable:
                    view = view[self._socket.send(view) :]
        except (Closed, OSError):
            # What the broker said before it closed tells more.
            if self._opened:
                self._take_frames()
            if self._failure is not None:
                raise self._failure from None
            raise

    def _fill(self):
        self._ready(selectors.EVENT_READ)
        self._receive()

    def _receive(self):
        data = self._socket.recv(65536)
        if not data:
            raise Closed("the broker closed the connection")
        self._received += data

    def _ready(self, events):
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, events)
            ready = selector.select(self._timeout)
        if not ready:
            raise TimedOut("no sign of life from the broker")
        mask = ready[0][1]
        return mask & selectors.EVENT_READ, mask & selectors.EVENT_WRITE


def _publication(
    kind,
    data,
    content="json",
    level=SEQUENCED,
    key=None,
    skip_history=False,
    delta=False,
    exclude="",
    tags=None,
    version=0,
    version_epoch="",
):
    return {
        "delta": delta,
        "exclude": exclude,
        "version": version,
        "version_epoch": version_epoch,
        "tags": tags or {},
        "type": kind,
        "level": level,
        "content": content,
        "skip_history": skip_history,
        "key": key,
        "payload": data.encode() if isinstance(data, str) else bytes(data),
    }


def hello_mac(secret, challenge, service, key_id):
    """The code that HELLO carries: HMAC-SHA256 over challenge, service name and key id."""
    message = challenge + service.encode() + key_id.encode()
    return hmac.new(secret, message, hashlib.sha256).digest()


# --------------------------------------------------------------------------------------------- the codec
#
# A frame is a dict: its "type" and the fields of that type, as in tests/vectors/upstream/.


def encode(frame):
    """The bytes of a frame. ValueError when a field is beyond its bounds."""
    kind = frame["type"]
    flags, name = 0, ""
    if kind == "HELLO":
        name = _named(frame["service"], "service name")
        body = MAGIC + struct.pack("<HH", VERSION, frame["method"])
        if frame["method"] == 1:
            body += _counted(_named(frame["key_id"], "key id")) + frame["mac"]
    elif kind == "PUBLISH":
        name = _named(frame["room"], "room name")
        flags, body = _flags(frame), _head(frame) + frame["payload"]
    elif kind == "BROADCAST":
        rooms = [_counted(_named(room, "room name")) for room in frame["rooms"]]
        if not 1 <= len(rooms) <= ROOMS_MAX:
            raise ValueError("a broadcast takes 1 to 1024 rooms")
        flags = _flags(frame)
        count = struct.pack("<H", len(rooms))
        body = _head(frame) + count + b"".join(rooms) + frame["payload"]
    elif kind == "REGISTER":
        lists = [_names(frame[field]) for field in ("namespaces", "methods")]
        body = struct.pack("<I", frame["events"]) + b"".join(lists)
    elif kind == "ANSWER":
        head = struct.pack("<BBHI", VERDICTS.index(frame["verdict"]), 0, 0, frame["code"])
        body = head + _counted(frame["text"]) + frame["result"]
    elif kind == "ORDER":
        name = frame["user"]
        numbers = ORDERS.index(frame["kind"]), CONTENTS.index(frame["info_content"])
        numbers += CONTENTS.index(frame["content"]), 0, frame["code"], frame["expire_at"]
        texts = [_counted(frame[field]) for field in ("client", "channel", "text")]
        info = struct.pack("<I", len(frame["info"])) + frame["info"]
        body = struct.pack("<BBBBIQ", *numbers) + b"".join(texts) + info + frame["data"]
    elif kind == "EVENT":
        name = frame["subject"]
        numbers = EVENTS.index(frame["kind"]), CONTENTS.index(frame["content"]), 0
        head = struct.pack("<BBHII", *numbers, frame["deadline_ms"], frame["code"])
        parts = [struct.pack("<I", len(frame[field])) + frame[field] for field in ("info", "meta")]
        body = head + _counted(frame["text"]) + b"".join(parts) + frame["data"]
    elif kind in ("HISTORY", "PRESENCE", "PRESENCE_STATS", "FORGET_HISTORY"):
        name = _named(frame["room"], "room name")
        body = _history_body(frame) if kind == "HISTORY" else b""
    elif kind == "CHANNELS":
        name, body = frame["pattern"], b""
        if len(name.encode()) > NAME_MAX:
            raise ValueError("pattern is above 255 bytes")
    elif kind == "RESULT":
        body = _result_body(frame)
    elif kind in ("PING", "PONG"):
        body = frame["body"]
        if len(body) > PING_MAX:
            raise ValueError("body of a ping is above 64 bytes")
    elif kind == "CHALLENGE":
        name, body = frame["node"], frame["challenge"]
    elif kind == "WELCOME":
        name = frame["node"]
        body = struct.pack("<HHIQ", VERSION, 0, frame["max_frame"], frame["credit"])
    elif kind == "ACK":
        fields = frame["level"], frame["duplicate"], 0, frame["epoch"], frame["offset"]
        body = struct.pack("<BBHIQ", *fields)
    elif kind == "ERROR":
        body = struct.pack("<H", frame["code"]) + frame["text"].encode()
    elif kind == "CREDIT":
        body = struct.pack("<Q", frame["total"])
    elif kind == "GOAWAY":
        name, body = frame["node"], struct.pack("<I", frame["grace_ms"])
    else:
        raise ValueError(f"frame type {kind}")
    name = name.encode()
    length = LENGTH_MIN + len(name) + len(body)
    request = frame.get("request_id", 0)
    return HEADER.pack(length, TYPE_BYTES[kind], flags, len(name), request) + name + body


def decode(data, max_frame=MAX_FRAME):
    """The first frame of `data` and the bytes it occupied, or None when it is not complete. Raises
    FrameError, which may come before the frame is complete."""
    if len(data) < 4:
        return None
    (length,) = struct.unpack_from("<I", data)
    if length < LENGTH_MIN:
        raise FrameError(MALFORMED, "length is below 12")
    if len(data) < HEADER.size:
        return None
    _, type_byte, flags, name_len, request = HEADER.unpack_from(data)
    kind = TYPES.get(type_byte)
    size = 4 + length
    try:
        _check_header(kind, length, flags, name_len, max_frame)
        if len(data) < size:
            return None
        name = bytes(data[HEADER.size : HEADER.size + name_len])
        body = bytes(data[HEADER.size + name_len : size])
        frame = {"type": kind}
        if kind in ("CHALLENGE", "CREDIT", "GOAWAY"):
            if request != 0:
                raise FrameError(MALFORMED, "frame type takes no request_id")
        else:
            frame["request_id"] = request
        frame.update(_fields(kind, flags, name, body))
        return frame, size
    except FrameError as error:
        error.request_id = request
        error.skip = None if error.code in CLOSING else size
        raise


def _check_header(kind, length, flags, name_len, max_frame):
    publication = kind in ("PUBLISH", "BROADCAST")
    if length > max_frame:
        code = TOO_LARGE if publication else MALFORMED
        raise FrameError(code, "length is above max_frame")
    if name_len > length - LENGTH_MIN:
        raise FrameError(MALFORMED, "name_len is above length")
    if kind is None:
        raise FrameError(UNSUPPORTED, "frame type is not known")
    if flags & ~(KNOWN_FLAGS if publication else 0):
        raise FrameError(UNSUPPORTED, "flag bit is not known")


def _fields(kind, flags, name, body):
    if kind == "HELLO":
        return {"service": _filled(_text(name)), **_hello(body)}
    if kind == "PUBLISH":
        options = _options(flags)
        room = _room(name)
        key, header, payload = _split_head(flags, body)
        return {"room": room, **options, "key": key, **header, "payload": payload}
    if kind in ("HISTORY", "PRESENCE", "PRESENCE_STATS", "FORGET_HISTORY"):
        room = _room(name)
        if kind == "HISTORY":
            return {"room": room, **_history(body)}
        _exactly(body, 0)
        return {"room": room}
    if kind == "CHANNELS":
        _exactly(body, 0)
        return {"pattern": _text(name)}
    if kind == "ORDER":
        return {"user": _text(name), **_order(body)}
    if kind == "EVENT":
        return {"subject": _text(name), **_event(body)}
    if kind in ("CHALLENGE", "WELCOME", "GOAWAY"):
        return {"node": _text(name), **_server_body(kind, body)}
    options = _options(flags) if kind == "BROADCAST" else {}
    if name:
        raise FrameError(MALFORMED, "frame type takes no name")
    if kind == "BROADCAST":
        key, header, rest = _split_head(flags, body)
        rooms, payload = _rooms(rest)
        return {"rooms": rooms, **options, "key": key, **header, "payload": payload}
    if kind == "RESULT":
        return _result(body)
    if kind == "REGISTER":
        return _register(body)
    if kind == "ANSWER":
        return _answer(body)
    if kind in ("PING", "PONG"):
        if len(body) > PING_MAX:
            raise FrameError(MALFORMED, "body is above 64 bytes")
        return {"body": body}
    return _server_body(kind, body)


def _server_body(kind, body):
    if kind == "CHALLENGE":
        return {"challenge": _exactly(body, 32)}
    if kind == "GOAWAY":
        return {"grace_ms": struct.unpack("<I", _exactly(body, 4))[0]}
    if kind == "CREDIT":
        return {"total": struct.unpack("<Q", _exactly(body, 8))[0]}
    if kind == "ERROR":
        (code,) = struct.unpack("<H", _take(body, 0, 2))
        if not MALFORMED <= code <= LEVEL_UNAVAILABLE:
            raise FrameError(UNSUPPORTED, "error code is not known")
        return {"code": code, "text": _utf8(body[2:])}
    if kind == "WELCOME":
        version, reserved, max_frame, credit = struct.unpack("<HHIQ", _exactly(body, 16))
        if version != VERSION:
            raise FrameError(UNSUPPORTED, "protocol version is not 1")
        if reserved:
            raise FrameError(UNSUPPORTED, "reserved bytes are not 0")
        return {"max_frame": max_frame, "credit": credit}
    level, duplicate, reserved, epoch, offset = struct.unpack("<BBHIQ", _exactly(body, 16))
    if reserved:
        raise FrameError(UNSUPPORTED, "reserved bytes are not 0")
    if duplicate > 1:
        raise FrameError(MALFORMED, "duplicate is neither 0 nor 1")
    if level > REPLICATED:
        raise FrameError(UNSUPPORTED, "acknowledgement level is not known")
    return {"level": level, "duplicate": bool(duplicate), "epoch": epoch, "offset": offset}


def _register(body):
    (events,) = struct.unpack("<I", _take(body, 0, 4))
    if events >> len(EVENTS):
        raise FrameError(UNSUPPORTED, "event bit is not known")
    lists, at = [], 4
    for _ in range(2):
        (count,) = struct.unpack("<H", _take(body, at, 2))
        if count > NAMES_MAX:
            raise FrameError(MALFORMED, "a list has at most 256 names")
        names, at = [], at + 2
        for _ in range(count):
            (length,) = struct.unpack("<H", _take(body, at, 2))
            names.append(_text(_take(body, at + 2, length)))
            at += 2 + length
        lists.append(names)
    _exactly(body[at:], 0)
    return {"events": events, "namespaces": lists[0], "methods": lists[1]}


def _answer(body):
    verdict, zero, zeros, code = struct.unpack("<BBHI", _take(body, 0, 8))
    if zero or zeros:
        raise FrameError(UNSUPPORTED, "reserved bytes are not 0")
    if verdict >= len(VERDICTS):
        raise FrameError(UNSUPPORTED, "verdict is not known")
    text, at = _counted_text(body, 8)
    return {"verdict": VERDICTS[verdict], "code": code, "text": text, "result": body[at:]}


def _order(body):
    head = struct.unpack("<BBBBIQ", _take(body, 0, 16))
    kind, info_content, content, reserved, code, expire_at = head
    if reserved:
        raise FrameError(UNSUPPORTED, "reserved bytes are not 0")
    if kind >= len(ORDERS) or max(info_content, content) >= len(CONTENTS):
        raise FrameError(UNSUPPORTED, "order kind or content is not known")
    texts, at = [], 16
    for _ in range(3):
        text, at = _counted_text(body, at)
        texts.append(text)
    (length,) = struct.unpack("<I", _take(body, at, 4))
    info = _take(body, at + 4, length)
    fields = {"kind": ORDERS[kind], "code": code, "expire_at": expire_at}
    fields.update(zip(("client", "channel", "text"), texts))
    contents = {"info_content": CONTENTS[info_content], "content": CONTENTS[content]}
    return {**fields, **contents, "info": info, "data": body[at + 4 + length :]}


def _event(body):
    kind, content, reserved, deadline_ms, code = struct.unpack("<BBHII", _take(body, 0, 12))
    if reserved:
        raise FrameError(UNSUPPORTED, "reserved bytes are not 0")
    if kind >= len(EVENTS) or content >= len(CONTENTS):
        raise FrameError(UNSUPPORTED, "event kind or content is not known")
    text, at = _counted_text(body, 12)
    parts = {}
    for field in ("info", "meta"):
        (length,) = struct.unpack("<I", _take(body, at, 4))
        parts[field] = _take(body, at + 4, length)
        at += 4 + length
    fields = {"kind": EVENTS[kind], "content": CONTENTS[content], "deadline_ms": deadline_ms}
    return {**fields, **parts, "code": code, "text": text, "data": body[at:]}


def _client(info):
    """User, client id and infos of a client, from their flat form."""
    return _sized_client(info)[0]


def _sized_client(info):
    """As `_client`, and the bytes that it took."""
    user, at = _counted_text(info, 0)
    client, at = _counted_text(info, at)
    parts = []
    for _ in range(2):
        content, length = struct.unpack("<BI", _take(info, at, 5))
        if content >= len(CONTENTS):
            raise FrameError(MALFORMED, "content is not known")
        parts.append(_take(info, at + 5, length))
        at += 5 + length
    client = {"user": user, "client": client, "conn_info": parts[0], "chan_info": parts[1]}
    return client, at


def _counted_text(body, at):
    (length,) = struct.unpack("<H", _take(body, at, 2))
    return _utf8(_take(body, at + 2, length)), at + 2 + length


def _names(names):
    if len(names) > NAMES_MAX or any(len(name.encode()) > NAME_MAX for name in names):
        raise ValueError("a list has at most 256 names of at most 255 bytes")
    return struct.pack("<H", len(names)) + b"".join(_counted(name) for name in names)


def _history_body(frame):
    since = frame["since"]
    body = struct.pack("<iB", frame["limit"], frame["reverse"] | (since is not None) << 1)
    if since is not None:
        epoch = since["epoch"].encode()
        if len(epoch) > NAME_MAX:
            raise ValueError("epoch is above 255 bytes")
        body += struct.pack("<B", len(epoch)) + epoch + struct.pack("<Q", since["offset"])
    return body


def _history(body):
    limit, flags = struct.unpack("<iB", _take(body, 0, 5))
    if flags & ~3:
        raise FrameError(UNSUPPORTED, "flag of HISTORY is not known")
    since, at = None, 5
    if flags & 2:
        (length,) = _take(body, at, 1)
        epoch = _utf8(_take(body, at + 1, length))
        at += 1 + length
        (offset,) = struct.unpack("<Q", _take(body, at, 8))
        since, at = {"epoch": epoch, "offset": offset}, at + 8
    _exactly(body, at)
    return {"limit": limit, "reverse": bool(flags & 1), "since": since}


def _result_body(frame):
    kind = frame["kind"]
    head = struct.pack("<BBH", RESULTS.index(kind), frame["whole"], 0)
    if kind == "history":
        place = struct.pack("<IQ", frame["epoch"], frame["offset"])
        return head + place + frame["publications"]
    if kind == "presence_stats":
        return head + struct.pack("<II", frame["num_clients"], frame["num_users"])
    lists = {"presence": "clients", "channels": "channels"}
    return head + (frame[lists[kind]] if kind in lists else b"")


def _result(body):
    kind, whole, reserved = struct.unpack("<BBH", _take(body, 0, 4))
    if reserved:
        raise FrameError(UNSUPPORTED, "reserved bytes are not 0")
    if whole > 1:
        raise FrameError(MALFORMED, "whole is neither 0 nor 1")
    if kind >= len(RESULTS):
        raise FrameError(UNSUPPORTED, "kind of result is not known")
    kind, rest = RESULTS[kind], body[4:]
    fields = {"kind": kind, "whole": bool(whole)}
    if kind == "history":
        fields["epoch"], fields["offset"] = struct.unpack("<IQ", _take(rest, 0, 12))
        fields["publications"] = rest[12:]
        _publications(rest[12:])
    elif kind == "presence":
        _clients(rest)
        fields["clients"] = rest
    elif kind == "channels":
        _channels(rest)
        fields["channels"] = rest
    elif kind == "presence_stats":
        fields["num_clients"], fields["num_users"] = struct.unpack("<II", _exactly(rest, 8))
    else:
        _exactly(rest, 0)
    if kind in ("presence_stats", "done") and not whole:
        raise FrameError(MALFORMED, "a result without a list is whole")
    return fields


def _check_whole(result):
    if not result["whole"]:
        raise UpstreamError("more than one answer holds")


def _publications(data):
    """The publications of a flat list."""
    publications, at = [], 0
    while at < len(data):
        offset, content, length = struct.unpack("<QBI", _take(data, at, 13))
        payload = _take(data, at + 13, length)
        if content >= len(CONTENTS):
            raise FrameError(MALFORMED, "content is not known")
        at += 13 + length
        parts = []
        for _ in range(2):
            (length,) = struct.unpack("<I", _take(data, at, 4))
            parts.append(_take(data, at + 4, length))
            at += 4 + length
        info, tags = parts
        publication = {"offset": offset, "content": CONTENTS[content], "data": payload}
        publication["publisher"] = _client(info) if info else None
        publications.append(dict(publication, tags=dict(_pairs(tags))))
    return publications


def _clients(data):
    """The clients of a flat list."""
    clients, at = [], 0
    while at < len(data):
        client, size = _sized_client(data[at:])
        clients.append(client)
        at += size
    return clients


def _channels(data):
    """Channels and their subscribers of a flat list."""
    channels, at = {}, 0
    while at < len(data):
        name, at = _counted_text(data, at)
        (channels[name],) = struct.unpack("<I", _take(data, at, 4))
        at += 4
    return channels


def _pairs(data):
    pairs, at = [], 0
    while at < len(data):
        key, at = _counted_text(data, at)
        value, at = _counted_text(data, at)
        pairs.append((key, value))
    return pairs


def epoch_text(epoch):
    """An epoch as clients have it: a letter for each half byte, from a to p, highest first."""
    return "".join(chr(ord("a") + (epoch >> shift & 15)) for shift in range(28, -4, -4))


def _hello(body):
    if _take(body, 0, 4) != MAGIC:
        raise FrameError(MALFORMED, "HELLO does not begin with RCST")
    version, method = struct.unpack("<HH", _take(body, 4, 4))
    if version != VERSION:
        raise FrameError(UNSUPPORTED, "protocol version is not 1")
    if method == 0:
        _exactly(body, 8)
        return {"method": 0}
    if method != 1:
        raise FrameError(UNSUPPORTED, "authentication method is not known")
    (length,) = struct.unpack("<H", _take(body, 8, 2))
    key_id = _take(body, 10, length)
    mac = _exactly(body[10 + length :], 32)
    return {"method": 1, "key_id": _filled(_text(key_id)), "mac": mac}


def _options(flags):
    content = flags >> 3 & 3
    if content >= len(CONTENTS):
        raise FrameError(UNSUPPORTED, "content is not known")
    return {
        "level": flags & 3,
        "content": CONTENTS[content],
        "skip_history": bool(flags & SKIP_HISTORY_FLAG),
    }


def _split_head(flags, body):
    """Key, publication header and the rest of a body."""
    key, header = None, {}
    if flags & KEY_FLAG:
        key, body = _take(body, 0, 16), body[16:]
    if flags & HEADER_FLAG:
        header, body = _publication_header(body)
    return key, header, body


def _publication_header(body):
    (options,) = _take(body, 0, 1)
    if options & ~7:
        raise FrameError(UNSUPPORTED, "option of the publication header is not known")
    exclude, at = "", 1
    if options & 2:
        (length,) = _take(body, 1, 1)
        exclude, at = _filled(_utf8(_take(body, 2, length))), 2 + length
    version, version_epoch = 0, ""
    if options & 4:
        version, length = struct.unpack("<QB", _take(body, at, 9))
        version_epoch, at = _utf8(_take(body, at + 9, length)), at + 9 + length
        if version == 0:
            raise FrameError(MALFORMED, "version is 0")
    (count,) = struct.unpack("<H", _take(body, at, 2))
    at += 2
    start, tags, last = at, {}, None
    for _ in range(count):
        key, at = _counted_text(body, at)
        value, at = _counted_text(body, at)
        if last is not None and last >= key.encode():
            raise FrameError(MALFORMED, "keys of tags do not ascend")
        tags[key], last = value, key.encode()
    if at - start > TAGS_MAX:
        raise FrameError(TOO_LARGE, "tags are above 2048 bytes")
    header = {"delta": bool(options & 1), "exclude": exclude, "tags": tags}
    header.update(version=version, version_epoch=version_epoch)
    if not _has_header(header):
        raise FrameError(MALFORMED, "publication header says nothing")
    return header, body[at:]


def _rooms(body):
    (count,) = struct.unpack("<H", _take(body, 0, 2))
    if count == 0:
        raise FrameError(MALFORMED, "BROADCAST without a room")
    if count > ROOMS_MAX:
        raise FrameError(TOO_LARGE, "more than 1024 rooms")
    rooms, forbidden, at = [], None, 2
    for _ in range(count):
        (length,) = struct.unpack("<H", _take(body, at, 2))
        name = _take(body, at + 2, length)
        try:
            rooms.append(_room(name))
        except FrameError as error:
            # The rest of the list is still checked: a malformed frame is never called less.
            if error.code in CLOSING:
                raise
            forbidden = forbidden or error
        at += 2 + length
    if forbidden:
        raise forbidden
    return rooms, body[at:]


def _room(name):
    if not name:
        raise FrameError(FORBIDDEN_ROOM, "room name is empty")
    if len(name) > NAME_MAX:
        raise FrameError(FORBIDDEN_ROOM, "room name is above 255 bytes")
    return _utf8(name)


def _text(name):
    if len(name) > NAME_MAX:
        raise FrameError(MALFORMED, "name is above 255 bytes")
    return _utf8(name)


def _filled(name):
    if not name:
        raise FrameError(MALFORMED, "name is empty")
    return name


def _utf8(data):
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise FrameError(MALFORMED, "not UTF-8") from None


def _take(body, start, size):
    if len(body) < start + size:
        raise FrameError(MALFORMED, "body is too short")
    return body[start : start + size]


def _exactly(body, size):
    if len(body) != size:
        raise FrameError(MALFORMED, f"body is not of {size} bytes")
    return body


def _named(name, what):
    if not 1 <= len(name.encode()) <= NAME_MAX:
        raise ValueError(f"{what} is empty or above 255 bytes")
    return name


def _counted(name):
    data = name.encode()
    return struct.pack("<H", len(data)) + data


def _flags(frame):
    key = frame["key"]
    if key is not None and len(key) != 16:
        raise ValueError("an idempotency key is of 16 bytes")
    flags = frame["level"] | CONTENTS.index(frame["content"]) << 3
    if key is not None:
        flags |= KEY_FLAG
    if frame["skip_history"]:
        flags |= SKIP_HISTORY_FLAG
    if _has_header(frame):
        flags |= HEADER_FLAG
    return flags


def _has_header(frame):
    return any(frame.get(name) for name in ("delta", "exclude", "tags", "version"))


def _head(frame):
    """What comes before the payload of a publication, or before its rooms."""
    head = frame["key"] or b""
    if not _has_header(frame):
        return head
    exclude = frame["exclude"].encode()
    if len(exclude) > NAME_MAX:
        raise ValueError("client id is above 255 bytes")
    version, version_epoch = frame.get("version", 0), frame.get("version_epoch", "").encode()
    if len(version_epoch) > NAME_MAX:
        raise ValueError("version epoch is above 255 bytes")
    tags = sorted(frame["tags"].items(), key=lambda tag: tag[0].encode())
    flat = b"".join(_counted(key) + _counted(value) for key, value in tags)
    if len(flat) > TAGS_MAX:
        raise ValueError("tags are above 2048 bytes")
    head += struct.pack("<B", frame["delta"] | bool(exclude) << 1 | bool(version) << 2)
    if exclude:
        head += struct.pack("<B", len(exclude)) + exclude
    if version:
        head += struct.pack("<QB", version, len(version_epoch)) + version_epoch
    return head + struct.pack("<H", len(tags)) + flat


# -------------------------------------------------------------------------------------- the command line


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Publishes to a Ringcast broker.")
    commands = parser.add_subparsers(dest="command", required=True)
    publish = commands.add_parser("publish", help="publish DATA to ROOM and wait for its offset")
    publish.add_argument("addr", metavar="ADDR", help="host:port of the upstream listener")
    publish.add_argument("room", metavar="ROOM")
    publish.add_argument("data", metavar="DATA")
    publish.add_argument("--content", choices=CONTENTS, default="json")
    publish.add_argument("--service", default="python")
    options = parser.parse_args(arguments)
    key_id, secret = os.environ.get("RINGCAST_KEY_ID"), os.environ.get("RINGCAST_SECRET")
    key = (key_id, secret) if key_id and secret else None
    try:
        with Upstream(options.addr, options.service, key) as upstream:
            receipt = upstream.publish(options.room, options.data, content=options.content)
    except (UpstreamError, OSError, ValueError) as error:
        print(f"ringcast_upstream: {error}", file=sys.stderr)
        return 1
    print(f"epoch {receipt.epoch} offset {receipt.offset}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
