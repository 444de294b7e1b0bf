"""What a snapshot and a clone ask of a guest's agent (docs/AGENT.md: freeze, thaw, identity, net, hooks), in real guests.

The daemon makes them and is stopped then: the VMs run on, and the test is their host. What stood still, a program tells which notes
the time since the boot again and again.
"""
import os
import struct
import sys
import time
from pathlib import Path

import pytest
from host import INTERNET, wait_for

sys.path.append(str(Path(__file__).resolve().parent.parent / "host"))
from by_hand import AGENT_PORT, Agent, Late  # noqa: E402  pylint: disable=wrong-import-position

HOST = {"assets": ("kernel", "tiny", "base", "debian")}

REQ, RES, DATA, CREDIT = 2, 3, 5, 6
TICKS = "until [ -e /run/enough ]; do read up rest </proc/uptime; echo $up >>/run/ticks; sleep 0.05; done"
NAMES = {"id": "aaaaaaaa", "name": "twin", "ip": "172.16.0.99", "old_id": "bbbbbbbb", "old_name": "source", "old_ip": "172.16.0.98"}


class Session(Agent):
    """A session that runs programs, too."""

    def open(self, pairs):
        """(answer, stdout, stderr) of a request that opens a stream."""
        self.stream = number = self.stream + 1
        self._send(number, REQ, pairs)
        data = {1: b"", 2: b""}
        while True:
            stream, kind, channel, payload = self._frame()
            if stream == number and kind == DATA:
                data[channel] += payload
                self.socket.sendall(struct.pack("<IHBBI", number, 4, CREDIT, channel, len(payload)))
            if stream == number and kind == RES:
                return self._pairs(payload), data[1].decode(), data[2].decode()

    def sh(self, script, **more):
        """What a shell in the guest prints."""
        answer, out, err = self.open([("op", "exec"), ("arg", "sh"), ("arg", "-c"), ("arg", script), *more.items()])
        assert "error" not in answer, (answer, script)
        return (out + err).strip()

    def ok(self, op, **arguments):
        answer = self.request(op, **arguments)
        assert answer.get("ok") == "1", (op, answer)
        return answer

    def uptime(self):
        return int(self.ok("ping")["uptime_ms"]) / 1000

    def ticks(self, script="cat /run/ticks"):
        return [float(line) for line in self.sh(script).split()]

    def identity(self, **arguments):
        return self.ok("identity", entropy=os.urandom(64).hex(), **arguments)


def say_hello(host, vm):
    """Again and again, as a host does: the agent throws away what it has read when it hears that the last one has gone."""
    end = time.monotonic() + 60
    while True:
        try:
            port = None if vm["vmm"] == "qemu" else AGENT_PORT
            return Session(time.monotonic() + 2, host.state_dir / vm["id"] / "jail/run/agent.sock", port=port)
        except Late:
            if time.monotonic() > end:
                raise


VMS = {"tiny": {"memory": 128}, "base": {"memory": 256}, "debian": {"memory": 384}}


@pytest.fixture(scope="module")
def vms(host):
    """One of each image, and one with a main process; the daemon has gone."""
    made = {image: host.create(image, image=image, **spec) for image, spec in VMS.items()}
    host.fcm("run", "-d", "--name", "main", "--mem", "128", "--restart", "no", "tiny", "sh", "-c",
             "n=0; while :; do n=$((n + 1)); read up rest </proc/uptime; echo $n $up; sleep 0.2; done")
    made["main"] = host.vm("main")
    wait_for("it prints", lambda: len(host.fcm("logs", "main").stdout) > 10)
    host.stop_daemon()
    yield made
    if host.daemon is None:
        host.start_daemon()


@pytest.fixture(params=VMS)
def image(request):
    return request.param


@pytest.fixture
def guest(host, vms, image):
    session = say_hello(host, vms[image])
    yield session
    session.socket.close()


def expect_pause(ticks, begin, end):
    """Nothing ticked between these two moments, and before and after it did. /proc/uptime has hundredths, cut off."""
    inside = [t for t in ticks if begin < t and t + 0.01 < end]
    assert not inside and ticks[0] < begin and ticks[-1] > end, (inside, ticks[0], ticks[-1], begin, end)


def is_frozen(guest):
    return guest.request("exec", arg="true").get("error") == "exec: the machine is frozen"


