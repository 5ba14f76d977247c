#!/usr/bin/env python3
"""A service of the interoperability tests, over the upstream protocol and clients/python.

    service.py ADDRESS RULES METHODS

RULES is a JSON list of {"kind", "subject" or none for any, and "result", "error", "disconnect" or "silent"}:
the first that fits decides an event, and what none fits is answered with an empty result. METHODS are those that
it has, none for all. Prints `ready`, then a JSON line for each event."""

import base64
import json
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "clients" / "python"))

import ringcast_upstream as rc


def answer(event, rules):
    """What to answer, or None for nothing."""
    for rule in rules:
        fits = rule["kind"] == event["kind"] and rule.get("subject", event["subject"]) == event["subject"]
        if fits and "silent" in rule:
            return None
        if fits:
            return {verdict: rule[verdict] for verdict in ("result", "error", "disconnect") if verdict in rule}
    return {}


def main():
    address, rules, methods = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
    with rc.Upstream(address, service="interop") as upstream:
        upstream.register(rc.EVENTS, methods=methods)
        print("ready", flush=True)
        while True:
            try:
                event = upstream.next_event()
            except rc.TimedOut:
                continue  # a quiet time
            except (rc.Closed, OSError):
                return  # the broker is gone
            told = {name: event[name] for name in ("kind", "subject", "user", "client", "code", "text")}
            told["b64data"] = base64.b64encode(event["data"]).decode()
            print(json.dumps(told), flush=True)
            decided = answer(event, rules)
            if decided is not None:
                upstream.answer(event, **decided)


if __name__ == "__main__":
    main()
