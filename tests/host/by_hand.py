#!/usr/bin/python3
"""Runs in the test host: boots one guest with the real Firecracker by its API alone, and talks to the agent in it.

    by_hand.py FOLDER     with vmlinux, initrd, image.ext4 and disk.ext4 in it

Prints one JSON object: what each step answered and when, in milliseconds since the VMM was started. The steps are those of
docs/AGENT.md: HELLO, ping, mount, power. This is what the product's own driver is compared with.
"""
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time

HELLO, REQ, RES, EVENT = 1, 2, 3, 4
AGENT_PORT = 52
# What the daemon writes into a guest with dropbear.
FILES = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/etc/dropbear/dropbear_ed25519_host_key", "/root/.ssh/authorized_keys")
# The agent says what a reset means; i8042 is how x86 Firecracker is reset.
BOOT_ARGS = ("console=ttyS0 quiet reboot=k panic=-1 pci=off cryptomgr.notests no_timer_check 8250.nr_uarts=1 "
             "i8042.noaux i8042.nomux i8042.dumbkbd")


class Late(Exception):
    """What didn't come, or came wrong."""


def read_console():
    with open("console", "rb") as console:
        return console.read()[-1500:].decode(errors="replace")


class Vmm:
    """A Firecracker whose files are in the current folder."""

    def __init__(self, name):
        self.begun = time.monotonic()
        with open("console", "wb") as console:
            self.process = subprocess.Popen(["firecracker", "--api-sock", "api", "--id", name], stdin=subprocess.DEVNULL,
                                            stdout=console, stderr=console)
        self.spawned_ms = self.ms()
        while not self._listens():
            if self.process.poll() is not None or self.ms() > 20_000:
                raise Late(f"no API: {read_console()}")
            time.sleep(0.001)

    @staticmethod
    def _listens():
        """Between bind and listen, the socket is there and refuses."""
        with socket.socket(socket.AF_UNIX) as s:
            return s.connect_ex("api") == 0

    def ms(self):
        return round((time.monotonic() - self.begun) * 1000, 1)

    def call(self, method, path, body=None):
        """(status, body): one request a connection, since some answers come twice."""
        payload = json.dumps(body).encode() if body is not None else b""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(30)
            s.connect("api")
            s.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                      f"Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
            data = b""
            while True:
                head, end, rest = data.partition(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                if end and len(rest) >= (int(length[1]) if length else 0):
                    return int(head.split()[1]), rest.decode()
                more = s.recv(65536)
                if not more:
                    raise Late(f"{method} {path}: half an answer: {data!r}")
                data += more

    def put(self, path, **body):
        status, answer = self.call("PUT", path, body)
        if status != 204:
            raise Late(f"PUT {path}: {status} {answer}")


class Agent:
    """A session over Firecracker's vsock; without `port` over the socket of QEMU's virtio-serial port."""

    def __init__(self, deadline, path="vsock", port=AGENT_PORT):
        self.path, self.port = str(path), port
        # One HELLO is enough for virtio-serial: it waits until the agent opens its end.
        self.patience = 0.2 if port else deadline - time.monotonic()
        self.stream = 0
        self.tries = 0
        while True:
            self.tries += 1
            try:
                self.answer = self._session()
                return
            except (OSError, Late) as error:
                if time.monotonic() > deadline:
                    raise Late(f"no agent on {self.path}: {error}") from error
                time.sleep(0.02)

    def _connect(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(self.patience)
        self.socket.connect(self.path)
        if not self.port:
            return
        self.socket.sendall(b"CONNECT %d\n" % self.port)
        line = b""
        while not line.endswith(b"\n"):
            byte = self.socket.recv(1)
            if not byte:
                raise Late(f"closed after {line!r}")
            line += byte
        if not line.startswith(b"OK "):
            raise Late(line.decode(errors="replace"))

    def _session(self):
        self._connect()
        nonce = os.urandom(8).hex()
        self._send(0, HELLO, {"magic": "FCMA", "version": "1", "nonce": nonce})
        while True:
            kind, answer = self._receive()
            if kind == HELLO and answer.get("nonce") == nonce:
                self.socket.settimeout(20)
                return answer

    def _send(self, stream, kind, pairs, raw=b""):
        """`pairs`: a dict, or a list where a key repeats."""
        pairs = pairs.items() if isinstance(pairs, dict) else pairs
        payload = "".join(f"{k}={v}\0" for k, v in pairs).encode() + (b"\0" + raw if raw else b"")
        self.socket.sendall(struct.pack("<IHBB", stream, len(payload), kind, 0) + payload)

    def _exactly(self, n):
        data = b""
        while len(data) < n:
            more = self.socket.recv(n - len(data))
            if not more:
                raise Late("the agent closed the connection")
            data += more
        return data

    def _frame(self):
        """(stream, type, channel, payload)"""
        stream, length, kind, channel = struct.unpack("<IHBB", self._exactly(8))
        return stream, kind, channel, self._exactly(length)

    @staticmethod
    def _pairs(payload):
        return dict(p.split("=", 1) for p in payload.decode().split("\0") if p)

    def _receive(self):
        _, kind, _, payload = self._frame()
        return kind, self._pairs(payload)

    def request(self, op, raw=b"", **arguments):
        self.stream += 1
        self._send(self.stream, REQ, {"op": op, **arguments}, raw)
        while True:
            kind, answer = self._receive()
            if kind == RES:
                return answer

    def set_up(self, address):
        """All that the daemon asks of a new guest, with other words in the files."""
        for op, arguments in (
                ("clock", {"ns": time.time_ns()}), ("mount", {"image": "/dev/vda", "disk": "/dev/vdb"}),
                ("net", {"address": address, "prefix": 24, "gateway": "172.16.0.1", "hostname": "by-hand"}),
                *(("file", {"path": path, "mode": 600, "uid": 0, "gid": 0, "raw": b"by hand\n"}) for path in FILES), ("start", {})):
            answer = self.request(op, **arguments)
            if answer.get("ok") != "1":
                raise Late(f"{op} {arguments}: {answer}")

    def event(self):
        while True:
            kind, answer = self._receive()
            if kind == EVENT:
                return answer


def boot(vmm, steps):
    steps["version"] = json.loads(vmm.call("GET", "/version")[1])["firecracker_version"]
    vmm.put("/machine-config", vcpu_count=1, mem_size_mib=128)
    vmm.put("/boot-source", kernel_image_path="vmlinux", initrd_path="initrd", boot_args=BOOT_ARGS)
    vmm.put("/drives/image", drive_id="image", path_on_host="image.ext4", is_root_device=False, is_read_only=True)
    vmm.put("/drives/disk", drive_id="disk", path_on_host="disk.ext4", is_root_device=False, is_read_only=False)
    vmm.put("/vsock", guest_cid=3, uds_path="vsock")
    vmm.put("/entropy")
    steps["configured_ms"] = vmm.ms()
    vmm.put("/actions", action_type="InstanceStart")
    steps["started_ms"] = vmm.ms()


def talk(vmm, steps):
    agent = Agent(time.monotonic() + 40)
    steps.update(hello=agent.answer, hello_ms=vmm.ms(), hello_tries=agent.tries)
    steps["ping"] = agent.request("ping", echo="there")
    steps["mount"] = agent.request("mount", image="/dev/vda", disk="/dev/vdb")
    steps["mount_ms"] = vmm.ms()
    before = vmm.ms()
    steps["power"] = agent.request("power", intent="poweroff", grace_ms="1000")
    steps["event"] = agent.event()
    steps["status"] = vmm.process.wait(20)
    steps["power_ms"] = round(vmm.ms() - before, 1)


def main():
    os.chdir(sys.argv[1])
    for leftover in ("api", "vsock"):
        if os.path.exists(leftover):
            os.unlink(leftover)
    vmm, steps = Vmm("by-hand"), {}
    steps["api_ms"] = vmm.ms()
    try:
        boot(vmm, steps)
        talk(vmm, steps)
    except (OSError, Late, subprocess.TimeoutExpired) as error:
        steps["error"] = f"{type(error).__name__}: {error}"
    finally:
        vmm.process.kill()
        vmm.process.wait()
    steps["console"] = read_console()
    print(json.dumps(steps))


if __name__ == "__main__":
    main()
