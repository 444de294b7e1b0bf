"""fcm console and its route, with the scripted VMM: it answers what is typed by "fake guest: got <line>"."""
import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from console import LEAVE, Terminal, attached, until
from host import wait_for

HOST = {"fake": True, "config": "mem_overcommit_percent = 10000\ndisk_reserve_mib = 0\n"}
SPEC = {"image": "tiny", "memory": 64, "disk": 64, "restart": "no"}
UP = b"fake guest: up\r\n"


@pytest.fixture
def vm(host, request):
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name)[:40].strip("-")
    machine = host.api.post("/v1/vms", {**SPEC, "name": name}).ok(201)
    yield machine
    host.api.delete(f"/v1/vms/{name}?force=1").ok()


# ---- the route ----

def test_reads_and_types(host, vm):
    with attached(host, vm) as one:
        until(one, UP)
        one.sendall(b"hello\n")
        until(one, b"fake guest: got hello\r\n")
    with attached(host, vm) as two:
        assert UP in until(two, b"got hello\r\n")  # the screen of those who were there before


def test_one_types_and_the_others_are_told(host, vm):
    with attached(host, vm) as first:
        until(first, UP)
        with attached(host, vm) as second, attached(host, vm, "?input=no") as watcher:
            until(second, b"you only watch]\r\n")
            second.sendall(b"lost\n")
            watcher.sendall(b"lost too\n")
            time.sleep(0.2)
            first.sendall(b"kept\n")
            for sock in (first, second, watcher):
                assert b"lost" not in until(sock, b"got kept\r\n")
            first.close()
            until(second, b"you can type now]\r\n")
            second.sendall(b"mine\n")
            assert b"fcm:" not in until(watcher, b"got mine\r\n")


