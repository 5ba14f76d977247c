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
    print("python client: all checks passed")


if __name__ == "__main__":
    main()
