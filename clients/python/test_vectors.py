#!/usr/bin/env python3
"""The Python client against the published vectors and against a small broker of its own.

    python3 clients/python/test_vectors.py
"""

import contextlib
import io
import json
import pathlib
import socket
import sys
import threading
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import example_service  # noqa: E402
import ringcast_upstream as upstream  # noqa: E402

VECTORS = HERE.parent.parent / "tests" / "vectors" / "upstream" / "vectors.json"
HEX_FIELDS = (
    *("payload", "key", "body", "challenge", "mac", "result", "info", "meta", "data"),
    *("publications", "clients", "channels"),
)


class Vectors(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.vectors = json.loads(VECTORS.read_text(encoding="utf-8"))
        cls.max_frame = cls.vectors["max_frame"]

    def test_every_frame_decodes_to_its_meaning_and_encodes_to_its_bytes(self):
        self.assertGreaterEqual(len(self.vectors["frames"]), 35)
        for vector in self.vectors["frames"]:
            with self.subTest(vector["name"]):
                data = bytes.fromhex(vector["hex"])
                frame = dict(vector["frame"])
                for field in HEX_FIELDS:
                    if frame.get(field) is not None:
                        frame[field] = bytes.fromhex(frame[field])
                decoded = upstream.decode(data + b"what follows", self.max_frame)
                self.assertEqual(decoded, (frame, len(data)))
                self.assertEqual(upstream.encode(frame), data)
                for cut in range(len(data)):
                    self.assertIsNone(upstream.decode(data[:cut], self.max_frame))

    def test_every_error_has_its_code_its_request_and_its_way_on(self):
        self.assertGreaterEqual(len(self.vectors["errors"]), 50)
        for vector in self.vectors["errors"]:
            with self.subTest(vector["name"]):
                with self.assertRaises(upstream.FrameError) as caught:
                    upstream.decode(bytes.fromhex(vector["hex"]), self.max_frame)
                error = caught.exception
                self.assertEqual(error.code, vector["code"])
                self.assertEqual(error.request_id, vector["request_id"])
                self.assertEqual(error.skip, vector["skip"])

    def test_what_is_not_complete_is_waited_for(self):
        self.assertGreaterEqual(len(self.vectors["incomplete"]), 5)
        for vector in self.vectors["incomplete"]:
            with self.subTest(vector["name"]):
                data = bytes.fromhex(vector["hex"])
                self.assertIsNone(upstream.decode(data, self.max_frame))

    def test_the_code_of_a_hello_is_the_published_one(self):
        self.assertGreaterEqual(len(self.vectors["macs"]), 2)
        for vector in self.vectors["macs"]:
            secret, challenge = (bytes.fromhex(vector[name]) for name in ("secret", "challenge"))
            mac = upstream.hello_mac(secret, challenge, vector["service"], vector["key_id"])
            self.assertEqual(mac.hex(), vector["mac"])


class Broker:
    """The broker's end of one connection; `script` runs on a thread of its own."""

    def __init__(self, script, credit=1 << 20, welcome=True):
        listener = socket.create_server(("127.0.0.1", 0))
        self.addr = "127.0.0.1:%d" % listener.getsockname()[1]
        self.received = bytearray()
        self.failure = None

        def run():
            with listener, listener.accept()[0] as self.socket:
                self.socket.settimeout(5)
                try:
                    self.say(type="CHALLENGE", node="n", challenge=bytes(32))
                    self.hello = self.hear()
                    if welcome:
                        self.say(type="WELCOME", node="n", max_frame=1000, credit=credit)
                    script(self)
                except Exception as error:  # reported by join
                    self.failure = error

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def say(self, **frame):
        self.socket.sendall(upstream.encode(frame))

    def ack(self, frame, offset):
        request = frame["request_id"]
        fields = {"level": frame["level"], "duplicate": False, "epoch": 5, "offset": offset}
        self.say(type="ACK", request_id=request, **fields)

    def hear(self):
        while True:
            decoded = upstream.decode(self.received)
            if decoded:
                del self.received[: decoded[1]]
                return decoded[0]
            data = self.socket.recv(65536)
            if not data:
                return None
            self.received += data

    def join(self):
        self.thread.join()
        if self.failure:
            raise self.failure


class Client(unittest.TestCase):
    def test_a_publication_waits_for_its_own_answer(self):
        def script(broker):
            first, second = broker.hear(), broker.hear()
            broker.ack(first, 41)
            broker.ack(second, 42)
            self.assertIsNone(broker.hear())

        broker = Broker(script)
        with upstream.Upstream(broker.addr, "orders", ("k1", "secret"), timeout=5) as client:
            first = client.send("news", "1")
            receipt = client.publish("news", '"grün"', key=bytes(16))
            self.assertEqual(receipt, (upstream.SEQUENCED, False, 5, 42))
            request, kept = client.next_answer()
            self.assertEqual((request, kept.offset), (first, 41))
        broker.join()
        expected = upstream.hello_mac(b"secret", bytes(32), "orders", "k1")
        self.assertEqual((broker.hello["key_id"], broker.hello["mac"]), ("k1", expected))

    def test_what_is_sent_stays_within_the_credit(self):
        def script(broker):
            total, heard = 500, 0
            for _ in range(200):
                heard += len(upstream.encode(broker.hear()))
                self.assertLessEqual(heard, total)
                if total - heard < 100:
                    total += 333
                    broker.say(type="CREDIT", total=total)
            self.assertIsNone(broker.hear())

        broker = Broker(script, credit=500)
        with upstream.Upstream(broker.addr, timeout=5) as client:
            for _ in range(200):
                self.assertIsNone(client.publish("room", "[0]", level=upstream.NONE))
        broker.join()

    def test_refusals_pings_broadcasts_and_goaway(self):
        def script(broker):
            frame = broker.hear()
            self.assertEqual(frame["rooms"], ["a", "b"])
            broker.ack(frame, 0)
            refused = broker.hear()["request_id"]
            code = upstream.INVALID_PAYLOAD
            broker.say(type="ERROR", request_id=refused, code=code, text="no JSON")
            ping = broker.hear()
            broker.say(type="PING", request_id=9, body=b"you?")
            broker.say(**dict(ping, type="PONG"))
            pong = {"type": "PONG", "request_id": 9, "body": b"you?"}
            self.assertEqual(broker.hear(), pong)
            broker.say(type="GOAWAY", node="n", grace_ms=700)
            frame = broker.hear()
            broker.ack(frame, 7)
            self.assertIsNone(broker.hear())

        broker = Broker(script)
        with upstream.Upstream(broker.addr, timeout=5) as client:
            receipt = client.broadcast(["a", "b"], "hi", content="text", level=upstream.ACCEPTED)
            self.assertEqual(receipt.level, upstream.ACCEPTED)
            with self.assertRaises(upstream.Refused) as caught:
                client.publish("a", "{")
            self.assertEqual(caught.exception.code, upstream.INVALID_PAYLOAD)
            self.assertGreaterEqual(client.ping(), 0)
            self.assertEqual(client.publish("a", "1").offset, 7)
            with self.assertRaises(upstream.GoingAway):
                client.publish("a", "1")
        broker.join()

    def test_questions_wait_for_their_own_results(self):
        def script(broker):
            publication = broker.hear()
            self.assertEqual(publication["tags"], {"b": "2", "a": "1"})
            self.assertEqual(publication["exclude"], "c1")
            asked = broker.hear()
            since = {"epoch": "kblcmdne", "offset": 4}
            self.assertEqual((asked["room"], asked["since"]), ("news", since))
            publications = self.vector("result_history")["publications"]
            result = {"type": "RESULT", "request_id": asked["request_id"], "whole": True}
            broker.ack(publication, 5)
            place = {"epoch": 0xA1B2C3D4, "offset": 15}
            broker.say(**result, kind="history", publications=publications, **place)
            result["request_id"] = broker.hear()["request_id"]
            broker.say(**result, kind="channels", channels=b"\x01\0a\x02\0\0\0")
            result.update(request_id=broker.hear()["request_id"], whole=False)
            broker.say(**result, kind="presence", clients=b"")
            refused = broker.hear()["request_id"]
            code = upstream.OVERLOADED
            broker.say(type="ERROR", request_id=refused, code=code, text="later")
            self.assertIsNone(broker.hear())

        broker = Broker(script)
        with upstream.Upstream(broker.addr, timeout=5) as client:
            sent = client.send("news", "1", exclude="c1", tags={"b": "2", "a": "1"})
            page = client.history("news", since=(0xA1B2C3D4, 4))
            self.assertEqual((page["found"], page["offset"]), (True, 15))
            first, second = page["publications"]
            self.assertEqual((first["offset"], first["data"]), (14, b"[1]"))
            self.assertEqual(first["publisher"]["user"], "42")
            self.assertEqual(first["tags"], {"": "x", "lang": "en"})
            self.assertEqual((second["content"], second["publisher"]), ("text", None))
            self.assertEqual(client.channels("*"), {"a": 2})
            with self.assertRaises(upstream.UpstreamError):
                client.presence("crowd")
            with self.assertRaises(upstream.Refused):
                client.forget_history("news")
            self.assertEqual(client.next_answer()[0], sent)
        broker.join()

    @staticmethod
    def vector(name):
        vectors = json.loads(VECTORS.read_text(encoding="utf-8"))["frames"]
        data = next(bytes.fromhex(vector["hex"]) for vector in vectors if vector["name"] == name)
        return upstream.decode(data)[0]

    def test_the_example_service_answers_events(self):
        info = upstream._counted("staff-ann") + upstream._counted("c1") + bytes(10)

        def script(broker):
            register = broker.hear()
            fields = {"level": upstream.NONE, "duplicate": False, "epoch": 0, "offset": 0}
            broker.say(type="ACK", request_id=register["request_id"], **fields)
            expected = [
                ("connect", "", b'{"name":"ann"}', ("result", 0)),
                ("connect", "", b"[]", ("disconnect", 4501)),
                ("subscribe", "staff:1", b"", ("result", 0)),
                ("rpc", "sum", b"[1,2]", ("result", 0)),
                ("rpc", "other", b"", ("error", 404)),
            ]
            for request, (kind, subject, data, answer) in enumerate(expected, 1):
                event = {"kind": kind, "subject": subject, "data": data, "request_id": request}
                event.update(content="json", deadline_ms=1000, code=0, text="", info=info, meta=b"{}")
                broker.say(type="EVENT", **event)
                heard = broker.hear()
                self.assertEqual((heard["verdict"], heard["code"]), answer)
                if subject == "sum":
                    self.assertEqual(json.loads(heard["result"]), {"data": 3})

        broker = Broker(script)
        with self.assertRaises(upstream.Closed):
            with upstream.Upstream(broker.addr, timeout=5) as client:
                example_service.serve(client)
        broker.join()

    def test_a_refused_opening_says_why(self):
        def script(broker):
            broker.say(type="ERROR", code=upstream.UNAUTHORISED, text="who?")

        broker = Broker(script, welcome=False)
        with self.assertRaises(upstream.Refused) as caught:
            upstream.Upstream(broker.addr, timeout=5)
        self.assertEqual((caught.exception.code, caught.exception.text), (3, "who?"))
        broker.join()

    def test_a_silent_broker_times_out(self):
        broker = Broker(lambda broker: broker.hear() and broker.hear())
        client = upstream.Upstream(broker.addr, timeout=0.1)
        with self.assertRaises(upstream.TimedOut):
            client.publish("a", "1")
        client.close()
        broker.join()

    def test_the_command_line_publishes(self):
        def script(broker):
            frame = broker.hear()
            self.assertEqual((frame["room"], frame["payload"]), ("news", b'{"t":"hi"}'))
            broker.ack(frame, 13)
            self.assertIsNone(broker.hear())

        broker = Broker(script)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            status = upstream.main(["publish", broker.addr, "news", '{"t":"hi"}'])
        self.assertEqual((status, out.getvalue()), (0, "epoch 5 offset 13\n"))
        broker.join()


if __name__ == "__main__":
    unittest.main()
