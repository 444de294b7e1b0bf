"""fcm doctor: each finding is provoked in a host of its own, and where its fix is a command, that is run and mends it."""
import ctypes
import json
import re
import shutil
import socket
import subprocess

import pytest
from host import INTERNET, USER, WORLD, wait_for

HOST = {"fake": True}

NO_ROOT = {"remote", "vmm", "kvm", "versions", "programs", "port", "pool", "address", "dns", "forwarding", "rp_filter", "clock", "disk", "build",
           "caddy", "sites"}


def rows(host):
    return {check["name"]: check for check in host.api.get("/v1/doctor").ok()["checks"]}


def alone(host, *settings, **kwargs):
    """What fcmd --check finds with these settings: {name: (status, message, fix)}."""
    options = [word for setting in settings for word in ("--set", setting)]
    done = host.run("fcmd", "--check", *options, check=False, timeout=60, **kwargs)
    found = re.findall(r"^(ok|warn|fail) +(\w+) +(.*)(?:\n +fix: (.*))?$", done.stdout, re.M)
    assert done.returncode == (1 if any(row[0] == "fail" for row in found) else 0), done
    return {name: (status, message, fix) for status, name, message, fix in found}


def mends(host, name, status="warn"):
    """The row isn't well, and what it says to do helps."""
    row = rows(host)[name]
    assert row["status"] == status and row["fix"], row
    host.run("sh", "-ec", row["fix"].split("   (")[0].replace("sudo ", ""))
    assert rows(host)[name]["status"] == "ok", rows(host)[name]
    return row["message"]


@pytest.fixture
def iptables(host):
    yield lambda *words: host.run("iptables", *words)
    host.run("sh", "-c", "nft delete table ip filter; nft delete table ip6 filter", check=False)


def test_all_rows(host):
    found = rows(host)
    assert NO_ROOT < set(found) and all((row["fix"] == "") == (row["status"] == "ok") for row in found.values())
    well = {name for name, row in found.items() if row["status"] == "ok"}
    assert {"programs", "tun", "nft", "port", "pool", "dns", "forwarding", "rp_filter", "docker", "ufw", "firewalld", "forward", "disk", "assets",
            "sites", "versions"} <= well, found


def test_forwarding(host):
    host.run("sysctl", "-qw", "net.ipv4.conf.up0.forwarding=0")
    assert "up0" in mends(host, "forwarding", "fail")
    for value in "10":  # fcmd itself puts right what the switch of all of them did
        host.run("sysctl", "-qw", f"net.ipv4.ip_forward={value}")
    wait_for("forwarding to be on again", lambda: rows(host)["forwarding"]["status"] == "ok", 10)


def test_rp_filter(host):
    try:
        host.run("sh", "-ec", "ip link add up1 type veth peer name up1p; ip addr add 198.51.100.2/24 dev up1; ip link set up1 up; "
                 "ip link set up1p up; ip route add default via 198.51.100.1 metric 500; sysctl -qw net.ipv4.conf.all.rp_filter=0 "
                 "net.ipv4.conf.up0.rp_filter=1 net.ipv4.conf.up1.rp_filter=2")
        assert "2 interfaces" in mends(host, "rp_filter")
        host.run("sysctl", "-qw", "net.ipv4.conf.up0.rp_filter=0", "net.ipv4.conf.all.rp_filter=1")
        mends(host, "rp_filter")
    finally:
        host.run("sh", "-c", "ip link del up1; sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.up0.rp_filter=0")
    host.run("sysctl", "-qw", "net.ipv4.conf.up0.rp_filter=1")
    assert rows(host)["rp_filter"]["status"] == "ok"  # with one way out it drops nothing
    host.run("sysctl", "-qw", "net.ipv4.conf.up0.rp_filter=0")


def test_docker(host, iptables):
    """The chains that Docker makes."""
    iptables("-P", "FORWARD", "DROP")
    iptables("-N", "DOCKER-USER")
    iptables("-A", "FORWARD", "-j", "DOCKER-USER")
    assert rows(host)["forward"]["status"] == "ok"
    mends(host, "docker")


def test_a_policy_of_ones_own(host, iptables):
    iptables("-P", "FORWARD", "DROP")
    assert rows(host)["docker"]["status"] == "ok"
    mends(host, "forward")


def test_nftables(host):
    rules = "table inet mine {\n chain there {\n type filter hook forward priority 0\n policy drop\n }\n}\n"
    try:
        host.run("nft", "-f", "-", input=rules)
        assert "inet mine there" in mends(host, "forward")
    finally:
        host.run("nft", "delete", "table", "inet", "mine")


@pytest.mark.skipif(not shutil.which("ufw"), reason="no ufw on this machine")
def test_ufw(host, iptables):
    try:
        host.run("ufw", "--force", "enable")
        mends(host, "ufw")
    finally:
        host.run("sh", "-c", "ufw --force disable; sysctl -qw net.ipv4.conf.all.accept_redirects=1 net.ipv4.conf.default.accept_redirects=1")


