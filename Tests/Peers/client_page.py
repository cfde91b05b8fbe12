"""Runs clients/javascript in a headless Chromium against real servers, directly and behind nginx. Fails with what differs.

    client_page.py ISOTHERM     the program
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from browser import Browser  # noqa: E402

CHROMIUM = next((p for p in ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"]
                 if os.access(p, os.X_OK)), "chromium")
# nginx does as X-Accel-Buffering says, unless it is told to ignore it: then it holds the stream back.
NGINX = """
daemon off; pid {dir}/pid; error_log {dir}/error.log error; worker_processes 1; {user}
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c; uwsgi_temp_path {dir}/d;
    scgi_temp_path {dir}/e;
    server {{ listen 127.0.0.1:{off}; location / {{ proxy_pass http://127.0.0.1:{port}; proxy_http_version 1.1;
        proxy_buffering off; }} }}
    server {{ listen 127.0.0.1:{on}; location / {{ proxy_pass http://127.0.0.1:{port}; proxy_http_version 1.1;
        proxy_buffering on; proxy_ignore_headers X-Accel-Buffering; }} }}
}}
"""
START = """
(async () => {
  (0, eval)(await (await fetch('/v1/client.js')).text() + ';globalThis.isotherm = isotherm')
  globalThis.events = []; globalThis.states = []; globalThis.began = performance.now()
  globalThis.client = isotherm('', { topics: ['t', 'u'], types: ['price'], device: 'page', group: 'web', receipts: true,
    idle: %d, onevent: e => events.push(e), onstate: s => states.push([s, performance.now() - began]) })
})()
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def check(condition, what):
    if not condition:
        raise SystemExit(f"FAIL {what}")


