"""Opens and closes connections of every kind for as long as it is told, and shows that nothing stays behind.

    churn.py ISOTHERM DIRECTORY SECONDS [DEVICES]

One producer publishes numbered events. Devices listen in every form there is (event stream, lines of JSON, long poll;
plain, TLS, HTTP/2 with and without TLS), leave after a moment (cleanly, by RST, half-closed, by a reset stream) and come
back with the last id they have: each must have every event once and in order. Three stay. Beside them come peers that
send garbage, half of a request, or nothing, that shake hands and go, and that share a device's name beyond its limit.
A sink takes the server's spans.

Every ten seconds: connections opened, closed and live by /metrics, descriptors, resident memory and, where a C compiler
is at hand, the bytes that malloc has given out. Fails when an event was lost or repeated, when what was opened is not
closed plus live in the end, when descriptors are left, and in runs of half an hour or more when memory in the last
quarter is more than 3 % and 1 MiB above that of the quarter before. DIRECTORY is made, and removed when all is well.
"""

import asyncio
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import time

program, directory, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
count = int(sys.argv[4]) if len(sys.argv) > 4 else 40
EVENTS_PER_SECOND = 12
FORMS = ["sse", "sse tls", "sse h2c", "sse h2", "lines", "lines tls", "poll", "poll tls"]
ports = {}
totals = {"sessions": 0, "others": 0, "events": 0, "lost": 0, "repeated": 0, "receipts": 0, "spans' requests": 0}
first_id = last_id = None
serial = 0
leaving = False
errors = {}
tls = ssl.create_default_context()
tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
tls_h2 = ssl.create_default_context()
tls_h2.check_hostname, tls_h2.verify_mode = False, ssl.CERT_NONE
tls_h2.set_alpn_protocols(["h2"])


class Peer:
    """A connection, and the ways to end it."""

    @classmethod
    async def open(cls, secure=False, h2=False):
        self = cls()
        context = (tls_h2 if h2 else tls) if secure else None
        self.reader, self.writer = await asyncio.wait_for(asyncio.open_connection(
            "127.0.0.1", ports["tls" if secure else "plain"], ssl=context, local_addr=(f"127.0.0.{random.randint(1, 9)}", 0)), 10)
        self.secure = secure
        return self

    def send(self, text):
        self.writer.write(text if isinstance(text, bytes) else text.encode())

    async def end(self):
        way = random.choice(["close", "close", "reset", "half"])
        raw = self.writer.get_extra_info("socket")
        try:
            if raw is None or self.writer.is_closing():
                pass
            elif way == "half":
                raw.shutdown(socket.SHUT_WR)
                await asyncio.wait_for(self.reader.read(65536), random.uniform(0.05, 1))
            elif way == "reset":
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.writer.transport.abort()
        except (OSError, TimeoutError):
            pass
        self.writer.close()
        try:
            await asyncio.wait_for(self.writer.wait_closed(), 5)
        except (OSError, TimeoutError):
            pass

    async def answer(self):
        """Status and body of an answer that has a length."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.I)
        body = await self.reader.readexactly(int(length[1])) if length else b""
        return int(head.split()[1]), body


class Chunks:
    """A body as it comes, chunked or not."""

    def __init__(self, reader, head):
        self.reader, self.chunked = reader, b"chunked" in head.lower()

    async def next(self):
        if not self.chunked:
            return await self.reader.read(65536)
        size = int(await self.reader.readline() or b"0", 16)
        return (await self.reader.readexactly(size + 2))[:-2] if size else b""


def frame(kind, flags, stream, payload=b""):
    """RFC 9113, section 4.1."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def h2_get(stream, path, accept="text/event-stream"):
    """A header block by RFC 7541 without a table: GET, http, a path, an authority, what is accepted."""
    def text(value):
        assert len(value) < 127 + 128
        return (bytes([len(value)]) if len(value) < 127 else bytes([127, len(value) - 127])) + value.encode()
    return frame(1, 5, stream, b"\x82\x86\x04" + text(path) + b"\x01\x01x\x0f\x04" + text(accept))


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0)


