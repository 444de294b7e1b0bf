"""A root shell at the serial console of a real guest."""
import time

import pytest
from console import LEAVE, Terminal, attached, until
from host import wait_for

HOST = {"assets": ("kernel", "tiny", "base")}
PROMPTS = {"tiny": b"# ", "base": b"~# "}


@pytest.fixture(scope="module", params=PROMPTS)
def vm(host, request):
    host.add_user_token()
    yield host.create("shell", image=request.param)
    host.api.delete("/v1/vms/shell?force=1").ok()


@pytest.fixture
def terminal(host, vm):
    t = Terminal(host, vm["name"])
    t.until(b"Ctrl-] detaches")
    yield t
    t.close()


def ask(terminal, command, marker, seconds=30):
    terminal.text = b""
    terminal.type(command + b"\r")
    return terminal.until(marker, seconds)


def test_a_shell_at_the_first_enter(host, vm, terminal):
    prompt = PROMPTS[vm["image"]]
    before = host.ssh("shell", "ps ax")
    assert "getty" in before and "/bin/sh --" not in before and "/bin/login" not in before  # an idle console costs no shell
    ask(terminal, b"", prompt)
    assert b"sum 42" in ask(terminal, b"echo sum $((6 * 7))", b"sum 42")
    ask(terminal, b"tty", b"/dev/ttyS0\r\n")
    # job control: ^C ends the command and not the shell
    ask(terminal, b"sleep 1000; echo sleep $?", b"echo sleep")
    time.sleep(0.5)
    ask(terminal, b"\x03", prompt)
    ask(terminal, b"echo still $((1 + 1))", b"still 2")
    terminal.type(LEAVE)
    terminal.ends()


def test_the_shell_is_there_again(host, vm, terminal):
    """It comes back after its end, not faster than once a second however many ends come."""
    prompt = PROMPTS[vm["image"]]
    ask(terminal, b"", prompt)
    terminal.type(b"\r".join(b"exit" for _ in range(50)) + b"\r" + b"\r" * 500 + b"\x04" * 50)
    time.sleep(3)

    def answers():
        terminal.type(b"\recho again $((40 + 3))\r")
        time.sleep(2)
        return b"again 43" in terminal.until(b"", 0) or terminal.until(b"again 43", 1)

    wait_for("the shell", answers, 60)
    terminal.type(LEAVE)
    terminal.ends()


def test_a_script(host, vm):
    with attached(host, vm) as sock:
        sock.sendall(b"\r")
        until(sock, PROMPTS[vm["image"]])
    done = host.fcm("console", vm["name"], input="\necho script $((40 + 4))\n")
    assert "script 44" in done.stdout


def test_an_open_shell_does_not_hold_up_a_stop(host, vm):
    with attached(host, vm) as sock:
        sock.sendall(b"\recho open $((40 + 5))\r")
        until(sock, b"open 45")
        answer = host.api.post("/v1/vms/shell/stop", {"time": 20}).ok()
        assert not answer["forced"] and answer["took_ms"] < 10000, answer