def test_every_process_stands_still(guest, image):
    """Those of exec, of a group of one's own, and with systemd of its services."""
    names = ["one", "two"]
    guest.sh(TICKS.replace("ticks", "one"), detach=1)
    guest.sh("mkdir -p /sys/fs/cgroup/mine/deep; echo $$ >/sys/fs/cgroup/mine/deep/cgroup.procs; " + TICKS.replace("ticks", "two"),
             detach=1)
    if image == "debian":
        names.append("three")
        guest.sh(f"systemd-run --unit ticks sh -c '{TICKS.replace('ticks', 'three')}'")
    time.sleep(1)
    assert not is_frozen(guest)
    begun = time.monotonic()
    guest.ok("freeze", hold_ms=60000, sync=1)
    print(f"{image}: frozen after {(time.monotonic() - begun) * 1000:.0f} ms")
    begin = guest.uptime()
    assert is_frozen(guest)
    assert guest.request("probe", mode="tcp", port=22)["error"] == "probe: the machine is frozen"
    assert int(guest.ok("stats")["memory"]) > 0
    guest.ok("file", path="/run/written", raw=b"while it was frozen\n")
    time.sleep(1.5)
    end = guest.uptime()
    assert guest.ok("thaw").get("thawed") == "1" and guest.ok("thaw").get("thawed") is None
    time.sleep(1)
    assert guest.sh("cat /run/written") == "while it was frozen"
    for name in names:
        expect_pause(guest.ticks(f"cat /run/{name}"), begin, end)
    assert guest.sh("ls /sys/fs/cgroup | grep freeze; wc -l </sys/fs/cgroup/mine/deep/cgroup.procs") in "12"
    if image == "debian":
        assert guest.sh("systemctl is-system-running --wait; systemctl is-active ticks; systemctl --failed --no-legend") == "running\nactive"
    guest.sh("touch /run/enough")


def test_a_lease(guest):
    """It ends by itself; who asks again has it longer; a host that went away and came again finds it as it was."""
    guest.ok("freeze", hold_ms=1500)
    guest.ok("freeze", hold_ms=4000)
    begin = guest.uptime()
    time.sleep(2.2)
    assert is_frozen(guest)
    wait_for("it goes on", lambda: not is_frozen(guest), 10, 0.05)
    assert 3.9 < guest.uptime() - begin < 9
    assert guest.ok("thaw").get("thawed") is None


def test_a_new_session(host, vms, image):
    first = say_hello(host, vms[image])
    first.ok("freeze", hold_ms=60000)
    first.socket.close()
    second = say_hello(host, vms[image])
    assert is_frozen(second)
    assert second.ok("thaw")["thawed"] == "1" and second.sh("echo well") == "well"
    second.socket.close()


OUTSIDE = "".join(f"{int(part):02X}" for part in reversed(INTERNET.split(".")))


def connections(guest):
    """(state, remote address in hex) of each TCP socket of the guest: proc_net_tcp.rst."""
    rows = [line.split() for line in guest.sh("tail -n +2 /proc/net/tcp; tail -n +2 /proc/net/tcp6").splitlines()]
    return [(row[3], row[2].partition(":")[0]) for row in rows]


def established(guest):
    return [remote for state, remote in connections(guest) if state == "01"]


HOLD = {"tiny": "nc {} {} >/dev/null", "base": "exec 3<>/dev/tcp/{}/{}", "debian": "exec 3<>/dev/tcp/{}/{}"}


def hold_open(guest, image, address, port):
    """A program in the guest that keeps a connection open."""
    shell = "sh" if image == "tiny" else "bash"
    guest.sh(f"sleep 1000 | {shell} -c '{HOLD[image].format(address, port)}; sleep 1000'", detach=1)


def test_identity(guest, vms, image):
    """Its connections to the outside are gone, those to itself and listeners aren't; another MAC, machine id and address; and when it
    gets those of before, its network works as before."""
    address, mac = vms[image]["ip"], guest.sh("cat /sys/class/net/eth0/address")
    hold_open(guest, image, INTERNET, 80)
    hold_open(guest, image, "127.0.0.1", 22)
    wait_for("both are open", lambda: OUTSIDE in established(guest) and "0100007F" in established(guest), 20)
    listeners = sorted(connection for connection in connections(guest) if connection[0] == "0A")
    guest.sh("touch /etc/machine-id; ip addr add 192.0.2.7/32 dev eth0")
    guest.ok("freeze", hold_ms=60000)
    answer = guest.identity(mac="02:fc:00:00:00:77", machine_id="0123456789abcdef" * 2)
    assert int(answer["closed"]) >= 1 and "open" not in answer, answer
    guest.ok("net", address="172.16.0.99", prefix=24, gateway="172.16.0.1", hostname="twin")
    guest.ok("thaw")
    assert OUTSIDE not in established(guest) and "0100007F" in established(guest)
    assert sorted(connection for connection in connections(guest) if connection[0] == "0A") == listeners
    assert guest.sh("cat /etc/machine-id; cat /sys/class/net/eth0/address; hostname") == (
        "0123456789abcdef" * 2 + "\n02:fc:00:00:00:77\ntwin")
    shown = guest.sh("ip -4 addr show dev eth0; ip route; ip route get 10.98.0.1")
    assert "inet 172.16.0.99/24" in shown and "192.0.2.7/32" in shown and address not in shown, shown
    assert "default via 172.16.0.1" in shown and "src 172.16.0.99" in shown, shown
    guest.identity(mac=mac)
    guest.ok("net", address=address, prefix=24, gateway="172.16.0.1", hostname=image)
    assert guest.sh(f"ip addr del 192.0.2.7/32 dev eth0; ping -c 2 -W 5 172.16.0.1 >/dev/null; echo $?; cat /sys/class/net/eth0/address") == f"0\n{mac}"


