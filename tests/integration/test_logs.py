"""fcm logs: when lines came, with the scripted VMM."""
import calendar
import re
import struct
import time
from pathlib import Path

import pytest
from console import attached, until
from host import wait_for

HOST = {"fake": True, "config": "mem_overcommit_percent = 10000\ndisk_reserve_mib = 0\n"}
SPEC = {"image": "tiny", "memory": 64, "disk": 64, "restart": "no"}
STAMPED = re.compile(rb"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) ")


@pytest.fixture
def vm(host):
    machine = host.api.post("/v1/vms", {**SPEC, "name": "talker"}).ok(201)
    yield machine
    host.api.delete("/v1/vms/talker?force=1").ok()


def say(host, vm, *lines):
    with attached(host, vm) as sock:
        for line in lines:
            sock.sendall(line + b"\n")
            until(sock, b"got " + line + b"\r\n")


def logs(host, query=""):
    answer = host.api.get(f"/v1/vms/talker/logs?{query}")
    assert answer.status == 200, answer
    return answer.body


def times_of(text):
    """[(seconds, line)] of lines that all have a time."""
    found = []
    for line in text.splitlines():
        match = STAMPED.match(line)
        assert match, line
        found.append((calendar.timegm(time.strptime(match[1].decode(), "%Y-%m-%dT%H:%M:%SZ")), line[match.end():]))
    return found


def test_timestamps(host, vm):
    begun = time.time()
    say(host, vm, b"one")
    time.sleep(2.1)
    say(host, vm, b"two", b"three")
    found = times_of(logs(host, "timestamps=1"))
    assert [line for _, line in found] == [b"fake guest: up"] + [b"fake guest: got " + w for w in (b"one", b"two", b"three")]
    seconds = [t for t, _ in found]
    assert abs(seconds[1] - begun) <= 2 and 1 <= seconds[2] - seconds[1] <= 4 and seconds == sorted(seconds)
    assert times_of(logs(host, "timestamps=1&tail=1")) == found[-1:]
    assert logs(host).splitlines() == [line for _, line in found]
    # the times are those of then, also of a run that has ended, and for another daemon
    host.api.post("/v1/vms/talker/stop").ok()
    host.restart_daemon()
    assert times_of(logs(host, "timestamps=1"))[:4] == found


def test_since(host, vm):
    say(host, vm, b"old")
    time.sleep(3.1)
    between = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 1))
    say(host, vm, b"new")
    assert logs(host, f"since={between}") == b"fake guest: got new\r\n"
    assert logs(host, "since=1h") == logs(host)
    assert logs(host, "since=2030-01-01T00:00:00Z") == b""
    done = host.fcm("logs", "--since", "2h", "-t", "--tail", "1", "talker")
    assert times_of(done.stdout.encode())[0][1] == b"fake guest: got new"
    for bad in ("soon", "5", "m", "-5m", "5w", "99999999999h", "2026-13-01T00:00:00Z", ""):
        answer = host.api.get(f"/v1/vms/talker/logs?since={bad}")
        assert answer.status == 400 and answer.error["field"] == "since", (bad, answer)


def test_follow_with_times(host, vm):
    with host.api.connect(False, 10) as sock:
        sock.sendall(b"GET /v1/vms/talker/logs?follow=1&timestamps=1&tail=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(sock, b"\r\n\r\n")
        say(host, vm, b"live")
        assert re.search(rb"\d\dZ fake guest: got live\r\n", until(sock, b"got live\r\n"))


def test_without_times(host, vm):
    """As an older shim leaves it; and with rubbish in the file."""
    say(host, vm, b"one")
    file = host.state_dir / vm["id"] / "console.times"
    marks = file.read_bytes()
    assert len(marks) % 16 == 0 and len(marks) <= 16384 * 16
    file.unlink()
    assert logs(host, "timestamps=1").startswith(b"- fake guest: up\r\n- ")
    answer = host.api.get("/v1/vms/talker/logs?since=5m")
    assert answer.code == "wrong_state" and "older" in answer.error["message"]
    for rubbish in (b"x", b"\xff" * 4096, marks + b"\x7f" * 100, bytes(1 << 20)):
        file.write_bytes(rubbish)
        for query in ("timestamps=1", "since=5m", "timestamps=1&since=5m&tail=3"):
            assert host.api.get(f"/v1/vms/talker/logs?{query}").status in (200, 409)


def test_tail_of_nothing(host, vm):
    """Also where the last line has no end, as a guest leaves it that prints a prompt, and where there is no line."""
    assert logs(host, "tail=0") == b""
    host.api.post("/v1/vms/talker/stop").ok()
    with open(host.state_dir / vm["id"] / "console.ring", "r+b") as ring:
        for text in (b"one\ntwo", b"two", b"\n", b""):
            ring.seek(8)
            ring.write(struct.pack("Q", len(text)))
            ring.seek(4096)
            ring.write(text)
            ring.flush()
            assert logs(host) == text and logs(host, "tail=0") == b""
            assert logs(host, "tail=1") == text.removeprefix(b"one\n")


def test_a_mark_ahead_of_the_text(host, vm):
    """As when the guest prints after the text was read and before its times are."""
    say(host, vm, b"one")
    end = len(logs(host))
    file = host.state_dir / vm["id"] / "console.times"
    for ahead in (0, 1, 5000, 1 << 40):
        file.write_bytes(struct.pack("QQQQ", 0, 1, end + ahead, int(time.time())))
        assert logs(host, "since=5m") == b""
        assert len(times_of(logs(host, "timestamps=1"))) == 2


def rss_kib(host):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{host.daemon.pid}/status").read_text())[1])


def test_what_is_followed_is_let_go(host, vm):
    with host.api.connect(False, 30) as sock:
        sock.sendall(b"GET /v1/vms/talker/logs?follow=1&tail=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(sock, b"\r\n\r\n")
        before = rss_kib(host)
        with attached(host, vm) as console:
            for i in range(30):  # each time a ringful, at most
                console.sendall(b"flood 1\nround %d\n" % i)
                for end in (console, sock):
                    until(end, b"got round %d\r\n" % i)
        assert rss_kib(host) - before < 12 * 1024


def test_a_flood_with_times(host, vm):
    """Each line of the ring has one, and what is asked for at once is a piece of it."""
    with attached(host, vm) as sock:
        sock.sendall(b"flood 30\n")
        wait_for("the end of the flood", lambda: logs(host, "tail=1") == b"fake guest: got flood 30\r\n", 30)
    found = times_of(logs(host, "timestamps=1").partition(b"\n")[2])
    assert 1000 < len(found) <= 1025 and found[-1][1] == b"fake guest: got flood 30"
