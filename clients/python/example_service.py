#!/usr/bin/env python3
"""A service that decides what clients may do, over Ringcast's upstream protocol.

    ringcast serve --set client.connect_hook=true --set client.rpc_hook=true \\
        --set channels.subscribe_hook=true --set client.disconnect_events=true
    python3 clients/python/example_service.py 127.0.0.1:8001

Whoever connects with {"name": "..."} is that user; channels of the namespace `staff` are for names that
begin with "staff-"; the method `sum` adds numbers."""

import json
import sys

import ringcast_upstream as rc


def connect(event):
    try:
        name = json.loads(event["data"])["name"]
    except (ValueError, KeyError, TypeError):
        return {"disconnect": (4501, "who are you?")}
    if not isinstance(name, str) or not name:
        return {"disconnect": (4501, "who are you?")}
    return {"result": {"user": name, "info": {"name": name}}}


def subscribe(event):
    if event["subject"].startswith("staff:") and not event["user"].startswith("staff-"):
        return {"error": (403, "staff only")}
    return {"result": {}}


def rpc(event):
    if event["subject"] != "sum":
        return {"error": (404, "no such method")}
    try:
        return {"result": {"data": sum(json.loads(event["data"]))}}
    except (ValueError, TypeError):
        return {"error": (400, "a list of numbers expected")}


HANDLERS = {"connect": connect, "subscribe": subscribe, "rpc": rpc}


def serve(upstream):
    """Answers events for ever."""
    upstream.register([*HANDLERS, "disconnect"])
    while True:
        try:
            event = upstream.next_event()
        except rc.TimedOut:
            continue  # a quiet time
        handler = HANDLERS.get(event["kind"])
        if handler:
            upstream.answer(event, **handler(event))
        else:
            print(event["kind"], event["user"], event["code"], event["text"], flush=True)


def main():
    with rc.Upstream(sys.argv[1], service="example") as upstream:
        serve(upstream)


if __name__ == "__main__":
    main()