def test_other_random_numbers(guest, vms, image):
    """Nobody can see that they are other ones but by a second clone; here, that the kernel takes what it gets."""
    look = "head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n'"
    seen = set()
    for _ in range(2):
        guest.identity()
        assert guest.sh("ip -4 addr show dev eth0") == ""
        seen.add(guest.sh(look))
    guest.ok("net", address=vms[image]["ip"], prefix=24, gateway="172.16.0.1", hostname=image)
    assert len(seen) == 2 and all(len(text) == 64 for text in seen)
    assert "entropy" in guest.request("identity", entropy="00")["error"]


def test_hooks(guest):
    guest.sh("mkdir -p /etc/fcm/clone.d")
    for name, script in (("20-fails", "echo no; exit 3"), ("10-says", "env | grep ^FCM_ | sort; id -u"), ("30-hangs", "sleep 100")):
        guest.ok("file", path=f"/etc/fcm/clone.d/{name}", mode=755, raw=f"#!/bin/sh\n{script}\n".encode())
    assert guest.ok("freeze", hold_ms=60000)
    assert guest.request("hooks", **NAMES)["error"] == "hooks: the machine is frozen"
    guest.ok("thaw")
    answer, failed, said = guest.open([("op", "hooks"), ("timeout_ms", 10000), *NAMES.items()])
    assert answer["exit"] == "1" and failed == "20-fails: exit status 3\n30-hangs: not done within 10000 ms\n", (answer, failed, said)
    assert said.startswith("FCM_ID=aaaaaaaa\nFCM_IP=172.16.0.99\nFCM_NAME=twin\nFCM_OLD_ID=bbbbbbbb\n"), said
    guest.sh("rm /etc/fcm/clone.d/[0-9]0-*")
    answer, failed, _ = guest.open([("op", "hooks"), *NAMES.items()])
    assert (answer["exit"], failed) == ("0", "")
    assert "old_ip" in guest.request("hooks", id="a", name="b", ip="c", old_id="d", old_name="e")["error"]


KEYS = {"tiny": ("/etc/dropbear/dropbear_ed25519_host_key", "dropbearkey -t ed25519 -f {0}; dropbearkey -y -f {0}"),
        "base": ("/etc/ssh/ssh_host_ed25519_key", "ssh-keygen -q -t ed25519 -N '' -f {0}; cat {0}.pub")}
KEYS["debian"] = KEYS["base"]


def test_the_host_key_of_a_clone(host, vms, guest, image):
    """OpenSSH since 9.8 takes it by the image's hook, before, and dropbear, for each connection. Who is connected stays so."""
    def shown():
        return host.run("ssh-keyscan", "-T", "30", "-t", "ed25519", vms[image]["ip"], check=False).stdout.split()[2:3]
    path, make = KEYS[image]
    key = host.work / f"key-{image}"
    new = next(word for word in host.run("sh", "-c", make.format(key)).stdout.split() if word.startswith("AAAA"))
    old = wait_for("it shows one", shown, 60)
    hold_open(guest, image, "127.0.0.1", 22)
    wait_for("somebody is connected", lambda: "0100007F" in established(guest), 20)
    guest.ok("file", path=path, mode=600, raw=key.read_bytes())
    assert old != [new]
    answer, failed, said = guest.open([("op", "hooks"), *NAMES.items()])
    assert (answer.get("exit"), failed) == ("0", ""), (answer, failed, said)
    wait_for("it shows the new one", lambda: shown() == [new], 60)
    assert "0100007F" in established(guest)


def test_a_main_process(host, vms):
    """What it prints: nothing meanwhile, nothing lost, nothing twice; its namespaces make no difference."""
    guest = say_hello(host, vms["main"])
    assert guest.sh("echo $FCM_MAIN_PID; tr '\\0' ' ' </proc/1/cmdline").startswith("sh -c n=0")
    guest.ok("freeze", hold_ms=60000)
    begin = guest.uptime()
    assert is_frozen(guest)
    time.sleep(1.5)
    end = guest.uptime()
    guest.ok("thaw")
    time.sleep(1)
    guest.socket.close()
    host.start_daemon()

    def printed():
        lines = [line.split() for line in host.fcm("logs", "main").stdout.splitlines()]
        return [(int(line[0]), float(line[1])) for line in lines if len(line) == 2]
    lines = wait_for("the daemon has it all", lambda: (now := printed()) and now[-1][1] > end + 0.5 and now, 60)
    assert [n for n, _ in lines] == list(range(1, len(lines) + 1))
    expect_pause([up for _, up in lines], begin, end)


def test_adopted(host, vms):
    """The daemon finds them as it left them."""
    for name in vms:
        host.wait_state(name, "running")
        assert wait_for("its agent answers", lambda: host.fcm("exec", name, "echo", "well", check=False).stdout, 60) == "well\n"  # pylint: disable=cell-var-from-loop


def test_power_while_frozen(host, vms):
    host.stop_daemon()
    guest = say_hello(host, vms["tiny"])
    guest.ok("freeze", hold_ms=60000)
    guest.ok("power", intent="poweroff", grace_ms=3000)
    assert guest.event()["intent"] == "poweroff"
    guest.socket.close()
    host.start_daemon()
    assert host.wait_state("tiny", "stopped")["reason"] is None
