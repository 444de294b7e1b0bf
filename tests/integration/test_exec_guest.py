"""Commands in real guests: what the agent makes of them."""
import concurrent.futures
import hashlib
import os
import select
import signal
import subprocess
import time

import pytest
from host import wait_for

HOST = {"assets": ("kernel", "tiny")}

MIB = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def web(host):
    return host.create("web", memory=256, env={"OF_THE_VM": "1"})


def run(host, *argv, check=True, **kwargs):
    return host.fcm("exec", *argv, check=check, **kwargs)


def sh(host, script, check=True):
    return run(host, "web", "sh", "-c", script, check=check)


def test_uname(host, api):
    done = run(host, "web", "uname", "-n")
    assert (done.stdout, done.stderr) == ("web\n", "")
    answer = api.post("/v1/vms/web/exec", {"cmd": ["uname", "-s"]}).ok()
    assert answer == {"exit": 0, "stdout": "Linux\n", "stderr": ""}


def test_both_outputs(host):
    done = sh(host, "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


@pytest.mark.parametrize("script, status", [("exit 0", 0), ("exit 1", 1), ("exit 255", 255), ("kill -9 $$", 137), ("kill -15 $$", 143)])
def test_status(host, script, status):
    assert sh(host, script, check=False).returncode == status


@pytest.mark.parametrize("word, status", [("nosuch", 127), ("/nosuch", 127), ("/etc/passwd", 126), ("/etc", 126)])
def test_cannot_be_run(host, word, status):
    done = run(host, "web", word, check=False)
    assert done.returncode == status and done.stderr.startswith("fcm: ") and not done.stdout


def test_environment(host):
    lines = run(host, "-e", "A=1 2", "-e", "OF_THE_VM=2", "web", "env").stdout.splitlines()
    assert {"A=1 2", "OF_THE_VM=2", "HOME=/root", "USER=root"} <= set(lines) and any(line.startswith("PATH=") for line in lines)
    assert "OF_THE_VM=1" in run(host, "web", "env").stdout


def test_directory(host):
    assert run(host, "-w", "/proc", "web", "pwd").stdout == "/proc\n"
    done = run(host, "-w", "/nosuch", "web", "pwd", check=False)
    assert done.returncode in (125, 126, 127) and done.stderr.startswith("fcm: ")


def test_user(host):
    sh(host, "grep -q ^www: /etc/passwd || { echo www:x:1234:1235::/tmp:/bin/sh >>/etc/passwd; echo www:x:1235: >>/etc/group; }")
    assert run(host, "-u", "www", "web", "sh", "-c", "id -u; id -g; echo $HOME $USER").stdout == "1234\n1235\n/tmp www\n"
    assert run(host, "-u", "1000:1001", "web", "sh", "-c", "id -u; id -g").stdout == "1000\n1001\n"
    assert run(host, "-u", "www", "web", "sh", "-c", "echo x >/etc/hostname", check=False).returncode != 0
    done = run(host, "-u", "nosuch", "web", "true", check=False)
    assert done.returncode in (125, 126) and "nosuch" in done.stderr


def test_stdin(host):
    assert run(host, "web", "cat").stdout == ""
    assert run(host, "-i", "web", "cat", input="hallo").stdout == "hallo"


def test_binary(api):
    answer = api.post("/v1/vms/web/exec", {"cmd": ["printf", "\\000\\377"]}).ok()
    assert answer["stdout_base64"] == "AP8="


def test_64_mib_each_way(host):
    """Not a byte is lost; both programs read as they like."""
    block = os.urandom(MIB)
    digest = hashlib.sha256(block * 64).hexdigest()
    path = host.work / "sent"
    path.write_bytes(block * 64)
    begun = time.monotonic()
    with open(path, "rb") as file:
        sent = subprocess.run([*host.ns.enter, "fcm", "exec", "-i", "web", "sha256sum"], stdin=file, capture_output=True,
                              check=True, timeout=280)
    assert sent.stdout.decode().split()[0] == digest
    print(f"in: {64 / (time.monotonic() - begun):.1f} MiB/s")
    begun, got, total = time.monotonic(), hashlib.sha256(), 0
    script = "head -c 65536 /dev/urandom >/tmp/b; for i in $(seq 1024); do cat /tmp/b; done"
    with subprocess.Popen([*host.ns.enter, "fcm", "exec", "web", "sh", "-c", script], stdout=subprocess.PIPE) as child:
        while piece := child.stdout.read(65536):
            got.update(piece)
            total += len(piece)
    print(f"out: {64 / (time.monotonic() - begun):.1f} MiB/s")
    assert child.returncode == 0 and total == 64 * MIB
    expected = sh(host, "for i in $(seq 1024); do cat /tmp/b; done | sha256sum").stdout.split()[0]
    assert got.hexdigest() == expected
    path.unlink()


def test_a_flood_is_stopped(host):
    done = host.run("bash", "-c", "fcm exec web sh -c 'yes & echo $! >/tmp/pid; wait' | head -c 1000000 | wc -c", timeout=60)
    assert done.stdout.strip() == "1000000"
    wait_for("yes is gone", lambda: sh(host, "kill -0 $(cat /tmp/pid)", check=False).returncode != 0, 10, 0.3)


def test_signal(host):
    child = host.spawn(["fcm", "exec", "web", "sh", "-c", "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.1; done"],
                       stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"ready\n"
    child.send_signal(signal.SIGTERM)
    assert child.stdout.read() == b"got\n" and child.wait(10) == 9
    child = host.spawn(["fcm", "exec", "web", "sh", "-c", "echo ready; sleep 1000"], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"ready\n"
    child.send_signal(signal.SIGINT)
    assert child.wait(10) == 130


def test_terminal(host):
    done = host.run("script", "-qec", "stty rows 33 cols 99; fcm exec -t web sh -c 'stty size; tty; exit 5'; echo status $?",
                    "/dev/null")
    words = done.stdout.split()
    assert words[:2] == ["33", "99"] and words[2].startswith("/dev/pts/") and words[-2:] == ["status", "5"]


def test_a_shell_on_a_terminal(host):
    """^C reaches the program in its foreground, ^D the shell; ours is put back."""
    child = host.spawn(["script", "-qec", "stty -a >/tmp/before; fcm exec -it web sh; echo status $?; stty -a >/tmp/after", "/dev/null"],
                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    shown = b""

    def until(word):
        nonlocal shown
        while word not in shown:
            assert select.select([child.stdout], [], [], 60)[0], f"{word} doesn't come: {shown}"
            piece = os.read(child.stdout.fileno(), 4096)
            assert piece, shown
            shown += piece

    def say(text):
        child.stdin.write(text)
        child.stdin.flush()

    until(b"# ")
    say(b"echo a$((1+1))b; sleep 1000\n")
    until(b"a2b\r\n")
    time.sleep(2)  # the shell has given the terminal to sleep by then: before, ^C is nobody's
    say(b"\x03")
    time.sleep(0.5)
    say(b"echo c$((2+2))d\n")
    until(b"c4d\r\n")
    say(b"exit 3\n")
    until(b"status 3")
    child.wait(20)
    assert host.run("cmp", "/tmp/before", "/tmp/after", check=False).returncode == 0


def test_detached(host):
    pid = int(run(host, "-d", "web", "sleep", "1000").stdout)
    assert sh(host, f"cat /proc/{pid}/comm").stdout == "sleep\n"
    sh(host, f"kill {pid}")


def test_what_it_left_behind_does_not_hold_it(host):
    begun = time.monotonic()
    assert sh(host, "sleep 1000 & echo x").stdout == "x\n"
    assert time.monotonic() - begun < 10
    sh(host, "killall sleep", check=False)


def test_timeout(host):
    begun = time.monotonic()
    done = run(host, "--timeout", "1", "web", "sleep", "1234", check=False)
    assert done.returncode == 125 and "1 s" in done.stderr and time.monotonic() - begun < 10
    wait_for("it was ended", lambda: "1234" not in sh(host, "ps").stdout.replace("grep", ""), 10, 0.3)


def test_100_at_once(host):
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda n: host.api.post("/v1/vms/web/exec", {"cmd": ["echo", str(n)]}).ok(), range(100)))
    assert [a["stdout"] for a in answers] == [f"{n}\n" for n in range(100)]


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_the_daemon_ends_meanwhile(host, sig):
    boot_id = host.vm("web")["boot_id"]
    child = host.spawn(["script", "-qec", "fcm exec -it web sh -c 'echo ready; sleep 4321'; echo status $?", "/dev/null"],
                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    while b"ready" not in child.stdout.readline():
        pass
    host.stop_daemon(sig)
    assert child.wait(20) == 0
    said = child.stdout.read()
    assert b"daemon" in said and b"status 125" in said
    host.start_daemon()
    wait_for("the session again", lambda: run(host, "web", "true", check=False).returncode == 0, 30)
    wait_for("it was ended", lambda: "4321" not in sh(host, "ps").stdout, 10, 0.3)
    assert host.vm("web")["boot_id"] == boot_id