def test_a_writer_that_is_killed_gives_way(host, vm):
    """Without a word: its process is gone."""
    child = host.spawn(["fcm", "console", vm["name"]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.read(len(UP)) == UP
    with attached(host, vm) as second:
        until(second, b"you only watch]\r\n")
        child.kill()
        until(second, b"you can type now]\r\n")
    child.wait()
    child.stdin.close()
    child.stdout.close()


def test_who_must_type_now_is_refused(host, vm):
    with attached(host, vm, "?input=now") as first:
        until(first, UP)
        answer = host.api.get(f"/v1/vms/{vm['id']}/console?input=now",
                              headers={"Connection": "Upgrade", "Upgrade": "fcm-console"})
        assert answer.code == "busy" and "'unix' types" in answer.error["message"], answer
    assert host.api.get(f"/v1/vms/{vm['id']}/console?input=loud",
                        headers={"Connection": "Upgrade", "Upgrade": "fcm-console"}).error["field"] == "input"
    answer = host.api.get(f"/v1/vms/{vm['id']}/console")
    assert answer.code == "bad_request" and "fcm-console" in answer.error["hint"], answer


def test_eight_at_a_time(host, vm):
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(attached(host, vm, "?input=no")) for _ in range(8)]
        for sock in held:
            until(sock, UP)
        answer = host.api.get(f"/v1/vms/{vm['id']}/console", headers={"Connection": "Upgrade", "Upgrade": "fcm-console"})
        assert answer.code == "busy" and "already" in answer.error["message"], answer
        held.pop().close()
        until(wait_for("a free place", lambda: stack.enter_context(attached(host, vm))), UP)


def test_not_running(host, vm):
    host.api.post(f"/v1/vms/{vm['id']}/stop").ok()
    done = host.fcm("console", vm["name"], check=False)
    assert done.returncode == 4 and "is stopped" in done.stderr
    assert host.fcm("console", "nobody", check=False).returncode == 3


def test_ends_with_the_vm(host, vm):
    with attached(host, vm) as sock:
        until(sock, UP)
        host.api.post(f"/v1/vms/{vm['id']}/kill").ok()
        while sock.recv(65536):
            pass


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_kib(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def test_a_flood_costs_a_bounded_amount(host, vm):
    """200 MiB with a client that reads nothing: it is dropped, the others are served, disk and memory stay."""
    shim = int(Path(f"/proc/{vm['vmm_pid']}/stat").read_text().rsplit(")", 1)[1].split()[1])
    folder = host.state_dir / vm["id"]

    def disk():
        return sum(f.stat().st_blocks * 512 for f in folder.iterdir() if f.is_file())

    disk_before, daemon_before = disk(), rss_kib(host.daemon.pid)
    cpu_before = cpu_seconds(shim), cpu_seconds(host.daemon.pid)
    with attached(host, vm) as slow:
        slow.sendall(b"flood 200\n")
        time.sleep(0.2)
        with attached(host, vm, "?input=no") as sock:  # while it floods, too
            assert sock.recv(10)
        wait_for("the end of the flood", lambda: b"got flood 200" in host.api.get(f"/v1/vms/{vm['id']}/logs?tail=2").body, 60)
        got = 0
        with contextlib.suppress(OSError):
            while chunk := slow.recv(1 << 20):
                got += len(chunk)
    assert got < 8 << 20
    used = cpu_seconds(shim) - cpu_before[0], cpu_seconds(host.daemon.pid) - cpu_before[1]
    grown = disk() - disk_before, rss_kib(host.daemon.pid) - daemon_before
    print(f"200 MiB: shim {used[0]:.2f} s and {rss_kib(shim)} KiB, fcmd {used[1]:.2f} s and +{grown[1]} KiB, disk +{grown[0]}")
    assert rss_kib(shim) <= 1024 and used[0] < 5
    assert grown[0] <= 8192
    with contextlib.ExitStack() as stack:
        sock = wait_for("nobody who types", lambda: stack.enter_context(attached(host, vm, "?input=now")), 5)
        sock.sendall(b"still here\n")
        until(sock, b"got still here\r\n")


# ---- the command ----

def test_a_script_types_and_leaves(host, vm):
    begun = time.monotonic()
    done = host.fcm("console", vm["name"], input="hello\n")
    assert done.stdout == "fake guest: up\nfake guest: got hello\n" and done.stderr == ""  # text mode takes \r away
    assert 1.5 < time.monotonic() - begun < 10


def test_a_scripts_input_is_not_lost(host, vm):
    with attached(host, vm) as sock:
        until(sock, UP)
        done = host.fcm("console", vm["name"], input="hello\n", check=False)
        assert done.returncode == 4 and "types at the console" in done.stderr


@pytest.fixture
def terminal(host, vm):
    t = Terminal(host, vm["name"])
    t.until(b"Ctrl-] detaches")
    t.until(UP)
    wait_for("raw mode", lambda: not t.is_restored(), 5)
    yield t
    t.close()


def test_ctrl_bracket_detaches(host, vm, terminal):
    terminal.type(b"hello\n")
    terminal.until(b"got hello\r\n")
    terminal.type(b"\x03")  # for the guest
    terminal.type(b"last\n" + LEAVE + b"not sent\n")
    terminal.ends()
    assert host.vm(vm["name"])["state"] == "running"
    log = host.api.get(f"/v1/vms/{vm['id']}/logs").body
    assert b"got \x03last" in log and b"not sent" not in log


def test_read_only(host, vm):
    t = Terminal(host, "--read-only", vm["name"])
    t.until(b"watching")
    t.until(UP)
    wait_for("raw mode", lambda: not t.is_restored(), 5)
    t.type(b"hello\n")
    time.sleep(0.3)
    t.type(LEAVE)
    t.ends()
    assert b"got hello" not in host.api.get(f"/v1/vms/{vm['id']}/logs").body
    t.close()
    t = Terminal(host, "--read-only", vm["name"])
    t.until(UP)
    wait_for("raw mode", lambda: not t.is_restored(), 5)
    t.type(b"\x03")
    t.ends(-signal.SIGINT)
    t.close()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_the_terminal_is_restored_after_a_signal(terminal, sig):
    terminal.child.send_signal(sig)
    terminal.ends(-sig)


def test_the_vm_ends(host, vm, terminal):
    host.api.post(f"/v1/vms/{vm['id']}/kill").ok()
    assert f"{vm['name']} is stopped".encode() in terminal.ends()


def test_the_daemon_dies(host, vm, terminal):
    host.daemon.kill()
    host.daemon.wait()
    text = terminal.ends(6)
    assert b"the console ended: " in text, text
    host.start_daemon()
    assert host.vm(vm["name"])["state"] == "running"
    with attached(host, vm) as sock:  # the shim is that of before
        sock.sendall(b"again\n")
        until(sock, b"got again\r\n")


def test_the_daemon_stops(host, terminal):
    begun = time.monotonic()
    host.stop_daemon()
    assert time.monotonic() - begun < 5
    terminal.ends(6)
    host.start_daemon()
