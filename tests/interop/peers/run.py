#!/usr/bin/env python3
"""loadgen against real servers of other makers, and against Ringcast over every way in.

Each server is started on 127.0.0.1; a small run must deliver everything. A server whose program is not here
is named as left out; with --require-all that is a failure. Standard library only.
"""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
LOADGEN = os.environ.get("LOADGEN", str(ROOT / "target/release/loadgen"))
RINGCAST = os.environ.get("RINGCAST", str(ROOT / "target/release/ringcast"))
PORT = 29300
LOAD = ["--connections", "40", "--rooms", "8", "--rate", "200", "--duration", "2s"]
BY_CLIENT = ["--publish-by", "websocket"]


def program(name):
    """The path of a program: in this environment, beside the interpreter, or where Debian has daemons."""
    beside = pathlib.Path(sys.executable).parent / name
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    return str(beside) if beside.exists() else found


class Server:
    """A process that listens on `port`; it ends with the block."""

    def __init__(self, command, port):
        self.command, self.port = command, port

    def __enter__(self):
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.05)
        self.__exit__()
        raise RuntimeError(f"{self.command[0]} does not listen on port {self.port}")

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def check(name, scenario, port, *options):
    """One run; says what came of it."""
    command = [LOADGEN, scenario, "--target", f"127.0.0.1:{port}", "--threads", "2", "--settle", "200ms", "--json"]
    done = subprocess.run(command + list(options), capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        print(f"FAILED   {name}: exit code {done.returncode}\n{done.stderr[-2000:]}\n{done.stdout[:3000]}")
        return False
    delivery = json.loads(done.stdout)["delivery"]
    assert delivery["lost"] == 0 and delivery["delivered"] > 0, delivery
    print(f"ok       {name}: {delivery['delivered']} delivered, 0 lost, p50 {delivery['latency']['p50_ms']:.2f} ms")
    return True


def nats(directory):
    command = program("nats-server")
    if not command:
        return None
    config = directory / "nats.conf"
    config.write_text(
        f'host: 127.0.0.1\nport: {PORT}\nwebsocket {{ host: "127.0.0.1", port: {PORT + 1}, no_tls: true }}\n'
    )
    with Server([command, "-c", str(config)], PORT + 1):
        publish = ["--publish-by", "nats", "--publish-to", f"127.0.0.1:{PORT}"]
        window = ["--window", "4"]
        return all([
            check("NATS, fanout", "fanout", PORT + 1, "--protocol", "nats", *publish, *LOAD),
            check("NATS, fanout with a window", "fanout", PORT + 1, "--protocol", "nats", *publish, *window, *LOAD),
            check("NATS, fanout by a client", "fanout", PORT + 1, "--protocol", "nats", *BY_CLIENT, *LOAD),
            check("NATS, chat", "chat", PORT + 1, "--protocol", "nats", *LOAD),
        ])


def mosquitto(directory):
    command = program("mosquitto")
    if not command:
        return None
    config = directory / "mosquitto.conf"
    config.write_text(
        f"listener {PORT + 2} 127.0.0.1\nlistener {PORT + 3} 127.0.0.1\nprotocol websockets\n"
        "allow_anonymous true\n"
    )
    # Debian's version takes a few WebSocket connections per second.
    few = ["--connections", "16", "--rooms", "4", "--rate", "50", "--duration", "2s", "--connect-timeout", "30s"]
    with Server([command, "-c", str(config)], PORT + 3):
        publish = ["--publish-by", "mqtt", "--publish-to", f"127.0.0.1:{PORT + 2}"]
        return all([
            check("mosquitto, fanout", "fanout", PORT + 3, "--protocol", "mqtt", *publish, *few),
            check("mosquitto, QoS 1 with a window", "fanout", PORT + 3, "--protocol", "mqtt", *publish, "--window", "4", *few),
            check("mosquitto, fanout by a client", "fanout", PORT + 3, "--protocol", "mqtt", *BY_CLIENT, *few),
            check("mosquitto, chat", "chat", PORT + 3, "--protocol", "mqtt", *few),
        ])


def nchan(directory):
    command = program("nginx")
    module = pathlib.Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
    if not command or not module.exists():
        return None
    config = directory / "nginx.conf"
    config.write_text(
        f"load_module {module};\ndaemon off;\npid {directory}/nginx.pid;\nerror_log {directory}/error.log;\n"
        "worker_processes 1;\nuser root;\nevents { worker_connections 512; }\nhttp { access_log off;\n"
        + "".join(f"{kind}_temp_path {directory}/{kind};\n" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
        + f"server {{ listen 127.0.0.1:{PORT + 4};\n"
        "location ~ /pub/(.+)$ { nchan_publisher; nchan_channel_id $1; nchan_message_buffer_length 1000; }\n"
        "location ~ /sub/(.+)$ { nchan_subscriber websocket; nchan_subscriber_first_message newest; nchan_channel_id $1; }\n} }\n"
    )
    with Server([command, "-c", str(config), "-p", str(directory)], PORT + 4):
        publish = ["--publish-by", "nchan", "--publish-to", f"http://127.0.0.1:{PORT + 4}/pub/{{room}}"]
        return check(
            "nginx with nchan, fanout", "fanout", PORT + 4, "--protocol", "topic", "--path", "/sub/{room}", *publish, *LOAD
        )


def node(script, port, checks):
    command = program("node")
    if not command or not (HERE / "node_modules").exists():
        return None
    with Server([command, str(HERE / script), str(port)], port):
        return all([check(*each) for each in checks])


def socket_io(_):
    port = PORT + 5
    return node("socket_io.mjs", port, [
        ("Socket.IO, chat", "chat", port, "--protocol", "socket-io", *LOAD),
        ("Socket.IO, fanout by a client", "fanout", port, "--protocol", "socket-io", *BY_CLIENT, *LOAD),
    ])


def ws(_):
    port = PORT + 6
    alone = ["--connections", "40", "--rooms", "40", "--rate", "200", "--duration", "2s"]
    return node("ws_topic.mjs", port, [
        ("ws, topic in the path, chat", "chat", port, "--protocol", "topic", "--path", "/", *LOAD),
        ("ws, topic in the path, fanout by clients", "fanout", port, "--protocol", "topic", "--path", "/", *BY_CLIENT, *LOAD),
        ("ws, echo, chat", "chat", port, "--protocol", "echo", "--path", "/echo", *alone),
    ])


def ringcast(_):
    if not pathlib.Path(RINGCAST).exists():
        return None
    listen, upstream, admin = PORT + 7, PORT + 8, PORT + 9
    command = [RINGCAST, "serve", "--shards", "2", "--allow-anonymous", "--allow-publish"]
    command += ["--listen", f"127.0.0.1:{listen}", "--upstream", f"127.0.0.1:{upstream}", "--admin", f"127.0.0.1:{admin}"]
    command += ["--set", "api.insecure=true", "--set", "channels.history_size=1000"]
    with Server(command, listen):
        results = []
        api = ["--publish-by", "http-api", "--publish-to", f"http://127.0.0.1:{admin}/api"]
        for protocol in ["centrifugo-json", "centrifugo-protobuf"]:
            results += [
                check(f"Ringcast, {protocol}, upstream", "fanout", listen, "--protocol", protocol,
                      "--upstream", f"127.0.0.1:{upstream}", *LOAD),
                check(f"Ringcast, {protocol}, HTTP API", "fanout", listen, "--protocol", protocol, *api, *LOAD),
                check(f"Ringcast, {protocol}, a client", "fanout", listen, "--protocol", protocol, *BY_CLIENT, *LOAD),
                check(f"Ringcast, {protocol}, a client with a window", "fanout", listen, "--protocol", protocol,
                      *BY_CLIENT, "--window", "4", *LOAD),
                check(f"Ringcast, {protocol}, chat", "chat", listen, "--protocol", protocol, *LOAD),
            ]
        return all(results)


def main():
    require_all = "--require-all" in sys.argv[1:]
    is_fine = True
    with tempfile.TemporaryDirectory() as directory:
        for peer in [ringcast, nats, mosquitto, nchan, socket_io, ws]:
            result = peer(pathlib.Path(directory))
            if result is None:
                print(f"LEFT OUT {peer.__name__}: its program is not here")
                result = not require_all
            is_fine &= result
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