class Frames:
    """One HTTP/2 stream's data; settings and pings are answered, and windows kept open."""

    def __init__(self, peer, stream):
        self.peer, self.stream = peer, stream

    async def next(self):
        while True:
            head = await self.peer.reader.readexactly(9)
            size, kind, flags = int.from_bytes(head[:3]), head[3], head[4]
            stream = int.from_bytes(head[5:])
            payload = await self.peer.reader.readexactly(size)
            if kind == 4 and not flags & 1:
                self.peer.send(frame(4, 1, 0))
            elif kind == 6 and not flags & 1:
                self.peer.send(frame(6, 1, 0, payload))
            elif kind == 7 or kind == 3 and stream == self.stream:
                return b""
            elif kind == 0:
                if payload:
                    self.peer.send(frame(8, 0, 0, struct.pack(">I", len(payload))))
                if stream == self.stream:
                    if payload:
                        self.peer.send(frame(8, 0, stream, struct.pack(">I", len(payload))))
                    if payload or flags & 1:
                        return payload


class Device:
    def __init__(self, number, stays):
        self.name, self.stays = f"d{number}", stays
        self.form = ["sse", "sse tls", "sse h2"][number] if stays else FORMS[number % len(FORMS)]
        self.id, self.serial, self.receipts = first_id, 0, []

    async def run(self):
        while not leaving:
            try:
                await self.session()
            except (OSError, EOFError, TimeoutError, ValueError) as error:
                note(self.form, error)
            await self.report()
            await asyncio.sleep(random.uniform(0, 0.5))

    def take(self, number, identifier):
        if number <= self.serial:
            totals["repeated"] += 1
        else:
            totals["lost"] += number - self.serial - 1
        totals["events"] += 1
        self.serial, self.id = number, identifier
        if len(self.receipts) < 50:
            self.receipts.append({"id": identifier, "received_at_unix_nano": str(time.time_ns())})

    def check(self, text, reset):
        if reset in text:
            raise SystemExit(f"churn.py: {self.form} was told {text.decode()}")

    async def session(self):
        totals["sessions"] += 1
        form, *over = self.form.split()
        kind = over[0] if over else ""
        peer = await Peer.open("tls" in over or "h2" in over, "h2" in over)
        group = self.form.replace(" ", "-")
        path = f"/v1/events/churn?device={self.name}&group={group}"
        try:
            if form == "poll":
                for _ in range(random.randint(1, 6)):
                    peer.send(f"GET {path}&wait=2s&limit=100&after={self.id} HTTP/1.1\r\nHost: x\r\n"
                              "Accept: application/json\r\n\r\n")
                    if random.random() < 0.2 and not leaving:
                        return
                    status, body = await peer.answer()
                    if status != 200:
                        raise ValueError(f"{status} {body[:200]}")
                    self.check(body, b'"reset"')
                    for event in json.loads(body)["events"]:
                        self.take(int(event["data"]), event["id"])
                return
            path += f"&last-event-id={self.id}"
            if kind.startswith("h2"):
                peer.send(PREFACE + h2_get(1, path) + h2_get(3, "/v1/events/other?group=h2")
                          + h2_get(5, "/livez", "*/*") + frame(3, 0, 3, struct.pack(">I", 8)))
                source = Frames(peer, 1)
            else:
                accept = "application/x-ndjson" if form == "lines" else "text/event-stream"
                peer.send(f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n")
                head = await peer.reader.readuntil(b"\r\n\r\n")
                if not head.startswith(b"HTTP/1.1 200"):
                    raise ValueError(head.split(b"\r\n")[0].decode())
                source = Chunks(peer.reader, head)
            loop = asyncio.get_running_loop()
            end = loop.time() + (1e9 if self.stays else random.choice([0, 0.3, random.expovariate(0.4)]))
            await self.read(source, form, lambda: loop.time() > end and not leaving)
            if kind.startswith("h2") and random.random() < 0.3:
                peer.send(frame(3, 0, 1, struct.pack(">I", 8)))
        finally:
            await peer.end()

    async def read(self, source, form, over):
        rest, identifier = b"", None
        while not over():
            data = await asyncio.wait_for(source.next(), 60)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self.check(line, b"event: isotherm.")
                if form == "lines":
                    if line:
                        self.check(line, b'"reset"')
                        event = json.loads(line)
                        self.take(int(event["data"]), event["id"])
                elif line.startswith(b"id:"):
                    identifier = line[3:].strip().decode()
                elif line.startswith(b"data:"):
                    self.take(int(line[5:]), identifier)

    async def report(self):
        if not self.receipts:
            return
        body = json.dumps({"device": self.name, "group": self.form.replace(" ", "-"),
                           "sent_at_unix_nano": str(time.time_ns()), "receipts": self.receipts})
        try:
            status, _ = await post("/v1/receipts", body)
            if status == 202:
                totals["receipts"] += len(self.receipts)
        except (OSError, EOFError, TimeoutError) as error:
            note("receipts", error)
        self.receipts = []


def note(where, error):
    text = f"{where}: {type(error).__name__} {error}"
    errors[text] = errors.get(text, 0) + 1


async def get(path):
    peer = await Peer.open()
    try:
        peer.send(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return await asyncio.wait_for(peer.answer(), 10)
    finally:
        peer.writer.close()


async def post(path, body):
    peer = await Peer.open()
    try:
        peer.send(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}")
        return await asyncio.wait_for(peer.answer(), 10)
    finally:
        await peer.end()


async def produce():
    """Numbered events, each answered before the next is sent, on connections of a hundred each. One without an answer, as
    when this program was held up for longer than the server waits, is sent again with the same key."""
    global serial, first_id, last_id
    peer = None
    while not leaving:
        try:
            if serial % 100 == 0 or peer is None:
                if peer:
                    await peer.end()
                peer = await Peer.open(secure=serial % 200 == 100)
            number = str(serial)
            peer.send(f"POST /v1/events/churn HTTP/1.1\r\nHost: x\r\nIdempotency-Key: {number}\r\n"
                      f"Content-Length: {len(number)}\r\n\r\n{number}")
            status, body = await asyncio.wait_for(peer.answer(), 30)
        except (OSError, EOFError, TimeoutError) as error:
            note("producer", error)
            peer = None
            continue
        if status != 202:
            raise SystemExit(f"event {serial} was answered {status}: {body}")
        last_id = json.loads(body)["id"]
        if first_id is None:
            first_id = last_id
        serial += 1
        await asyncio.sleep(random.expovariate(EVENTS_PER_SECOND))
    await peer.end()


async def other():
    """One that is no device: it sends half of something, or goes too early."""
    stream = "GET /v1/events/churn?device={} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"
    kind = random.randrange(16)
    peer = await Peer.open(secure=kind in (6, 7, 8, 15) or random.random() < 0.2, h2=kind == 8)
    hold = random.expovariate(1)
    try:
        if kind == 0:
            peer.send("GET /li")
        elif kind == 1:
            peer.send("nonsense\r\n\r\n")
        elif kind == 2:
            peer.send("POST /v1/events/other HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nhel")
        elif kind == 3:
            peer.send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 3 + stream.format("late"))
        elif kind == 4:
            peer.send(stream.format(f"once-{random.getrandbits(48):x}"))
        elif kind == 5:
            peer.send(PREFACE + b"".join(
                h2_get(1 + 2 * number, f"/v1/events/other?group=many&device=m{number}") for number in range(8))
                + b"".join(frame(3, 0, 1 + 2 * number, struct.pack(">I", 8)) for number in range(4)))
        elif kind == 6:
            peer.send(stream.format("tls-once"))
        elif kind == 7:
            hold = 0
        elif kind == 8:
            peer.send(PREFACE)
        elif kind in (9, 10):
            hold += 5
            peer.send(stream.format("shared"))
        elif kind == 11:
            peer.send(f"POST /v1/events/other HTTP/1.1\r\nHost: x\r\nX-Event-Key: k{random.randrange(100)}\r\n"
                      f"Idempotency-Key: {random.getrandbits(64):x}\r\nContent-Length: 200\r\n\r\n" + "x" * 200)
        elif kind == 12:
            peer.send(f"GET /v1/events/{last_id}/deliveries HTTP/1.1\r\nHost: x\r\n\r\n")
        elif kind == 13:
            hold = 0
            body = json.dumps({"device": f"once-{random.getrandbits(48):x}", "receipts": [
                {"id": last_id, "received_at_unix_nano": str(time.time_ns())}]})
            peer.send(f"POST /v1/receipts HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}")
            await asyncio.wait_for(peer.answer(), 10)
        elif kind == 14:
            peer.send(f"GET /v1/events/other?snapshot=latest&type=a{random.randrange(3)} HTTP/1.1\r\nHost: x\r\n"
                      "Accept: text/event-stream\r\n\r\n")
        else:
            peer.send(f"GET {random.choice(['/heatmap.txt', '/metrics', '/nowhere', '/readyz'])} HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(hold)
    finally:
        await peer.end()


async def raw():
    """To the port of TLS without TLS, or to either without a word."""
    peer = Peer()
    peer.reader, peer.writer = await asyncio.open_connection("127.0.0.1", ports[random.choice(["tls", "plain"])])
    if random.random() < 0.5:
        peer.send(os.urandom(40))
    await asyncio.sleep(random.expovariate(1))
    await peer.end()


async def others():
    running = set()

    async def one():
        totals["others"] += 1
        try:
            await (raw() if random.random() < 0.1 else other())
        except (OSError, EOFError, TimeoutError) as error:
            note("others", error)
    while not leaving:
        task = asyncio.create_task(one())
        running.add(task)
        task.add_done_callback(running.discard)
        await asyncio.sleep(random.expovariate(count / 4))
    await asyncio.gather(*running)


async def sink(reader, writer):
    """Takes spans."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = re.search(rb"content-length: (\d+)", head, re.I)
            await reader.readexactly(int(length[1]))
            totals["spans' requests"] += 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    except (EOFError, OSError):
        pass
    writer.close()


MALLOC = r"""
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
static void *run(void *path) {
    for (;; sleep(2)) {
        struct mallinfo2 found = mallinfo2();
        char next[4096];
        snprintf(next, sizeof next, "%s.next", (char *)path);
        FILE *file = fopen(next, "w");
        if (file) { fprintf(file, "%zu", found.uordblks + found.hblkhd); fclose(file); rename(next, path); }
    }
}
__attribute__((constructor)) static void begin(void) {
    pthread_t thread;
    if (getenv("CHURN_MALLOC")) pthread_create(&thread, NULL, run, getenv("CHURN_MALLOC"));
}
"""


def serve(sink_port):
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
                    f"{directory}/key.pem", "-out", f"{directory}/certificate.pem", "-days", "2", "-subj", "/CN=localhost"],
                   check=True, stderr=subprocess.DEVNULL)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "ISOTHERM_"))}
    environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{sink_port}"
    compiler = shutil.which("cc") or shutil.which("clang")
    library = f"{directory}/malloc.so"
    command = [compiler, "-shared", "-fPIC", "-xc", "-", "-o", library, "-lpthread"]
    # AddressSanitizer has an allocator of its own, and must be loaded first.
    if compiler and "ASAN_OPTIONS" not in os.environ and subprocess.run(
            command, input=MALLOC.encode(), stderr=subprocess.DEVNULL).returncode == 0:
        environment |= {"LD_PRELOAD": library, "CHURN_MALLOC": f"{directory}/malloc"}
    # What the server remembers is bounded, and the bounds are such that all of it is full in the first half of an hour.
    settings = [
        "tls.listen=127.0.0.1:0", f"tls.certificate={directory}/certificate.pem", f"tls.key={directory}/key.pem",
        "gateway.durability=written", "delivery.heartbeat=1s", "delivery.retry=100ms", "head_timeout=3s", "idle_timeout=10s",
        "limits.streams_per_device=4", "limits.shed_retry=1s", "log.retention_events=10000", "log.idempotency_window=2m",
        "heatmap.window=10s", "heatmap.retained_windows=30", "heatmap.tiers=1m:20m", "heatmap.duplicate_window=1m"]
    arguments = [program, "serve", "--listen", "127.0.0.1:0", "--data", f"{directory}/data"]
    for setting in settings + os.environ.get("CHURN_SETTINGS", "").split():
        arguments += ["--set", setting]
    log = open(f"{directory}/log", "w")
    server = subprocess.Popen(arguments, stderr=log, stdout=log, env=environment)
    for _ in range(400):
        with open(f"{directory}/log") as file:
            text = file.read()
        found = re.search(r"http://127\.0\.0\.1:(\d+), and with TLS on port (\d+)", text)
        if found and "\n" in text[found.end():]:
            ports["plain"], ports["tls"] = int(found[1]), int(found[2])
            return server
        if server.poll() is not None:
            break
        time.sleep(0.05)
    raise SystemExit(f"churn.py: the server did not start: {text}")


class Sample:
    @classmethod
    async def take(cls, server):
        self = cls()
        _, body = await get("/metrics")
        text = body.decode()

        def total(name):
            return int(sum(float(value) for value in re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.M)))
        self.opened, self.closed, self.live = (
            total(f"isotherm_http_connections{end}") for end in ("_opened_total", "_closed_total", ""))
        self.streams = tuple(total(f"isotherm_connections{end}") for end in ("_opened_total", "_closed_total", ""))
        self.waiting = total("isotherm_connection_bytes") + total("isotherm_catch_up_connections")
        self.replaced = sum(int(float(value)) for value in re.findall(r'closed_total\{reason="replaced"\} (\S+)', text))
        self.descriptors = len(os.listdir(f"/proc/{server.pid}/fd"))
        with open(f"/proc/{server.pid}/status") as file:
            self.resident = int(re.search(r"RssAnon:\s+(\d+) kB", file.read())[1]) * 1024
        try:
            with open(f"{directory}/malloc") as file:
                self.allocated = int(file.read())
        except (OSError, ValueError):
            self.allocated = 0
        with open(f"/proc/{server.pid}/stat") as file:
            self.cpu = sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13])) / os.sysconf("SC_CLK_TCK")
        return self


def grown(samples, name):
    """Median of the last quarter less that of the one before, and of that one."""
    quarter = len(samples) // 4
    values = [getattr(sample, name) for sample in samples]
    before, after = statistics.median(values[-2 * quarter:-quarter]), statistics.median(values[-quarter:])
    return after - before, before


async def main():
    global leaving
    taker = await asyncio.start_server(sink, "127.0.0.1", 0)
    server = serve(taker.sockets[0].getsockname()[1])
    try:
        return await run(server)
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)
            await asyncio.to_thread(server.wait, 30)
        taker.close()


async def run(server):
    global leaving
    before = await Sample.take(server)
    producer = asyncio.create_task(produce())
    while first_id is None:
        await asyncio.sleep(0.01)
    devices = [Device(number, stays=number < 3) for number in range(count)]
    tasks = [asyncio.create_task(device.run()) for device in devices]
    around = asyncio.create_task(others())
    start = time.monotonic()
    samples = []
    print("seconds opened closed live streams descriptors resident_kB malloc_kB server_cpu_s lost repeated")
    while time.monotonic() - start < seconds:
        await asyncio.sleep(min(10, max(0.1, start + seconds - time.monotonic())))
        if server.poll() is not None:
            raise SystemExit(f"churn.py: the server ended by itself with status {server.returncode}")
        for task in [producer, *tasks]:
            if task.done():
                await task
        sample = await Sample.take(server)
        samples.append(sample)
        print(f"{time.monotonic() - start:.0f} {sample.opened} {sample.closed} {sample.live} {sample.streams[2]} "
              f"{sample.descriptors} {sample.resident // 1024} {sample.allocated // 1024} {sample.cpu:.1f} "
              f"{totals['lost']} {totals['repeated']}", flush=True)
    # Nobody leaves before it has the last event.
    leaving = True
    await producer
    end = time.monotonic() + 60
    while behind := [device for device in devices if device.serial < serial - 1]:
        if time.monotonic() > end:
            raise SystemExit(f"churn.py: {behind[0].form} has {behind[0].serial} of {serial - 1} a minute later")
        for number, (device, task) in enumerate(zip(devices, tasks)):
            if device in behind and task.done():
                tasks[number] = asyncio.create_task(device.session())
        await asyncio.sleep(0.1)
    # Again and again: where what is waited for comes at the same moment, `wait_for` of Python 3.11 loses a cancellation.
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=1)
    await asyncio.gather(around, return_exceptions=True)
    for _ in range(300):
        after = await Sample.take(server)
        if after.live == 1 and after.streams[2] == 0 and after.waiting == 0:
            break
        await asyncio.sleep(0.1)
    print(json.dumps(totals | {"seconds": seconds, "devices": count, "opened": after.opened, "closed": after.closed,
                               "live": after.live, "streams opened": after.streams[0], "streams closed": after.streams[1],
                               "replaced": after.replaced, "descriptors before": before.descriptors,
                               "descriptors after": after.descriptors, "server's CPU": f"{after.cpu / seconds:.1%}",
                               "own CPU": f"{time.process_time() / seconds:.1%}"}))
    faults = [f"{name}: {totals[name]}" for name in ("lost", "repeated") if totals[name]]
    for name, (opened, closed, live) in [("connections", (after.opened, after.closed, after.live)), ("streams", after.streams)]:
        if opened != closed + live or live != (name == "connections"):
            faults.append(f"{name}: {opened} opened, {closed} closed, {live} live")
    if after.descriptors > before.descriptors + 10:
        faults.append(f"descriptors: {before.descriptors} before, {after.descriptors} after")
    for name in ("resident", "allocated"):
        if len(samples) >= 4:
            growth, base = grown(samples, name)
            print(f"{name}: {base / 1024:.0f} kB in the third quarter, {growth / 1024:+.0f} kB in the last")
            if seconds >= 1800 and growth > base * 0.03 + (1 << 20):
                faults.append(f"{name} grew by {growth / 1024:.0f} kB")
    for text, times in sorted(errors.items(), key=lambda entry: -entry[1])[:10]:
        print(f"{times} × {text}")
    return faults


faults = asyncio.run(main())
if faults:
    sys.exit("churn.py: " + "; ".join(faults))
shutil.rmtree(directory)
