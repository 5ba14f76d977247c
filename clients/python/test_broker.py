#!/usr/bin/env python3
"""The client against a running broker: `test_broker.py ADDR` for one without keys, `test_broker.py ADDR
KEY_ID SECRET` for one with. Publishes what `tests/python_client.rs` then finds at a subscriber."""

import sys

import ringcast_upstream as rc


def check(condition, what):
    if not condition:
        sys.exit(f"failed: {what}")


def refused(code, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except rc.Refused as error:
        check(error.code == code, f"code {code} expected, {error} came")
        return
    sys.exit(f"failed: no refusal with code {code}")


def ask(upstream, epoch):
    """What the broker says of the room that was published to."""

    def data(**query):
        page = upstream.history("python", **query)
        check((page["epoch"], page["offset"]) == (epoch, 5), f"{page}")
        return [publication["data"] for publication in page["publications"]]

    check(data(limit=2) == [b'{"n":1}', b'{"n":2}'], "the oldest two")
    check(data(limit=1, reverse=True) == [b'{"n":5}'], "the newest")
    check(data(since=(epoch, 3)) == [b"\x00\xff", b'{"n":5}'], "all after the third")
    check(data(since=(rc.epoch_text(epoch), 5)) == [], "nothing after the last")
    check(data(limit=0) == [], "the position only")
    check(not upstream.history("python", since=(epoch ^ 1, 3))["found"], "another history")
    upstream.publish("tagged", "1", tags={"lang": "en"}, delta=True, exclude="0" * 32)
    (tagged,) = upstream.history("tagged")["publications"]
    check((tagged["tags"], tagged["publisher"]) == ({"lang": "en"}, None), f"{tagged}")
    check(set(upstream.channels("pyth*")) <= {"python"}, "channels")
    check(upstream.presence("python") == [] and upstream.presence_stats("python") == (0, 0), "presence")
    upstream.forget_history("python")
    check(data() == [], "a forgotten history")


def main():
    addr, key = sys.argv[1], None
    if len(sys.argv) > 2:
        key = (sys.argv[2], sys.argv[3].encode())
        refused(3, rc.Upstream, addr, key=(sys.argv[2], b"another secret"))
        refused(3, rc.Upstream, addr)
    with rc.Upstream(addr, key=key) as upstream:
        first = upstream.publish("python", '{"n":1}')
        check(first.offset == 1 and first.epoch != 0 and not first.duplicate, f"{first}")
        name = bytes(range(16))
        once = upstream.publish("python", '{"n":2}', key=name)
        again = upstream.publish("python", '{"n":2}', key=name)
        check((once.offset, again.offset, again.duplicate) == (2, 2, True), f"{once} {again}")
        check(upstream.publish("python", "three", content="text", level=rc.ACCEPTED) is not None, "accepted")
        check(upstream.publish("python", b"\x00\xff", content="bytes", level=rc.NONE) is None, "none")
        receipt = upstream.broadcast(["python", "snake"], '{"n":5}')
        check(receipt.offset == 0, f"{receipt}")
        refused(6, upstream.publish, "python", "{not json")
        refused(11, upstream.publish, "python", "1", level=rc.REPLICATED)
        # More than the credit window, so that the broker has to grant more.
        for _ in range(2_000):
            upstream.send("bulk", b"x" * 4_096, content="bytes", level=rc.NONE)
        last = upstream.publish("bulk", '"end"')
        check(last.offset == 2_001, f"{last}")
        check(upstream.ping() < 10, "ping")
        ask(upstream, first.epoch)
    print("python client: all checks passed")


if __name__ == "__main__":
    main()
