"""Commands in a guest: the plain form, the stream and the client, against the scripted agent (tests/fake/exec.c)."""
import base64
import concurrent.futures
import contextlib
import os
import signal
import socket
import struct
import subprocess
import time

import pytest
from host import Failed, wait_for

HOST = {"fake": True}

DATA, END, REQ, RES = 5, 7, 2, 3
STDIN, STDOUT, STDERR = 0, 1, 2
WINDOW = 65536
MIB = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def web(host):
    return host.create("web")


def run(api, *cmd, **more):
    return api.post("/v1/vms/web/exec", {"cmd": list(cmd), **more})


def flood(n):
    """The fake's flood of n bytes, whose last one is always the same."""
    return bytes(b"0123456789abcdef"[(n - i) % 16] for i in range(16)) * (n // 16) if n % 16 == 0 else None


class Stream:
    """A connection that speaks fcm-stream."""

    def __init__(self, api, *cmd, tcp=False, patience=20, **more):
        import json
        body = json.dumps({"cmd": list(cmd), **more}).encode()
        self.sock = api.connect(tcp, patience)
        self.sock.sendall(b"POST /v1/vms/web/exec HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
                          b"Upgrade: fcm-stream\r\nContent-Type: application/json\r\n"
                          + f"Authorization: Bearer {api.token}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        self.held = b""
        while b"\r\n\r\n" not in self.held:
            self.more()
        self.head, _, self.held = self.held.partition(b"\r\n\r\n")
        if self.head.startswith(b"HTTP/1.1 101 "):
            api.seen.add(("POST /v1/vms/{vm}/exec", 101, ""))

    def more(self):
        data = self.sock.recv(65536)
        if not data:
            raise EOFError(self.held)
        self.held += data

    def frame(self):
        while len(self.held) < 8 or len(self.held) < 8 + struct.unpack_from("<H", self.held, 4)[0]:
            self.more()
        number, size, kind, channel = struct.unpack_from("<IHBB", self.held)
        payload, self.held = self.held[8:8 + size], self.held[8 + size:]
        assert number == 1
        return kind, channel, payload

    def send(self, kind, payload=b"", channel=STDIN, number=1):
        self.sock.sendall(struct.pack("<IHBB", number, len(payload), kind, channel) + payload)

    def request(self, **kv):
        self.send(REQ, b"".join(f"{k}={v}\0".encode() for k, v in kv.items()))

    def all(self):
        """Up to the result: (stdout, stderr, result)."""
        out, ends = {STDOUT: b"", STDERR: b""}, []
        while True:
            kind, channel, payload = self.frame()
            if kind == DATA:
                assert channel not in ends
                out[channel] += payload
            elif kind == END:
                ends.append(channel)
            else:
                assert kind == RES
                result = dict(e.split("=", 1) for e in payload.decode().split("\0")[:-1])
                assert "error" in result or sorted(ends) == [STDOUT, STDERR]
                with contextlib.suppress(OSError):
                    assert self.sock.recv(1) == b""
                return out[STDOUT], out[STDERR], result

    def close(self):
        self.sock.close()


def opened(api):
    """(streams that the agent has open, streams that were closed in all); the asking one isn't counted."""
    text = run(api, "show").ok()["stdout"].splitlines()[-1]
    numbers = [int(word.split("=")[1]) for word in text.split()]
    return numbers[0] - 1, numbers[1]


def expect_cancelled(api, closed):
    wait_for("the command was cancelled", lambda: opened(api) == (0, closed + 1), 5)


class TestPlain:
    def test_output_and_status(self, api):
        assert run(api, "echo", "hello", "world").ok() == {"exit": 0, "stdout": "hello world\n", "stderr": ""}
        assert run(api, "warn", "ü\t\x1b").ok() == {"exit": 0, "stdout": "", "stderr": "ü\t\x1b\n"}
        assert run(api, "exit", "7").ok()["exit"] == 7

    def test_curl(self, host):
        done = host.run("curl", "-sS", "--unix-socket", "/run/fcm/fcmd.sock", "-H", "Content-Type: application/json",
                        "-d", '{"cmd":["echo","-a"]}', "http://localhost/v1/vms/web/exec")
        assert done.stdout == '{"exit":0,"stdout":"-a\\n","stderr":""}\n'

    def test_ended_by_a_signal(self, api):
        assert run(api, "signal", "9").ok() == {"exit": 137, "signal": 9, "stdout": "", "stderr": ""}

    @pytest.mark.parametrize("name, status", [("nosuch", 127), ("noexec", 126)])
    def test_cannot_be_run(self, api, name, status):
        answer = run(api, name).ok()
        assert answer["exit"] == status and answer["reason"].startswith(name) and "\x1b" not in answer["reason"]

    @pytest.mark.parametrize("name", ["nouser", "nonsense", "late"])
    def test_the_agent_fails(self, api, name):
        answer = run(api, name)
        assert (answer.status, answer.code) == (500, "guest"), answer
        assert opened(api)[0] == 0

    def test_binary(self, api):
        answer = run(api, "binary").ok()
        assert base64.b64decode(answer["stdout_base64"]) == bytes(range(256)) and "stdout" not in answer

    def test_input(self, api):
        text = "line\n" * 100_000
        assert run(api, "cat", input=text).ok()["stdout"] == text
        assert run(api, "cat").ok()["stdout"] == run(api, "cat", input="").ok()["stdout"] == ""

    def test_truncated(self, api):
        answer = run(api, "flood", str(MIB), str(MIB + 1)).ok()
        assert len(answer["stdout"]) == len(answer["stderr"]) == MIB and answer["truncated"] is True
        answer = run(api, "flood", str(MIB), str(MIB)).ok()
        assert len(answer["stdout"]) == len(answer["stderr"]) == MIB and "truncated" not in answer
        answer = api.post("/v1/vms/web/exec", '{"cmd":["cat"],"input":"%s"}'.encode() % ("ü" * (MIB // 2)).encode(),
                          headers={"Content-Type": "application/json"}).ok()
        assert answer["stdout"] == "ü" * (MIB // 2)

    def test_what_the_agent_is_told(self, api):
        shown = run(api, "show", "a b", "", env={"A": "1\n2", "B": ""}, workdir="/srv", user="www:www").ok()["stdout"]
        for line in ("arg=a b", "arg=", "env=A=1\n2", "env=B=", "dir=/srv", "user=www:www"):
            assert line + "\n" in shown
        assert "tty" not in shown and "stdin" not in shown

    def test_detach(self, api):
        assert run(api, "sleep", detach=True).ok() == {"pid": 4711}

    def test_timeout(self, api):
        closed, begun = opened(api)[1], time.monotonic()
        answer = run(api, "sleep", timeout=1)
        assert (answer.status, answer.code) == (504, "timeout") and 0.9 < time.monotonic() - begun < 5
        expect_cancelled(api, closed)

    def test_a_client_that_goes(self, api):
        closed = opened(api)[1]
        with pytest.raises(TimeoutError):
            api.post("/v1/vms/web/exec", {"cmd": ["flood", str(1 << 60)]}, timeout=0.5)
        expect_cancelled(api, closed)

    def test_100_at_once(self, api):
        with concurrent.futures.ThreadPoolExecutor(100) as pool:
            answers = list(pool.map(lambda n: run(api, "flood", str(16 * n * 100)), range(100)))
        assert [len(a.ok()["stdout"]) for a in answers] == [16 * n * 100 for n in range(100)]


class TestStream:
    def test_output_and_status(self, api):
        stream = Stream(api, "echo", "hello")
        assert stream.head.startswith(b"HTTP/1.1 101 ") and b"Upgrade: fcm-stream" in stream.head
        assert stream.all() == (b"hello\n", b"", {"ok": "1", "exit": "0"})
        assert Stream(api, "warn", "x", tcp=True).all() == (b"", b"x\n", {"ok": "1", "exit": "0"})
        assert Stream(api, "signal", "15").all()[2] == {"ok": "1", "signal": "15"}

    def test_cannot_be_run(self, api):
        assert Stream(api, "nosuch").all()[2] == {"error": "nosuch: no such?[31m program", "exit": "127"}
        result = Stream(api, "nouser").all()[2]
        assert result["code"] == "guest" and "no such user" in result["error"]

    def test_stdin(self, api):
        stream = Stream(api, "cat", stdin=True)
        for piece in (b"a", b"", b"bc" * 16384, b"d"):
            stream.send(DATA, piece)
        stream.send(END)
        assert stream.all() == (b"a" + b"bc" * 16384 + b"d", b"", {"ok": "1", "exit": "0"})

    def test_a_lot(self, api):
        """8 MiB in and out, while both sides have to wait for each other."""
        stream = Stream(api, "cat", stdin=True)
        data = os.urandom(32768)

        def feed():
            for _ in range(256):
                stream.send(DATA, data)
            stream.send(END)

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            fed = pool.submit(feed)
            out, _, result = stream.all()
            fed.result()
        assert out == data * 256 and result["exit"] == "0"

    def test_terminal(self, api):
        stream = Stream(api, "show", tty=True, rows=24, cols=80, stdin=True)
        shown = stream.all()[0].decode()
        assert "tty=1\nrows=24\ncols=80\nstdin=1\n" in shown

    def test_resize_and_signal(self, api):
        stream = Stream(api, "sleep", tty=True)
        for cols in range(80, 100):
            stream.request(op="resize", rows=24, cols=cols)
        stream.request(op="signal", signal=2)
        out, _, result = stream.all()
        assert out.decode().split() == [f"24x{cols}" for cols in range(80, 100)] and result["signal"] == "2"

    def test_a_reader_that_is_slow_stops_the_guest(self, api, host):
        """And nobody else: what was sent stays within the windows and the sockets' buffers."""
        closed = opened(api)[1]
        stream = Stream(api, "flood", str(1 << 60), str(1 << 60))
        time.sleep(1)
        before = host.run("cat", f"/proc/{host.daemon.pid}/status").stdout
        assert run(api, "echo", "x").ok()["stdout"] == "x\n"
        time.sleep(1)
        after = host.run("cat", f"/proc/{host.daemon.pid}/status").stdout
        rss = [int(text.split("VmRSS:")[1].split()[0]) for text in (before, after)]
        assert rss[1] - rss[0] < 4096
        stream.close()
        expect_cancelled(api, closed)

    def test_a_guest_that_takes_nothing_stops_the_client(self, api):
        closed = opened(api)[1]
        stream = Stream(api, "sleep", stdin=True)
        stream.sock.settimeout(1)
        sent = 0
        with pytest.raises(TimeoutError):
            while True:
                stream.send(DATA, bytes(32768))
                sent += 32768
        assert WINDOW <= sent < 8 * MIB
        stream.close()
        expect_cancelled(api, closed)

    @pytest.mark.parametrize("how", ["close", "half", "reset"])
    def test_a_client_that_goes(self, api, how):
        closed = opened(api)[1]
        stream = Stream(api, "sleep", stdin=True, tcp=how == "reset")
        if how == "half":
            stream.sock.shutdown(socket.SHUT_WR)
        elif how == "reset":
            stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stream.close()
        else:
            stream.close()
        expect_cancelled(api, closed)

    def test_timeout(self, api):
        closed = opened(api)[1]
        result = Stream(api, "flood", str(1 << 60), timeout=1).all()[2]
        assert result["code"] == "timeout" and "1 s" in result["error"]
        expect_cancelled(api, closed)

    @pytest.mark.parametrize("frame", [
        struct.pack("<IHBB", 1, 40000, DATA, STDIN), struct.pack("<IHBB", 1, 0, 99, 0), struct.pack("<IHBB", 2, 0, DATA, STDIN),
        struct.pack("<IHBB", 1, 0, DATA, STDOUT), struct.pack("<IHBB", 1, 0, RES, 0), struct.pack("<IHBB", 1, 0, REQ, 0),
        struct.pack("<IHBB", 1, 4, 6, 0) + bytes(4), struct.pack("<IHBB", 1, 10, REQ, 0) + b"op=exec\0\0\0",
        struct.pack("<IHBB", 1, 25, REQ, 0) + b"op=signal\0signal=65\0\0\0\0\0\0", b"\xff" * 100], ids=lambda f: f.hex()[:20])
    def test_a_client_that_breaks_the_protocol(self, api, frame):
        closed = opened(api)[1]
        stream = Stream(api, "sleep", stdin=True)
        stream.sock.sendall(frame)
        assert stream.all()[2]["code"] == "bad_request"
        expect_cancelled(api, closed)

    def test_the_guest_breaks_it(self, api):
        """It sends 8 MiB to a client that takes none yet: only this stream suffers, and most of it is thrown away."""
        closed = opened(api)[1]
        stream = Stream(api, "over", "256")
        time.sleep(1)
        assert run(api, "echo", "x").ok()["stdout"] == "x\n"
        out, _, result = stream.all()
        assert len(out) < 4 * MIB and result["code"] == "guest" and "allowed" in result["error"]
        expect_cancelled(api, closed)

    def test_the_channel_breaks(self, api):
        bystander = Stream(api, "sleep")
        result = Stream(api, "lose").all()[2]
        assert result["code"] == "guest"
        assert bystander.all()[2]["code"] == "guest"
        wait_for("the session again", lambda: run(api, "echo", "x").status == 200, 10)

    def test_100_at_once(self, api):
        streams = [Stream(api, "cat", stdin=True, tcp=n % 2 == 0) for n in range(100)]
        assert opened(api)[0] == 100
        for n, stream in enumerate(streams):
            stream.send(DATA, bytes([n]) * 1000)
        for stream in streams:
            stream.send(END)
        assert [s.all()[0] for s in streams] == [bytes([n]) * 1000 for n in range(100)]

    def test_more_than_there_can_be(self, api):
        streams = [Stream(api, "sleep") for _ in range(128)]
        answer = run(api, "echo")
        assert (answer.status, answer.code) == (503, "unavailable"), answer
        for stream in streams:
            stream.close()
        wait_for("room for another", lambda: run(api, "echo").status == 200, 5)


class TestClient:
    @pytest.mark.parametrize("argv, out, err, status", [
        (["web", "echo", "a", "-x"], "a -x\n", "", 0), (["web", "--", "echo", "a"], "a\n", "", 0),
        (["web", "warn", "e"], "", "e\n", 0), (["web", "exit", "7"], "", "", 7), (["web", "signal", "15"], "", "", 143),
        (["web", "nosuch"], "", "fcm: nosuch: no such?[31m program\n", 127),
        (["web", "noexec"], "", "fcm: noexec: permission denied\n", 126), (["-d", "web", "sleep"], "4711\n", "", 0),
        (["--json", "web", "exit", "3"], '{\n  "exit": 3,\n  "stdout": "",\n  "stderr": ""\n}\n', "", 3)], ids=str)
    def test_words(self, host, argv, out, err, status):
        done = host.fcm("exec", *argv, check=False)
        assert (done.stdout, done.stderr, done.returncode) == (out, err, status)

    def test_options(self, host):
        shown = host.fcm("exec", "-e", "A=1", "-e", "B=2", "-w", "/srv", "-u", "www", "web", "show", "-e").stdout
        for line in ("arg=-e", "env=A=1", "env=B=2", "dir=/srv", "user=www"):
            assert line + "\n" in shown

    def test_stdin(self, host):
        data = os.urandom(4 * MIB)
        done = subprocess.run([*host.ns.enter, "fcm", "exec", "-i", "web", "cat"], input=data, capture_output=True,
                              check=True, timeout=60)
        assert done.stdout == data and done.stderr == b""
        done = subprocess.run([*host.ns.enter, "fcm", "exec", "web", "cat"], input=data, capture_output=True, check=True,
                              timeout=60)
        assert done.stdout == b""

    @pytest.mark.parametrize("argv, status", [(["nosuch", "echo"], 125), (["web"], 125), (["--nosuch", "web", "echo"], 125),
                                              (["--timeout", "1", "web", "sleep"], 125), (["-it", "web", "echo"], 125),
                                              (["web", "nouser"], 125)], ids=str)
    def test_our_own_failures(self, host, argv, status):
        done = host.fcm("exec", *argv, check=False)
        assert done.returncode == status and done.stderr.startswith("fcm: ") and done.stdout == ""

    def spawn(self, host, *argv, **popen):
        return host.spawn(["fcm", "exec", *argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          **popen)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_signals_go_to_the_command(self, host, api, number):
        child = self.spawn(host, "web", "sleep")
        wait_for("it runs", lambda: opened(api)[0] == 1, 5)
        os.kill(child.pid, number)
        assert child.wait(10) == 128 + number and child.stderr.read() == b""

    def test_a_reader_that_goes(self, host, api):
        done = host.run("bash", "-c", "fcm exec web flood 999999999999 | head -c 100; echo ${PIPESTATUS[0]}", timeout=20)
        assert done.stdout.endswith("141\n")
        wait_for("it was cancelled", lambda: opened(api)[0] == 0, 5)

    def test_terminal(self, host):
        done = host.run("script", "-qec", "stty rows 33 cols 99; fcm exec -t web show; echo status $?", "/dev/null")
        assert "tty=1\nrows=33\ncols=99\n" in done.stdout.replace("\r", "") and "status 0" in done.stdout


def test_not_running(host, api):
    host.create("idle", memory=64)
    api.post("/v1/vms/idle/kill").ok()
    answer = api.post("/v1/vms/idle/exec", {"cmd": ["true"]})
    assert (answer.status, answer.code, answer.error["hint"]) == (409, "wrong_state", "fcm start idle")
    done = host.fcm("exec", "idle", "true", check=False)
    assert done.returncode == 125 and "fcm start idle" in done.stderr


def test_the_vm_ends_meanwhile(host, api):
    host.create("torn", memory=64)
    child = host.spawn(["fcm", "exec", "torn", "sleep"], stderr=subprocess.PIPE)
    wait_for("it runs", lambda: int(api.post("/v1/vms/torn/exec", {"cmd": ["show"]}).ok()["stdout"]
                                   .splitlines()[-1].split()[0].split("=")[1]) == 2, 5)
    api.post("/v1/vms/torn/kill").ok()
    assert child.wait(10) == 125 and b"torn" in child.stderr.read()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_the_daemon_ends_meanwhile(host, api, sig):
    """Clear words; the next daemon finds no stream left, and has who asks at once wait for its session with the agent."""
    child = host.spawn(["fcm", "exec", "web", "sleep"], stderr=subprocess.PIPE)
    wait_for("it runs", lambda: opened(api)[0] == 1, 5)
    host.stop_daemon(sig)
    assert child.wait(10) == 125
    assert b"daemon" in child.stderr.read()
    host.start_daemon()
    assert run(api, "echo").ok()["exit"] == 0
    assert opened(api)[0] == 0


def test_nothing_is_left(host, api):
    """Descriptors after many commands are what they were, once the idle threads have ended."""
    def figures():
        base = f"/proc/{host.daemon.pid}"
        status = dict(line.split(":\t", 1) for line in open(f"{base}/status", encoding="ascii").read().splitlines() if ":\t" in line)
        return len(os.listdir(f"{base}/fd")), int(status["Threads"])

    def some(n):
        for _ in range(n):
            Stream(api, "echo", "x").all()
            Stream(api, "sleep").close()
            run(api, "cat", input="x").ok()
    def rest():
        return wait_for("the threads of loop, gate, timekeeper and events alone", lambda: figures()[1] == 4 and figures(), 30, 0.5)

    some(5)
    before = rest()
    some(50)
    assert rest() == before