def until(condition, what, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        check(time.monotonic() < end, f"not within {seconds} s: {what}")
        time.sleep(0.05)


class Server:
    def __init__(self, program, directory, port):
        self.port = port
        self.process = subprocess.Popen(
            [program, "serve", "--listen", f"127.0.0.1:{port}", "--data", directory], stderr=subprocess.DEVNULL)
        until(self.answers, "the server listens", 30)

    def answers(self):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/livez", timeout=2).status == 200
        except OSError:
            return False

    def publish(self, topic, data, type=None):
        headers = {"Content-Type": "text/plain"} | ({"X-Event-Type": type} if type else {})
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/events/{topic}", data.encode(), headers, method="POST")
        return json.load(urllib.request.urlopen(request, timeout=10))["id"]

    def metric(self, sample):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            found = re.search("^" + re.escape(sample) + r" (\S+)$", answer.read().decode(), re.M)
        return float(found[1]) if found else 0

    def end(self, number):
        self.process.send_signal(number)
        self.process.wait()


def data(page):
    return page.run("events.filter(e => !e.type.startsWith('isotherm.')).map(e => e.data)")


def states(page):
    return [name for name, _ in page.run("states")]


def listen(browser, server, port, idle=45_000):
    page = browser.open(f"http://127.0.0.1:{port}/livez")
    page.run(START % idle)
    return page


def stream(browser, server, port, what):
    """Where nothing holds the stream back, it is used: at once, in order, each once, of every type that was named."""
    before = server.metric('isotherm_receipts_total{outcome="accepted"}')
    page = listen(browser, server, port)
    until(lambda: "streaming" in states(page), f"{what}: a hello comes")
    sent = [f"{what} {number}" for number in range(20)]
    ids = [server.publish("tu"[number % 2], text, "price" if number % 3 == 0 else None)
           for number, text in enumerate(sent)]
    until(lambda: len(data(page)) >= 20, f"{what}: 20 events come")
    check(data(page) == sent, f"{what}: {data(page)}")
    check(page.run("events.map(e => e.id)") == ids, f"{what}: ids")
    check(page.run("events[0].type") == "price" and page.run("events[1].type") == "message", f"{what}: types")
    until(lambda: server.metric('isotherm_receipts_total{outcome="accepted"}') == before + 20, f"{what}: 20 receipts")
    check(states(page) == ["connecting", "streaming"], f"{what}: {states(page)}")
    page.run("client.close()")
    server.publish("t", "nobody hears this")
    return page


def held_back(browser, server, port):
    """Behind a proxy that buffers: long poll within 3 s, and what was published meanwhile is there."""
    page = listen(browser, server, port)
    until(lambda: "connecting" in states(page), "buffered: it begins")
    early = server.publish("t", "early")
    until(lambda: "polling" in states(page), "buffered: it polls")
    moment = dict(page.run("states"))["polling"] - dict(page.run("states"))["connecting"]
    check(moment <= 3000, f"buffered: detected after {moment:.0f} ms")
    late = [f"late {number}" for number in range(10)]
    for text in late:
        server.publish("t", text, "price")
    until(lambda: len(data(page)) >= 11, "buffered: 11 events come")
    check(data(page) == ["early"] + late, f"buffered: {data(page)}")
    check(page.run("events[0].id") == early, "buffered: the id")
    page.run("client.close()")


def restart(browser, program, directory):
    """kill -9, events meanwhile by another instance, and the page goes on: nothing missing, nothing twice."""
    port = free_port()
    server = Server(program, directory, port)
    page = listen(browser, server, port)
    until(lambda: "streaming" in states(page), "restart: a hello comes")
    server.publish("t", "before")
    until(lambda: data(page) == ["before"], "restart: the first event")
    server.end(signal.SIGKILL)
    until(lambda: "waiting" in states(page), "restart: the page notices")
    elsewhere = Server(program, directory, free_port())
    elsewhere.publish("t", "meanwhile")
    elsewhere.end(signal.SIGTERM)
    server = Server(program, directory, port)
    server.publish("u", "after")
    until(lambda: len(data(page)) >= 3, "restart: the page is back", 30)
    check(data(page) == ["before", "meanwhile", "after"], f"restart: {data(page)}")
    check(states(page)[-1] == "streaming", f"restart: {states(page)}")
    server.end(signal.SIGTERM)


def silent(browser, server, program):
    """A connection that is open and dead: what a poll finds after the silence tells, and nothing is lost."""
    # Passes the first bytes of a stream, then nothing, and everything of other requests.
    relay = subprocess.Popen([sys.executable, "-c", RELAY, str(server.port)], stdout=subprocess.PIPE, text=True)
    try:
        page = listen(browser, server, int(relay.stdout.readline()), idle=700)
        until(lambda: "streaming" in states(page), "silent: a hello comes")
        server.publish("t", "unheard")
        until(lambda: data(page) == ["unheard"], "silent: the event comes by the check")
        until(lambda: states(page).count("streaming") >= 2, "silent: a new stream is opened")
        check(data(page) == ["unheard"], f"silent: {data(page)}")
        page.run("client.close()")
    finally:
        relay.terminate()
        relay.wait()


RELAY = r"""
import select, socket, sys, threading
listener = socket.socket(); listener.bind(("127.0.0.1", 0)); listener.listen(64)
print(listener.getsockname()[1], flush=True)
def serve(client):
    server = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    is_stream, quiet = False, False
    while True:
        for ready in select.select([client, server], [], [])[0]:
            data = ready.recv(65536)
            if not data:
                client.close(); server.close(); return
            if ready is client:
                is_stream = is_stream or b"text/event-stream" in data
                server.sendall(data)
            elif not quiet:
                client.sendall(data)
                quiet = is_stream and b"isotherm.hello" in data
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


def main(program):
    directory = tempfile.mkdtemp(prefix="isotherm-page-")
    server = Server(program, f"{directory}/one", free_port())
    off, on = free_port(), free_port()
    with open(f"{directory}/nginx.conf", "w") as file:
        file.write(NGINX.format(
            dir=directory, user="user root;" if os.getuid() == 0 else "", port=server.port, off=off, on=on))
    nginx = subprocess.Popen(["/usr/sbin/nginx", "-p", directory, "-c", f"{directory}/nginx.conf"])
    try:
        with Browser(CHROMIUM) as browser:
            page = stream(browser, server, server.port, "direct")
            until(lambda: Server.answers(type("At", (), {"port": on})), "nginx listens")
            stream(browser, server, off, "nginx without buffering")
            held_back(browser, server, on)
            silent(browser, server, program)
            check(data(page)[-1] == "direct 19", "after close() nothing comes")
            restart(browser, program, f"{directory}/two")
    finally:
        nginx.terminate()
        nginx.wait()
        server.end(signal.SIGTERM)
        shutil.rmtree(directory, ignore_errors=True)
    print("ok")


main(sys.argv[1])
