"""What a VM reaches and what it doesn't. Each "doesn't" is first shown to work with our table taken away."""
import signal
import socket
import sys

import pytest
from host import INTERNET, METADATA, UPLINK, WORLD, wait_for

GATEWAY = "172.16.0.1"
LISTENER = """
import socket, sys
for address in sys.argv[1:]:
    host, port = address.rsplit(":", 1)
    s = socket.create_server((host, int(port)))
    import threading
    def serve(s=s):
        while True:
            c, _ = s.accept()
            c.sendall(b"hello\\n")
            c.close()
    threading.Thread(target=serve).start()
"""

# What a VM must not reach: (what, address, port)
CLOSED = [
    ("the daemon's port at the gateway", GATEWAY, 7777),
    ("the daemon's port at the public address", UPLINK, 7777),
    ("a service of the host at the gateway", GATEWAY, 9999),
    ("a service of the host at the public address", UPLINK, 9999),
    ("the host's port 443 while there is no site", UPLINK, 443),
    ("the cloud's metadata", METADATA, 80),
    ("another VM", "172.16.0.51", 22),
]


@pytest.fixture(scope="module", autouse=True)
def machines(host):
    host.add_user_token()
    one, two = host.create("one"), host.create("two")
    assert (one["ip"], two["ip"]) == ("172.16.0.50", "172.16.0.51")
    host.boot_id("one"), host.boot_id("two")  # pylint: disable=expression-not-assigned
    addresses = [f"{a}:{p}" for a in (GATEWAY, UPLINK) for p in (7777, 9999)] + [f"{UPLINK}:443"]
    host.spawn([sys.executable, "-c", LISTENER, *addresses])
    wait_for("the host's services", lambda: host.ns.connect((UPLINK, 9999), 1).close() is None, 5)
    host.world.run("ip", "route", "add", "172.16.0.0/24", "via", UPLINK)
    return one, two


def reaches(host, address, port, vm="one"):
    """Does a TCP connection from the guest get an answer?"""
    return bool(fetch(host, address, port, vm))


def fetch(host, address, port, vm="one"):
    """What the guest hears there when it asks as a web browser would."""
    return host.ssh(vm, f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 3 nc -w 2 {address} {port} 2>/dev/null; true").strip()


class Unguarded:
    """Our table and the TAPs' reverse-path filter are away while the daemon, stopped, can't repair them."""

    def __init__(self, host):
        self.host = host
        self.taps = [f"tap_{vm['id']}" for vm in host.api.get("/v1/vms").ok()["vms"]]

    def __enter__(self):
        self.host.daemon.send_signal(signal.SIGSTOP)
        self.host.run("nft", "delete", "table", "inet", "fcm")
        self.filter(0)

    def filter(self, value):
        for name in ["all", *self.taps]:
            self.host.run("sysctl", "-qw", f"net.ipv4.conf.{name}.rp_filter={value}")

    def __exit__(self, *_):
        self.filter(1)
        self.host.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0")
        self.host.daemon.send_signal(signal.SIGCONT)
        wait_for("our table is back", lambda: self.host.run("nft", "list", "table", "inet", "fcm", check=False)
                 .returncode == 0, 5)


@pytest.fixture(scope="module")
def control(host, machines):
    """Which of the closed doors are open without our table. ssh goes straight to the guest: the daemon is stopped."""
    open_doors = {}
    vm = machines[0]
    host.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/key")
    host.api.put("/v1/vms/one/ssh-keys", {"keys": [host.run("cat", "/root/key.pub").stdout.strip()]}).ok()
    host.run("sh", "-c", "cat >/root/known", input=f"{vm['ip']} {vm['host_key']}\n")

    def direct(_, command, **__):
        return host.run("ssh", "-q", "-i", "/root/key", "-o", "UserKnownHostsFile=/root/known", "-o", "BatchMode=yes",
                        f"root@{vm['ip']}", command).stdout

    through_fcm = host.ssh
    with Unguarded(host):
        host.ssh = direct
        try:
            for what, address, port in CLOSED:
                open_doors[what] = reaches(host, address, port)
            open_doors["spoof"] = spoofed_packet_arrives(host)
        finally:
            host.ssh = through_fcm
    return open_doors


def spoofed_packet_arrives(host):
    """Send a ping with another VM's address as its source; does the world see one of its size?"""
    with host.world.inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))) as sniffer:
        sniffer.bind(("eth0", 0x0800))
        sniffer.settimeout(3)
        host.ssh("one", "ip addr add 172.16.0.51/32 dev eth0 2>/dev/null; "
                        f"ping -c 2 -W 1 -s 777 -I 172.16.0.51 {WORLD} >/dev/null 2>&1; "
                        "ip addr del 172.16.0.51/32 dev eth0; true")
        try:
            while True:
                packet = sniffer.recv(2048)
                if len(packet) == 777 + 28 and packet[9] == 1:
                    return True
        except TimeoutError:
            return False


@pytest.mark.parametrize("what, address, port", CLOSED, ids=[c[0].replace(" ", "-") for c in CLOSED])
def test_closed(host, control, what, address, port):
    assert control[what], "the positive control failed: the door is closed by something else"
    assert not reaches(host, address, port)


def test_spoofed_source(host, control):
    assert control["spoof"], "the positive control failed"
    assert not spoofed_packet_arrives(host)


def test_internet(host):
    assert reaches(host, INTERNET, 80)
    assert fetch(host, INTERNET, 80).endswith(f"hello {UPLINK}"), "not behind the host's address"


def test_host_reaches_the_vm(host, machines):
    with host.ns.connect((machines[1]["ip"], 22), 5) as sock:
        assert sock.recv(4) == b"SSH-"


def test_world_does_not_reach_the_vm(host, machines):
    with pytest.raises(OSError):
        host.world.connect((machines[0]["ip"], 22), 2)


def test_a_foreign_flush_is_repaired(host, control):
    host.run("nft", "flush", "ruleset")
    wait_for("our table is back", lambda: host.run("nft", "list", "table", "inet", "fcm", check=False).returncode == 0, 2, 0.01)
    what, address, port = CLOSED[-1]
    assert control[what] and not reaches(host, address, port)
    assert reaches(host, INTERNET, 80)


def test_a_deleted_tap_is_rebuilt_or_said(host, machines):
    """The VMM holds the device itself, so deleting it needs the daemon to notice and to say so."""
    host.run("ip", "link", "set", f"tap_{machines[1]['id']}", "down")
    wait_for("the TAP is up again", lambda: "UP" in host.run("ip", "-o", "link", "show", f"tap_{machines[1]['id']}").stdout, 5)


def test_pool_overlap_is_refused(host):
    """A second daemon whose pool overlaps the uplink changes nothing and names a free network."""
    before = host.residue()
    host.run("sh", "-c", f"mkdir -p /var/overlap; printf 'pool = {WORLD.rsplit('.', 1)[0]}.0/24\\nlisten = 127.0.0.1:7999\\n"
             "socket = /var/overlap/sock\\nstate_dir = /var/overlap/s\\nrun_dir = /var/overlap/r\\n' >/etc/fcm/overlap.conf")
    done = host.run("fcmd", "--config", "/etc/fcm/overlap.conf", check=False, timeout=20)
    assert done.returncode != 0 and "overlap" in done.stderr and "/24" in done.stderr
    host.run("rm", "-rf", "/etc/fcm/overlap.conf", "/var/overlap")
    assert host.residue() == before
