"""The main process of a VM, in real guests: fcm run, attach, wait, logs; exit status, restarts, a daemon that dies."""
import os
import pty
import signal
import subprocess
import time

import pytest
from console import attached, until
from host import wait_for

HOST = {"assets": ("kernel", "tiny")}

SMALL = ("--mem", "128")


def fcm_run(host, *argv, check=False, **kwargs):
    return host.fcm("run", *SMALL, *argv, check=check, timeout=100, **kwargs)


def detached(host, name, *argv, options=()):
    done = fcm_run(host, "-d", "--name", name, *options, "tiny", *argv, check=True)
    assert done.stdout == name + "\n"


def destroy(host, *names):
    host.fcm("destroy", "-f", *names)


def logs(host, name, *options):
    return host.fcm("logs", name, *options).stdout


@pytest.fixture(scope="module")
def box(host):
    """One that lives on, for what needs no VM of its own."""
    detached(host, "box", "sh", "-c", "echo begun; trap 'echo bye; exit 7' TERM; while :; do sleep 0.1; done",
             options=("--restart", "no"))
    return "box"


def test_output_and_status(host):
    """Both channels, and not a byte less than was printed; then nothing is left."""
    before = host.residue()
    done = fcm_run(host, "--rm", "-e", "WORD=x y", "tiny", "sh", "-c", 'echo out $WORD; echo err >&2; exit 3')
    assert (done.stdout, done.stderr, done.returncode) == ("out x y\n", "err\n", 3)
    assert host.api.get("/v1/vms").ok()["vms"] == []
    host.check_residue(before)


@pytest.mark.parametrize("argv, status, word", [(["nosuch"], 127, "fcm: execute the program"), (["/etc/passwd"], 126, "fcm: execute"),
                                                (["sh", "-c", "kill -9 $$; sleep 1; exit 5"], 5, "")])
def test_status_of_what_cannot_run(host, argv, status, word):
    """As PID 1 of its namespace it can't kill itself, as in a container."""
    done = fcm_run(host, "--rm", "tiny", *argv)
    assert done.returncode == status and done.stderr.startswith(word), done


def test_who_and_where(host):
    done = fcm_run(host, "--rm", "-u", "1000:1001", "-w", "/usr", "--entrypoint", "sh", "--entrypoint", "-c", "tiny",
                   "id -u; id -g; pwd; echo $$; ls -d /proc/[0-9]* | wc -l")
    lines = done.stdout.splitlines()
    assert lines[:4] == ["1000", "1001", "/usr", "1"] and int(lines[4]) <= 3, done


def test_read_only_and_tmpfs(host):
    done = fcm_run(host, "--rm", "--read-only", "--tmpfs", "/srv/x", "tiny", "sh", "-c",
                   "touch /etc/x; echo $?; touch /srv/x/y; echo $?; grep -c proc /proc/mounts")
    assert done.stdout.split()[:2] == ["1", "0"], done


def test_stdin(host):
    done = fcm_run(host, "--rm", "-i", "tiny", "wc", "-c", input="x" * 300000)
    assert (done.stdout.strip(), done.returncode) == ("300000", 0), done
    assert fcm_run(host, "--rm", "tiny", "cat", input="not for it").stdout == ""


def test_flood(host):
    """All of it arrives where the host reads it; the log is bounded."""
    done = fcm_run(host, "--rm", "tiny", "sh", "-c", "head -c 6000000 /dev/zero | tr '\\0' x")
    assert (len(done.stdout), done.returncode) == (6000000, 0), done.stderr
    detached(host, "flood", "yes")
    folder = host.state_dir / host.vm("flood")["id"]
    wait_for("it was rotated", lambda: (folder / "main.log.1").exists(), 60)
    time.sleep(3)
    assert sum(path.stat().st_size for path in folder.glob("main.log*")) < 9 << 20
    assert host.fcm("exec", "flood", "echo", "well").stdout == "well\n"
    destroy(host, "flood")


def test_exec_is_inside(host, box):
    done = host.fcm("exec", box, "sh", "-c", "tr '\\0' ' ' </proc/1/cmdline; ls -d /proc/[0-9]* | wc -l")
    assert done.stdout.startswith("sh -c echo begun;"), done.stdout


def test_the_route(host, box):
    """What it printed, in frames, to whoever asks; the VM doesn't notice."""
    with attached(host, host.vm(box), "?logs=1", "attach", "fcm-stream") as sock:
        assert b"begun\n" in until(sock, b"begun\n")
    assert host.vm(box)["state"] == "running"


def test_attach(host, box):
    """Several at a time; one that leaves leaves it alone; its end is everybody's."""
    assert wait_for("it has begun", lambda: logs(host, box)) == "begun\n"
    one, two = (host.spawn(["fcm", "attach", box], stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2))
    gone = host.spawn(["fcm", "attach", box], stdout=subprocess.PIPE)
    time.sleep(1)
    gone.kill()
    gone.wait()
    waiter = host.spawn(["fcm", "wait", box], stdout=subprocess.PIPE)
    time.sleep(0.5)
    assert host.vm(box)["state"] == "running" and host.vm(box)["exited"] is None
    one.send_signal(signal.SIGTERM)
    for child in (one, two):
        assert child.communicate(timeout=30)[0] == b"bye\n" and child.returncode == 7
    assert waiter.communicate(timeout=30)[0] == b"7\n"
    vm = host.wait_state(box, "stopped")
    assert vm["exited"]["code"] == 7 and logs(host, box) == "begun\nbye\n"
    assert logs(host, box, "--tail", "1") == "bye\n" and "Z bye\n" in logs(host, box, "-t")
    assert "fcm-agent: main exit 7" in logs(host, box, "--source", "console")
    host.fcm("start", box)
    wait_for("it runs anew", lambda: logs(host, box) == "begun\nbye\nbegun\n")


