"""The real Python SDK against the broker, over JSON and over Protobuf.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install -r requirements.txt
    /tmp/venv/bin/python interop.py

RINGCAST_BIN names the broker, target/release/ringcast if unset. Prints a line for each test that fails
and `N passed, N failed` at the end; the exit code is 0 or 1.
"""

import asyncio
import base64
import json
import os
import re
import subprocess
import sys
import traceback
from pathlib import Path

import websockets
from centrifuge import (
    Client,
    ClientEventHandler,
    DeltaType,
    ReplyError,
    StreamPosition,
    SubscriptionEventHandler,
)

HERE = Path(__file__).resolve().parent
BINARY = os.environ.get("RINGCAST_BIN") or HERE.parents[2] / "target/release/ringcast"
CONFIG = HERE.parent / "interop.toml"
WITHIN_S = 5
TEST_S = 20
FAST_PINGS = ["ping_interval=1s", "pong_timeout=500ms", "hook_timeout=400ms"]


class Broker:
    """A broker in a process of its own, on ports that the kernel chooses."""

    def __init__(self, *settings):
        self.settings = settings
        self.clients = self.upstream = self.admin = "127.0.0.1:0"
        self.start()

    def start(self):
        command = [BINARY, "serve", "--config", CONFIG, "--shards", "2"]
        command += ["--listen", self.clients, "--upstream", self.upstream, "--admin", self.admin]
        for setting in self.settings:
            command += ["--set", f"client.{setting}"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        said = ""
        for line in self.process.stderr:
            said += line
            if "shards " in line:
                break
        else:
            raise RuntimeError(f"the broker ended: {said}")
        self.clients = re.search(r"clients +ws://([\d.:]+)", said)[1]
        self.upstream = re.search(r"upstream +([\d.:]+)", said)[1]
        self.admin = re.search(r"admin +http://([\d.:]+)", said)[1]

    @property
    def url(self):
        return f"ws://{self.clients}/connection/websocket"

    def publish(self, channel, value):
        """Publishes a JSON document as a service does."""
        command = [BINARY, "pub", "--upstream", self.upstream, channel, json.dumps(value)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def stop(self):
        self.process.terminate()
        code = self.process.wait()
        self.process.stderr.close()
        return code


class Events(ClientEventHandler):
    """Records what happens to a client."""

    def __init__(self):
        self.seen = []

    async def on_connecting(self, ctx):
        self.seen.append(("connecting", ctx))

    async def on_connected(self, ctx):
        self.seen.append(("connected", ctx))

    async def on_disconnected(self, ctx):
        self.seen.append(("disconnected", ctx))

    async def on_error(self, ctx):
        self.seen.append(("error", ctx))


class SubscriptionEvents(SubscriptionEventHandler):
    """Records what happens to a subscription."""

    def __init__(self):
        self.seen = []

    async def on_subscribed(self, ctx):
        self.seen.append(("subscribed", ctx))

    async def on_unsubscribed(self, ctx):
        self.seen.append(("unsubscribed", ctx))

    async def on_publication(self, ctx):
        self.seen.append(("publication", ctx.pub))

    async def on_join(self, ctx):
        self.seen.append(("join", ctx.info))

    async def on_leave(self, ctx):
        self.seen.append(("leave", ctx.info))


async def until(promise, holds):
    """Waits until `holds()` is true; a failure names `promise`."""
    for _ in range(WITHIN_S * 100):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"not in {WITHIN_S} s: {promise}")


class Channel:
    """A subscription and everything it has heard, in order."""

    def __init__(self, peer, name, **options):
        self.peer = peer
        self.events = SubscriptionEvents()
        self.sdk = peer.sdk.new_subscription(name, events=self.events, min_resubscribe_delay=0.02, **options)

    def all(self, name):
        return [what for kind, what in self.events.seen if kind == name]

    async def event(self, name, count=1):
        await until(f"{count} {name}", lambda: len(self.all(name)) >= count)
        return self.all(name)[count - 1]

    @property
    def values(self):
        return [self.peer.load(publication.data) for publication in self.all("publication")]

    @property
    def offsets(self):
        return [publication.offset for publication in self.all("publication")]

    async def publish(self, value):
        await self.sdk.publish(self.peer.dump(value))


class Peer:
    """One client of the SDK in one encoding."""

    def __init__(self, url, is_protobuf, **options):
        self.is_protobuf = is_protobuf
        self.events = Events()
        self.sdk = Client(
            url,
            events=self.events,
            use_protobuf=is_protobuf,
            min_reconnect_delay=0.02,
            max_reconnect_delay=0.2,
            proxy=None,
            **options,
        )

    def dump(self, value):
        return json.dumps(value).encode() if self.is_protobuf else value

    def load(self, data):
        return json.loads(data) if self.is_protobuf else data

    def all(self, name):
        return [what for kind, what in self.events.seen if kind == name]

    async def event(self, name, count=1):
        await until(f"{count} {name}", lambda: len(self.all(name)) >= count)
        return self.all(name)[count - 1]

    @property
    def id(self):
        return self.all("connected")[-1].client

    async def subscribe(self, name, **options):
        channel = Channel(self, name, **options)
        await channel.sdk.subscribe()
        await channel.sdk.ready(WITHIN_S)
        return channel

    def cut(self):
        """Ends the TCP connection without a word; the SDK reconnects by itself."""
        self.sdk._conn.transport.abort()


class Scene:
    """What a test is given: brokers and clients that end with it."""

    def __init__(self, is_protobuf):
        self.is_protobuf = is_protobuf
        self.brokers, self.peers = [], []

    def broker(self, *settings):
        self.brokers.append(Broker(*settings))
        return self.brokers[-1]

    async def connected(self, broker, is_protobuf=None, **options):
        peer = Peer(broker.url, self.is_protobuf if is_protobuf is None else is_protobuf, **options)
        self.peers.append(peer)
        await peer.sdk.connect()
        await peer.sdk.ready(WITHIN_S)
        return peer

    async def two(self):
        broker = self.broker()
        return broker, await self.connected(broker), await self.connected(broker)

    async def end(self):
        for peer in self.peers:
            await peer.sdk.disconnect()
        for broker in self.brokers:
            await asyncio.to_thread(broker.stop)


async def code_of(work):
    try:
        await work
    except ReplyError as error:
        return error.code
    raise AssertionError("it should have failed")


async def connects_and_names_client_and_version(scene):
    peer = await scene.connected(scene.broker())
    connected = peer.all("connected")[0]
    assert connected.client and connected.version


async def publications_arrive_with_the_publisher_s_info(scene):
    _, a, b = await scene.two()
    own, other = await a.subscribe("all:chat"), await b.subscribe("all:chat")
    await own.publish({"text": "grüße 🦀"})
    for channel in (own, other):
        publication = await channel.event("publication")
        assert channel.values == [{"text": "grüße 🦀"}]
        assert publication.offset == 1
        assert publication.info.client == a.id


async def presence_and_its_stats(scene):
    _, a, b = await scene.two()
    channel = await a.subscribe("all:room")
    other = await b.subscribe("all:room")
    # A client sees itself from its subscribe reply on, others a moment later.
    assert b.id in (await other.sdk.presence()).clients
    presence = await channel.sdk.presence()
    assert set(presence.clients) == {a.id, b.id}
    stats = await channel.sdk.presence_stats()
    assert (stats.num_clients, stats.num_users) == (2, 1)


async def joins_and_leaves(scene):
    _, a, b = await scene.two()
    channel = await a.subscribe("all:door", join_leave=True)
    assert (await channel.event("join")).client == a.id
    other = await b.subscribe("all:door")
    assert (await channel.event("join", 2)).client == b.id
    await other.sdk.unsubscribe()
    assert (await channel.event("leave")).client == b.id


async def history_pages(scene):
    _, a, _ = await scene.two()
    channel = await a.subscribe("all:past")
    for n in range(1, 11):
        await channel.publish(n)

    async def offsets(**options):
        return [each.offset for each in (await channel.sdk.history(**options)).publications]

    top = await channel.sdk.history(limit=0)
    assert (top.publications, top.offset) == ([], 10)
    assert await offsets(limit=-1) == list(range(1, 11))
    assert await offsets(limit=3, reverse=True) == [10, 9, 8]
    assert await offsets(limit=3, since=StreamPosition(4, top.epoch)) == [5, 6, 7]
    assert await code_of(channel.sdk.history(limit=1, since=StreamPosition(4, "wrong"))) == 112


async def errors_have_their_codes(scene):
    _, a, _ = await scene.two()
    data = a.dump(1)
    assert await code_of(a.sdk.publish("nowhere:x", data)) == 102
    assert await code_of(a.sdk.publish("plain:x", data)) == 103
    assert await code_of(a.sdk.history("closed:x", limit=1)) == 103
    assert await code_of(a.sdk.presence("plain:x")) == 108
    assert await code_of(a.sdk.rpc("sum", data)) == 108
    refused = Channel(a, "denied")
    await refused.sdk.subscribe()
    assert (await refused.event("unsubscribed")).code == 103
    assert len(a.all("connected")) == 1


async def everything_missed_is_recovered_exactly_once(scene):
    _, reader, writer = await scene.two()
    channel = await reader.subscribe("all:news", recoverable=True)
    for n in range(1, 6):
        await writer.sdk.publish("all:news", writer.dump(n))
    await channel.event("publication", 5)
    back, reader.sdk._address = reader.sdk._address, "ws://127.0.0.1:1/"
    reader.cut()
    await reader.event("connecting", 2)
    for n in range(6, 16):
        await writer.sdk.publish("all:news", writer.dump(n))
    reader.sdk._address = back
    subscribed = await channel.event("subscribed", 2)
    assert subscribed.was_recovering and subscribed.recovered
    await writer.sdk.publish("all:news", writer.dump(16))
    await channel.event("publication", 16)
    assert channel.values == list(range(1, 17)), channel.values
    assert channel.offsets == list(range(1, 17))


async def a_lost_epoch_is_told(scene):
    broker = scene.broker()
    peer = await scene.connected(broker)
    channel = await peer.subscribe("all:news", recoverable=True)
    broker.process.kill()
    await asyncio.to_thread(broker.stop)
    await asyncio.to_thread(broker.start)
    subscribed = await channel.event("subscribed", 2)
    assert subscribed.was_recovering and not subscribed.recovered


async def a_drain_is_3001_and_clients_find_the_next_broker(scene):
    broker = scene.broker()
    peer = await scene.connected(broker)
    channel = await peer.subscribe("all:news")
    assert await asyncio.to_thread(broker.stop) == 0
    await until("the close", lambda: any(each.code == 3001 for each in peer.all("connecting")))
    await asyncio.to_thread(broker.start)
    await channel.event("subscribed", 2)
    await asyncio.to_thread(broker.publish, "all:news", "again")
    await channel.event("publication")
    assert channel.values == ["again"]


async def state_is_fetched_again_after_error_112(scene):
    _, reader, writer = await scene.two()
    for n in range(1, 6):
        await writer.sdk.publish("all:state", writer.dump(n))
    epoch = (await writer.sdk.history("all:state", limit=0)).epoch
    positions = [StreamPosition(5, "wrong"), StreamPosition(3, epoch)]

    async def get_state(_channel):
        return positions.pop(0)

    channel = await reader.subscribe("all:state", recoverable=True, get_state=get_state)
    await channel.event("publication", 2)
    assert (channel.values, positions) == ([4, 5], [])


async def deltas_apply(scene):
    _, reader, writer = await scene.two()
    channel = await reader.subscribe("delta:doc", delta=DeltaType.FOSSIL)
    text = "Съешь же ещё этих мягких французских булок 🦀 да выпей чаю. " * 8
    values = [{"n": n, "text": text[:99] + f"ж{n}" + text[100:200] + f"«{n}»" + text[201:]} for n in range(10)]
    for value in values[:5]:
        await writer.sdk.publish("delta:doc", writer.dump(value))
    await channel.event("publication", 5)
    reader.cut()
    assert (await channel.event("subscribed", 2)).recovered
    for value in values[5:]:
        await writer.sdk.publish("delta:doc", writer.dump(value))
    await channel.event("publication", len(values))
    assert channel.values == values


async def pings_are_answered(scene):
    peer = await scene.connected(scene.broker(*FAST_PINGS))
    await asyncio.sleep(2.6)
    assert len(peer.all("connected")) == 1
    assert peer.all("disconnected") == []


async def control_pings_are_answered(scene):
    peer = await scene.connected(scene.broker())
    await asyncio.wait_for(await peer.sdk._conn.ping(), WITHIN_S)


async def an_empty_subprotocol_header_is_none(scene):
    """What the SDK before 0.6 sends in JSON mode."""
    broker = scene.broker()
    options = {"proxy": None, "additional_headers": {"Sec-WebSocket-Protocol": ""}}
    async with websockets.connect(broker.url, **options) as socket:
        assert "Sec-WebSocket-Protocol" not in socket.response.headers
        await socket.send('{"id":1,"connect":{}}')
        assert json.loads(await socket.recv())["connect"]["client"]


async def a_token_that_cannot_be_checked_is_final(scene):
    broker = scene.broker()
    peer = Peer(broker.url, scene.is_protobuf, token="not.a.token")
    await peer.sdk.connect()
    assert (await peer.event("disconnected")).code == 3500


async def a_binary_payload_is_base64_text_for_json(scene):
    broker = scene.broker()
    reader = await scene.connected(broker)
    writer = await scene.connected(broker, is_protobuf=True)
    channel = await reader.subscribe("all:bytes")
    data = bytes([0, 255, 10, 128, 34])
    await writer.sdk.publish("all:bytes", data)
    publication = await channel.event("publication")
    assert publication.data == (data if scene.is_protobuf else base64.b64encode(data).decode())


TESTS = [
    connects_and_names_client_and_version,
    publications_arrive_with_the_publisher_s_info,
    presence_and_its_stats,
    joins_and_leaves,
    history_pages,
    errors_have_their_codes,
    everything_missed_is_recovered_exactly_once,
    a_lost_epoch_is_told,
    a_drain_is_3001_and_clients_find_the_next_broker,
    state_is_fetched_again_after_error_112,
    deltas_apply,
    pings_are_answered,
    control_pings_are_answered,
    an_empty_subprotocol_header_is_none,
    a_token_that_cannot_be_checked_is_final,
    a_binary_payload_is_base64_text_for_json,
]


async def passes(test, is_protobuf):
    scene = Scene(is_protobuf)
    try:
        await asyncio.wait_for(test(scene), TEST_S)
        return True
    except Exception:
        print(f"FAILED {test.__name__} ({'protobuf' if is_protobuf else 'json'})")
        traceback.print_exc(file=sys.stdout)
        return False
    finally:
        await scene.end()


async def main():
    results = [await passes(test, is_protobuf) for test in TESTS for is_protobuf in (False, True)]
    failed = results.count(False)
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
