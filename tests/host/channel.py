"""What the driver of the test host talks through: the agent (agent.c tells the protocol) and QEMU's QMP.

Both are unix sockets in the host's folder, reached through the folder's descriptor since a path may be too long for them.
Every wait has a deadline; an end of the other side is Gone.
"""
import json
import os
import select
import socket
import struct
import time

CHUNK = 64 << 10
WINDOW = 4 * CHUNK  # bytes of stdin that may be on their way
PADDING = bytes((128 << 10) + 5)  # ends whatever frame was under way
NONCE = 16
BOOT_ID = 36
HELLO_EVERY = 0.4
# QEMU 7.2's SVM changes the word of pending interrupts without its lock, so now and then the interrupt of the timer is lost (it
# stands in the APIC's IRR, and nobody tells the processor). An idle machine would then sleep for ever; the next interrupt of any
# device wakes it.
POKE_EVERY = 1.0


class Failed(AssertionError):
    """A command or a wait that didn't end well."""


class Gone(Failed):
    """QEMU has ended: the machine was switched off, or its kernel panicked."""


def connect(folder, name, deadline):
    """The listening socket `name` of a QEMU that is just being started."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while True:
            s = socket.socket(socket.AF_UNIX)
            try:
                s.connect(f"/proc/self/fd/{fd}/{name}")
                return s
            except OSError as error:
                s.close()
                if time.monotonic() > deadline:
                    raise Failed(f"nobody listens on {folder}/{name}: {error}") from error
                time.sleep(0.002)
    finally:
        os.close(fd)


class Qmp:
    """QEMU's control socket: qmp("stop"), qmp("migrate", uri=...)."""

    def __init__(self, folder, timeout=20):
        self.socket = connect(folder, "qmp", time.monotonic() + timeout)
        self.socket.settimeout(timeout)
        self.lines = self.socket.makefile("rb")
        self._line()
        self("qmp_capabilities")

    def _line(self):
        try:
            line = self.lines.readline()
        except TimeoutError as error:
            raise Failed("QEMU doesn't answer on its control socket") from error
        except OSError:
            line = b""
        if not line:
            raise Gone("QEMU closed its control socket")
        return json.loads(line)

    def __call__(self, command, **arguments):
        message = {"execute": command, "arguments": {k.replace("_", "-"): v for k, v in arguments.items()}}
        try:
            self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise Gone(f"QEMU has ended before '{command}'") from error
        while True:
            answer = self._line()
            if "error" in answer:
                raise Failed(f"QMP {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def wait(self, command, states, timeout):
        """Until `command` answers one of the states."""
        deadline = time.monotonic() + timeout
        while True:
            status = self(command).get("status")
            if status in states:
                return status
            if time.monotonic() > deadline:
                raise Failed(f"QMP {command} says '{status}' after {timeout} s, not {' or '.join(states)}")
            time.sleep(0.002)

    def close(self):
        self.lines.close()
        self.socket.close()


class Channel:
    """The agent's port. One command at a time: start(), then feed(), end() and turn() until turn() tells the status.
    `credit` is how much may be fed."""

    def __init__(self, folder, timeout):
        deadline = time.monotonic() + timeout
        self.socket = connect(folder, "agent", deadline)
        self.socket.setblocking(False)
        self.incoming, self.outgoing = bytearray(), bytearray()
        self.boot_id, self.credit, self.poked = None, 0, 0.0
        self.hello(deadline - time.monotonic())

    def close(self):
        self.socket.close()

    # ---- bytes ----

    def _send(self, kind, payload=b""):
        self.outgoing += kind + struct.pack("<I", len(payload)) + payload

    def _poke(self):
        """Something for the machine's virtio device to tell it: NUL bytes between frames are passed over."""
        now = time.monotonic()
        if now > self.poked + POKE_EVERY and not self.outgoing:
            self.outgoing += b"\0"
            self.poked = now

    def _move(self, timeout, more=()):
        """Read and write what is possible; returns those of `more` that can be read."""
        writers = [self.socket] if self.outgoing else []
        readable, writable, _ = select.select([self.socket, *more], writers, [], max(0, timeout))
        try:
            if writable:
                del self.outgoing[:self.socket.send(memoryview(self.outgoing)[:CHUNK].tobytes())]
            if self.socket in readable:
                data = self.socket.recv(2 * CHUNK)
                if not data:
                    raise Gone("the machine has ended")
                self.incoming += data
        except BlockingIOError:
            pass
        except ConnectionError as error:
            raise Gone("the machine has ended") from error
        return [r for r in readable if r is not self.socket]

    def _frame(self):
        """The next whole frame, (kind, payload), or None."""
        if len(self.incoming) < 5:
            return None
        length, = struct.unpack_from("<I", self.incoming, 1)
        if len(self.incoming) < 5 + length:
            return None
        kind, payload = bytes(self.incoming[:1]), bytes(self.incoming[5:5 + length])
        del self.incoming[:5 + length]
        return kind, payload

    def _expect(self, kind, timeout):
        deadline = time.monotonic() + timeout
        while True:
            frame = self._frame()
            if frame and frame[0] == kind:
                return frame[1]
            if frame is None:
                if time.monotonic() > deadline:
                    raise Failed(f"the agent didn't answer {kind!r} within {timeout:g} s")
                self._poke()
                self._move(min(POKE_EVERY, deadline - time.monotonic()))

    # ---- the session ----

    def hello(self, timeout):
        """Begin anew, whatever was before: an old command is killed, what it said is thrown away."""
        nonce = os.urandom(NONCE)
        hello = PADDING + b"H" + struct.pack("<I", NONCE) + nonce
        answer = b"H" + struct.pack("<I", NONCE + BOOT_ID) + nonce
        deadline, again = time.monotonic() + timeout, 0.0
        while answer not in self.incoming or len(self.incoming) < self.incoming.find(answer) + len(answer) + BOOT_ID:
            now = time.monotonic()
            if now > deadline:
                raise Failed(f"no agent within {timeout:g} s")
            if now >= again:
                if not self.outgoing:
                    self.outgoing += hello
                again = now + HELLO_EVERY
            self._move(min(0.05, deadline - now))
            if answer not in self.incoming:
                del self.incoming[:-len(answer)]
        at = self.incoming.find(answer) + len(answer)
        self.boot_id = self.incoming[at:at + BOOT_ID].decode("ascii", "replace")
        del self.incoming[:at + BOOT_ID]
        self.refresh()  # what comes before its answer are answers to the other HELLOs
        return self.boot_id

    def refresh(self, timeout=30):
        """Give the machine the time and fresh random numbers, which a snapshot can't have."""
        self._send(b"T", struct.pack("<q", time.time_ns()) + os.urandom(32))
        self._expect(b"T", timeout)

    # ---- commands ----

    def start(self, command):
        self.credit = WINDOW
        self._send(b"X", command.encode())

    def feed(self, data):
        """At most `credit` bytes."""
        self.credit -= len(data)
        for at in range(0, len(data), CHUNK):
            self._send(b"D", data[at:at + CHUNK])

    def end(self):
        self._send(b"Z")

    def turn(self, timeout, out, err, more=()):
        """Wait for something; out(bytes), err(bytes) get what the command wrote. Returns (its exit status or None, those
        of the descriptors `more` that can be read). The status is that of subprocess: negative for a signal."""
        self._poke()
        ready = self._move(min(timeout, POKE_EVERY), more)
        while True:
            frame = self._frame()
            if frame is None:
                return None, ready
            kind, payload = frame
            if kind == b"O":
                out(payload)
            elif kind == b"E":
                err(payload)
            elif kind == b"W":
                self.credit += struct.unpack("<I", payload)[0]
            elif kind == b"R":
                return os.waitstatus_to_exitcode(struct.unpack("<i", payload)[0]), ready