def test_stop_sends_its_signal(host):
    detached(host, "gentle", "sh", "-c", "trap 'sleep 1; echo asked; exit 9' USR1; echo ready; while :; do sleep 0.1; done",
             options=("--stop-signal", "10"))
    wait_for("it is ready", lambda: "ready" in logs(host, "gentle"))
    host.fcm("stop", "gentle")
    assert host.vm("gentle")["exited"]["code"] == 9 and logs(host, "gentle") == "ready\nasked\n"
    destroy(host, "gentle")


def test_stop_does_not_wait_for_ever(host):
    detached(host, "deaf", "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done")
    wait_for("it is ready", lambda: "ready" in logs(host, "deaf"))
    begun = time.monotonic()
    host.fcm("stop", "-t", "6", "deaf")
    assert 2 < time.monotonic() - begun < 12 and host.vm("deaf")["exited"]["code"] == 137
    destroy(host, "deaf")


def test_a_daemon_that_is_killed(host):
    """Nothing that was printed is lost or doubled, and an end that it missed is known."""
    detached(host, "steady", "sh", "-c", "i=0; while [ $i -lt 400 ]; do echo line $i; i=$((i+1)); sleep 0.02; done; exit 4")
    watcher = host.spawn(["fcm", "attach", "steady"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(1)
    host.stop_daemon(signal.SIGKILL)
    _, text = watcher.communicate(timeout=20)
    assert watcher.returncode == 125 and b"the VM runs on" in text, text
    time.sleep(1)
    host.start_daemon()
    time.sleep(1)
    host.restart_daemon(signal.SIGKILL)
    assert host.fcm("wait", "steady", timeout=100).stdout == "4\n"
    assert logs(host, "steady") == "".join(f"line {i}\n" for i in range(400))
    detached(host, "quick", "sh", "-c", "sleep 4; exit 6")
    host.stop_daemon(signal.SIGKILL)
    time.sleep(8)
    host.start_daemon()
    assert host.wait_state("quick", "stopped")["exited"]["code"] == 6
    destroy(host, "steady", "quick")


@pytest.mark.parametrize("policy, status, again", [("on-failure", 1, True), ("on-failure", 0, False), ("always", 0, True)])
def test_restart_policy(host, policy, status, again):
    detached(host, "policy", "sh", "-c", f"echo run; sleep 1; exit {status}", options=("--restart", policy))
    if again:
        wait_for("it runs again", lambda: logs(host, "policy").count("run") > 1, 60)
    else:
        assert host.wait_state("policy", "stopped")["boots"] == 1
    destroy(host, "policy")


def test_remove_without_a_client(host):
    detached(host, "fleeting", "sleep", "1", options=("--rm",))
    wait_for("it is gone", lambda: host.api.get("/v1/vms/fleeting").status == 404, 40)


def test_terminal(host):
    """A raw terminal, its size, ^C, and ^P ^Q."""
    master, slave = pty.openpty()
    child = host.spawn(["fcm", "run", *SMALL, "-it", "--name", "term", "tiny", "sh"], stdin=slave, stdout=slave, stderr=slave,
                       start_new_session=True)
    os.close(slave)
    seen = b""

    def expect(word, timeout=60):
        nonlocal seen
        deadline = time.monotonic() + timeout
        os.set_blocking(master, False)
        while word not in seen:
            assert time.monotonic() < deadline, seen
            try:
                seen += os.read(master, 4096)
            except BlockingIOError:
                time.sleep(0.05)
        seen = seen[seen.index(word) + len(word):]

    expect(b"# ")
    os.write(master, b"tty; echo $((40+2))\n")
    expect(b"/dev/pts/")
    expect(b"42")
    os.write(master, b"sleep 100\n")
    time.sleep(0.5)
    os.write(master, b"\x03")
    expect(b"# ")
    os.write(master, b"\x10\x11")
    expect(b"detached")
    assert child.wait(10) == 0 and host.vm("term")["state"] == "running"
    os.close(master)
    destroy(host, "term")


def test_needs_a_command(host, api):
    done = fcm_run(host, "-it", "tiny", check=False)
    assert done.returncode == 125
    answer = api.post("/v1/vms", {"image": "tiny", "main": {"tty": True}})
    assert (answer.status, answer.code, answer.error["field"]) == (400, "invalid", "main.args")
    answer = api.post("/v1/vms", {"image": "tiny", "auto_remove": True, "restart": "always"})
    assert (answer.status, answer.error["field"]) == (400, "auto_remove")


def test_a_machine_has_none(host):
    fcm_run(host, "-d", "--name", "machine", "tiny", check=True)
    assert host.vm("machine")["main"] is None
    done = host.fcm("attach", "machine", check=False)
    assert done.returncode == 125 and "no main process" in done.stderr
    answer = host.api.get("/v1/vms/machine/logs?source=main")
    assert answer.status == 409 and answer.code == "wrong_state"
    destroy(host, "machine")
