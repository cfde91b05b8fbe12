"""Kills a server under load again and again, and counts what producers and devices have lost.

    kills.py ISOTHERM DIRECTORY KILLS [DURABILITY]

Four producers publish; three devices read the stream, and resume after each kill with the id they have seen last. The
server is killed at a random moment, one time in eight before it listens. In the end each device must have everything
that was acknowledged, once and in the same order as the others, and never have been told of a reset. An event that was
not acknowledged may be there or not. Fails with the first difference. DIRECTORY is made, and removed when all is well.
"""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

program, directory, kills = sys.argv[1], sys.argv[2], int(sys.argv[3])
durability = sys.argv[4] if len(sys.argv) > 4 else "fsync"
PRODUCERS, DEVICES = 4, 3
server = None
port = None  # Of the server that runs.
producing = True
acknowledged = set()
lock = threading.Lock()


def fail(text):
    sys.stderr.write(f"kills.py: {text}\n")
    if server:
        server.kill()
    os._exit(1)


def request(stream, line, fields="", body=b""):
    stream.sendall(f"{line} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{fields}\r\n".encode() + body)


def connect(timeout):
    if port is None:
        raise OSError("no server")
    return socket.create_connection(("127.0.0.1", port), timeout)


def publish(stream, name):
    """Its id if it was acknowledged, or None. Raises when the server is gone."""
    request(stream, "POST /v1/events/orders", body=name.encode())
    answer = b""
    while not (found := re.search(rb'"(ev_[\w-]+)"|HTTP/1.1 [45]', answer)):
        data = stream.recv(4096)
        if not data:
            raise OSError("closed")
        answer += data
    if not answer.startswith(b"HTTP/1.1 202"):
        return None
    with lock:
        acknowledged.add(name)
    return found.group(1).decode()


def produce(number):
    serial = 0
    while producing:
        try:
            with connect(5) as stream:
                while producing:
                    serial += 1
                    publish(stream, f"{number}/{serial}")
        except OSError:
            time.sleep(0.005)


class Device:
    def __init__(self):
        self.last = None
        self.names = []
        self.seen = set()
        self.resumes = 0

    def run(self):
        while True:
            try:
                with connect(30) as stream:
                    request(stream, "GET /v1/events/orders", f"Last-Event-ID: {self.last}\r\n" if self.last else "")
                    self.resumes += 1
                    self.read(stream)
            except OSError:
                time.sleep(0.005)

    def read(self, stream):
        ids = set()
        event = {}
        rest = b""
        while True:
            data = stream.recv(65536)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line.rstrip(b"\r"):
                    field, _, value = line.decode().rstrip("\r").partition(": ")
                    event[field] = value
                    continue
                if event.get("event", "message").startswith("isotherm."):
                    fail(f"a device was told {event}")
                if "data" in event:
                    if event["id"] in ids or event["data"] in self.seen:
                        fail(f"{event} came twice")
                    ids.add(event["id"])
                    self.seen.add(event["data"])
                    self.names.append(event["data"])
                if "id" in event:
                    self.last = event["id"]
                event = {}


def serve(wait=True):
    global port
    process = subprocess.Popen(
        [program, "serve", "--listen", "127.0.0.1:0", "--data", directory,
         "--set", f"gateway.durability={durability}", "--set", "delivery.retry=10ms"],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    if not wait:
        return process
    told = ""
    for line in process.stderr:
        told += line
        if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
            port = int(found.group(1))
            # What else it says must not fill the pipe.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process
    fail(f"the server did not start: {told}")


def kill(process):
    global port
    if process.poll() is not None:
        fail(f"the server ended by itself with status {process.returncode}")
    process.send_signal(signal.SIGKILL)
    process.wait()
    port = None


def check(devices):
    """Returns how many were seen and not acknowledged."""
    orders = [[name for name in device.names if name in acknowledged] for device in devices]
    for number, order in enumerate(orders):
        lost = acknowledged - set(order)
        if lost:
            fail(f"device {number} lost {len(lost)} of {len(acknowledged)} acknowledged events: {sorted(lost)[:10]}")
        if order != orders[0]:
            fail(f"device {number} has another order than device 0")
        last = {}
        for name in devices[number].names:
            producer, serial = map(int, name.split("/"))
            if serial <= last.get(producer, 0):
                fail(f"device {number} got {name} behind {producer}/{last[producer]}")
            last[producer] = serial
    return len(devices[0].seen - acknowledged)


# However this ends, the server ends too.
sys.excepthook = lambda kind, error, trace: fail(f"{kind.__name__}: {error}")
shutil.rmtree(directory, ignore_errors=True)
devices = [Device() for _ in range(DEVICES)]
server = serve()
with connect(5) as stream:
    first = publish(stream, "0/1")
# Devices continue behind it.
acknowledged.clear()
for device in devices:
    device.last = first
    threading.Thread(target=device.run, daemon=True).start()
producers = [threading.Thread(target=produce, args=[number], daemon=True) for number in range(1, PRODUCERS + 1)]
for thread in producers:
    thread.start()
start = time.monotonic()
for count in range(1, kills + 1):
    time.sleep(random.uniform(0.02, 0.3))
    kill(server)
    if count % 8 == 0:
        server = serve(wait=False)
        time.sleep(random.uniform(0, 0.1))
        kill(server)
    server = serve()
    if count % 50 == 0:
        print(f"after {count} kills: {len(acknowledged)} acknowledged", flush=True)
# A last event behind all others, of a producer of its own.
producing = False
for thread in producers:
    thread.join()
with connect(5) as stream:
    if not publish(stream, f"{PRODUCERS + 1}/1"):
        fail("the last event was refused")
deadline = time.monotonic() + 60
while not all(f"{PRODUCERS + 1}/1" in device.seen for device in devices):
    if time.monotonic() > deadline:
        fail("the last event did not come within 60 s")
    time.sleep(0.05)
extra = check(devices)
kill(server)
print(f"killed {kills + kills // 8} times in {time.monotonic() - start:.0f} s ({durability}): {len(acknowledged)} events "
      f"acknowledged, {extra} seen and not acknowledged, {sum(d.resumes for d in devices)} resumes of {DEVICES} devices, "
      "0 lost, 0 repeated, 0 out of order")
shutil.rmtree(directory)