@pytest.mark.skipif(not shutil.which("firewalld") or not shutil.which("dbus-daemon"), reason="no firewalld on this machine")
def test_firewalld(host):
    host.run("mkdir", "-p", "/run/dbus")
    bus = host.spawn(["dbus-daemon", "--system", "--nofork", "--nopidfile", "--nosyslog"], stderr=subprocess.DEVNULL)
    fire = None
    try:
        wait_for("the bus", lambda: host.run("test", "-S", "/run/dbus/system_bus_socket", check=False).returncode == 0)
        fire = host.spawn(["firewalld", "--nofork", "--nopid"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for("firewalld", lambda: host.run("firewall-cmd", "--state", check=False).returncode == 0)
        mends(host, "firewalld")
        assert rows(host)["forward"]["status"] == "ok"
    finally:
        for child in filter(None, (fire, bus)):
            child.terminate()
            child.wait(20)
        host.run("nft", "delete", "table", "inet", "firewalld", check=False)


def test_clock(host):
    libc = ctypes.CDLL(None)
    state = libc.adjtimex(ctypes.create_string_buffer(512))
    row = rows(host)["clock"]
    assert row["status"] == ("warn" if state == 5 else "ok"), (state, row)  # TIME_ERROR
    assert ("timedatectl" in row["fix"]) == (state == 5)


def test_versions(host):
    host.run("sh", "-ec", "cp /usr/local/sbin/fcmd /usr/local/sbin/new; mv /usr/local/sbin/new /usr/local/sbin/fcmd")
    row = rows(host)["versions"]
    assert row["status"] == "warn" and "restart fcmd" in row["fix"]
    host.restart_daemon()
    assert rows(host)["versions"]["status"] == "ok"
    done = host.run("setarch", "--uname-2.6", "fcmd", "--check", check=False)
    assert re.search(r"^warn +versions +Linux 2\.6\..*\n +fix: sudo apt-get install linux-image", done.stdout, re.M), done.stdout
    host.run("sh", "-c", "printf '#!/bin/sh\\necho QEMU emulator version 6.2.0\\n' >/root/old; chmod 755 /root/old")
    status, message, fix = alone(host, "qemu=/root/old", "vmm=qemu")["versions"]
    assert status == "warn" and "qemu 6.2.0" in message and "apt-get install qemu" in fix


@pytest.mark.parametrize("settings, name, status, words", [
    (["pool=203.0.113.0/24", "gateway=203.0.113.1"], "pool", "fail", "pool = "),
    (["shim=/nope"], "programs", "fail", "shim = "), (["oci=/nope"], "programs", "fail", "oci = "),
    (["qemu=/nope", "vmm=qemu"], "vmm", "fail", "apt-get install qemu"), (["disk_reserve_mib=16777216"], "disk", "fail", "fcm destroy"),
    (["state_dir=/nope"], "disk", "fail", "install -d"), (["defaults.kernel=nope"], "assets", "fail", "fcm image build kernel"),
    (["defaults.image=ghcr.io/a/b"], "assets", "fail", "fcm pull ghcr.io/a/b"),
    (["defaults.image=debian"], "assets", "fail", "fcm image build debian"), (["caddyfile=/nope"], "caddy", "warn", "touch /nope")])
def test_settings(host, settings, name, status, words):
    found = alone(host, *settings)[name]
    assert found[0] == status and words in found[2], found


def test_resolvers(host):
    host.run("sh", "-c", "cp /etc/resolv.conf /root/; echo nameserver 127.0.0.53 >/etc/resolv.conf")
    try:
        assert alone(host)["dns"][0] == "warn"
        assert alone(host, f"dns={WORLD}")["dns"][0] == "ok"
    finally:
        host.run("cp", "/root/resolv.conf", "/etc/resolv.conf")


@pytest.mark.parametrize("port, name, status", [(80, "sites", "warn"), (7778, "port", "fail")])
def test_ports(host, port, name, status):
    taken = host.ns.inside(lambda: socket.create_server(("127.0.0.1", port)))
    with taken:
        found = alone(host, "listen=127.0.0.1:7778")[name]
        assert found[0] == status and "python" in found[1] and found[2], found


def test_devices(host):
    host.run("mount", "--bind", "/dev/null", "/dev/net/tun")
    try:
        assert alone(host)["tun"][0] == "ok"  # it opens
        host.run("umount", "/dev/net/tun")
        host.run("mount", "-t", "tmpfs", "none", "/dev/net")
        assert alone(host)["tun"] == ("fail", "/dev/net/tun: No such file or directory", "sudo modprobe tun")
    finally:
        host.run("umount", "/dev/net")


def test_without_root(host):
    found = alone(host, user=USER)
    assert set(found) == NO_ROOT and found["programs"][0] == "ok"
    assert "9 more checks need root" in host.run("fcmd", "--check", user=USER, check=False).stderr


def test_json(host):
    everything = json.loads(host.run("fcmd", "--check=json").stdout)
    assert {row["name"] for row in everything} == set(rows(host)) and set(everything[0]) == {"name", "status", "message", "fix"}
    assert host.run("fcmd", "--check=xml", check=False).returncode == 2


def test_client(host):
    done = host.fcm("doctor", check=False)
    assert [line.split()[1] for line in done.stdout.splitlines() if line[0] != " "] == list(rows(host))
    assert done.returncode == (1 if any(row["status"] == "fail" for row in rows(host).values()) else 0)


def test_client_without_a_daemon(host):
    """It says so first, and goes on by itself."""
    host.stop_daemon()
    try:
        done = host.fcm("doctor", check=False)
        first, second = done.stdout.splitlines()[:2]
        assert done.returncode == 1 and re.match("fail +daemon +no daemon at", first) and "systemctl start fcmd" in second
        names = [line.split()[1] for line in done.stdout.splitlines() if line[0] != " "]
        assert len(names) == 26 and {"docker", "nft"} < set(names)
        user = host.fcm("doctor", "--json", user=USER, check=False)
        found = json.loads(user.stdout)
        assert user.returncode == 1 and {row["name"] for row in found} == NO_ROOT | {"daemon"} and found[0]["fix"]
        elsewhere = host.fcm("doctor", check=False, env={"FCM_URL": f"https://{INTERNET}", "FCM_TOKEN": "x"})
        assert elsewhere.returncode == 6 and elsewhere.stdout == ""
    finally:
        host.start_daemon()
