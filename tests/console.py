"""The console of a VM as its users have it: the raw route, and fcm console with a terminal of its own."""
import contextlib
import fcntl
import os
import pty
import select
import struct
import termios
import time

from host import Failed

LEAVE = b"\x1d"  # Ctrl-]


def until(sock, marker):
    data = b""
    while marker not in data:
        chunk = sock.recv(65536)
        assert chunk, data[-400:]
        data += chunk
    return data


@contextlib.contextmanager
def attached(host, vm, query="", route="console", protocol="fcm-console"):
    """A raw route that becomes a stream; gives the socket, behind the headers."""
    sock = host.api.connect(False, 10)
    with contextlib.closing(sock):
        sock.sendall(f"GET /v1/vms/{vm['id']}/{route}{query} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
                     f"Upgrade: {protocol}\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(1)
        if not head.startswith(b"HTTP/1.1 101 "):
            raise Failed(head)
        host.api.seen.add((f"GET /v1/vms/{{vm}}/{route}", 101, ""))
        yield sock


class Terminal:
    """`fcm console` with a terminal of its own."""

    def __init__(self, host, *argv):
        self.fd, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        self.child = host.spawn(["setsid", "-c", "fcm", "console", *argv], stdin=self.slave, stdout=self.slave, stderr=self.slave)
        self.text = b""

    def until(self, marker, seconds=10):
        deadline = time.monotonic() + seconds
        while marker not in self.text:
            assert select.select([self.fd], [], [], max(0, deadline - time.monotonic()))[0], self.text[-400:]
            self.text += os.read(self.fd, 65536)
        return self.text

    def type(self, data):
        os.write(self.fd, data)

    def ends(self, status=0):
        assert self.child.wait(10) == status, self.text
        assert self.is_restored()
        while select.select([self.fd], [], [], 0.1)[0]:
            self.text += os.read(self.fd, 65536)
        return self.text

    def is_restored(self):
        return termios.tcgetattr(self.slave) == self.before

    def close(self):
        os.close(self.fd)
        os.close(self.slave)
