"""Published ports with real guests: who reaches them, from where, and whom the guest sees."""
import signal
import socket
import time

import pytest
from host import UPLINK, WORLD, wait_for

WHO = "#!/bin/sh\necho\necho $REMOTE_ADDR\n"
GATEWAY = "172.16.0.1"


@pytest.fixture(scope="module", autouse=True)
def machines(host):
    one = host.create("one", publish=["8080:80", "127.0.0.1:8081:80", f"{UPLINK}:8082:80", "8000-8002:80-82", "9000:9000/udp"])
    two = host.create("two")
    for vm in ("one", "two"):
        serve(host, vm)
    return one, two


def serve(host, vm):
    """A web server that says who asked, on three ports; nothing listens at UDP ports."""
    script = f"mkdir -p /srv/cgi-bin; printf '{WHO}' >/srv/cgi-bin/who; chmod +x /srv/cgi-bin/who; for p in 80 81 82; do httpd -p $p -h /srv; done"
    host.fcm("exec", vm, "sh", "-c", script.replace("\n", "\\n"))


def ask(where, address, port, timeout=3):
    """What the guest says of who asked, or "" when nobody answers. `where`: a namespace."""
    done = where.run("curl", "-s", "--max-time", str(timeout), f"http://{address}:{port}/cgi-bin/who", check=False)
    return done.stdout.strip().removeprefix("[::ffff:").rstrip("]")


def ask_in(host, vm, address, port):
    done = host.fcm("exec", vm, "sh", "-c", f"printf 'GET /cgi-bin/who HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {address} {port} | tail -1", check=False)
    return done.stdout.strip().removeprefix("[::ffff:").rstrip("]")


def refused_in(host):
    """Datagrams that came to ports of the guest at which nobody listens."""
    text = host.fcm("exec", "one", "cat", "/proc/net/snmp").stdout
    names, values = (line.split()[1:] for line in text.splitlines() if line.startswith("Udp:"))
    return int(values[names.index("NoPorts")])


def udp_arrives(host, where, address, port):
    before = refused_in(host)
    with where.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as s:
        s.sendto(b"x", (address, port))
    time.sleep(0.2)
    return refused_in(host) == before + 1


def test_from_outside(host):
    """The guest sees who asks."""
    for port in (8080, 8082, 8000, 8001, 8002):
        assert ask(host.world, UPLINK, port) == WORLD, port
    assert ask(host.world, UPLINK, 8081) == "", "127.0.0.1 only"
    assert ask(host.world, UPLINK, 8003) == ""


def test_from_the_host(host):
    assert ask(host.ns, UPLINK, 8080) == UPLINK
    assert ask(host.ns, GATEWAY, 8080) == GATEWAY
    for port in (8080, 8081, 8000):
        assert ask(host.ns, "127.0.0.1", port) == GATEWAY, port  # passed on by the daemon
    assert ask(host.ns, "127.0.0.1", 8082) == ""


def test_from_vms(host, machines):
    """Another VM keeps its address; the VM itself is seen as the host."""
    one, two = machines
    assert ask_in(host, "two", UPLINK, 8080) == two["ip"]
    assert ask_in(host, "two", GATEWAY, 8080) == two["ip"]
    assert ask_in(host, "one", UPLINK, 8080) == GATEWAY
    assert ask_in(host, "two", one["ip"], 80) == "", "VMs reach each other by published ports only"
    assert ask_in(host, "two", UPLINK, 8081) == ""


def test_udp(host):
    assert udp_arrives(host, host.world, UPLINK, 9000) and udp_arrives(host, host.ns, UPLINK, 9000)
    assert not udp_arrives(host, host.world, UPLINK, 9001)
    assert not udp_arrives(host, host.ns, "127.0.0.1", 9000), "as docs/API.md says"


def test_nobody_else_gets_the_port(host):
    for address in ("0.0.0.0", "127.0.0.1", UPLINK):
        with pytest.raises(OSError), host.ns.inside(lambda a=address: socket.create_server((a, 8080))):
            pass


def test_a_running_machine(host):
    """publish and unpublish act at once; unpublish cuts what came that way."""
    assert ask(host.world, UPLINK, 7000) == ""
    assert host.fcm("publish", "two", "7000:80").stdout == "80/tcp -> 0.0.0.0:7000\n"
    assert ask(host.world, UPLINK, 7000) == WORLD and ask(host.ns, "127.0.0.1", 7000) == GATEWAY
    flows = [host.world.connect((UPLINK, 7000)), host.ns.connect(("127.0.0.1", 7000))]
    time.sleep(0.5)
    assert host.fcm("unpublish", "two", "7000").stdout == ""
    assert ask(host.world, UPLINK, 7000, 1) == ask(host.ns, "127.0.0.1", 7000, 1) == ""
    flows[0].sendall(b"GET /cgi-bin/who HTTP/1.0\r\n\r\n")
    flows[0].settimeout(2)
    with pytest.raises(OSError):  # nothing comes, or a reset
        assert flows[0].recv(100) == b""
        raise ConnectionResetError
    assert flows[1].recv(100) == b""
    for flow in flows:
        flow.close()


def test_stop_and_start(host):
    """A stopped VM lets its ports go and keeps the wish."""
    host.fcm("publish", "two", "7100:80")
    host.fcm("stop", "two")
    with host.ns.inside(lambda: socket.create_server(("0.0.0.0", 7100))):
        done = host.fcm("start", "two", check=False)
        assert done.returncode == 4 and "port 7100/tcp of this host is taken by another program" in done.stderr
        assert host.vm("two")["state"] == "stopped"
    host.fcm("start", "two")
    serve(host, "two")
    assert ask(host.world, UPLINK, 7100) == WORLD
    host.fcm("unpublish", "two", "7100")


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_the_daemon_is_gone(host, sig):
    """Flows go on without it, and new ones begin, but for those by 127.0.0.1; the next one holds the ports again."""
    flow = host.world.connect((UPLINK, 8080))
    host.stop_daemon(sig)
    flow.sendall(b"GET /cgi-bin/who HTTP/1.0\r\n\r\n")
    flow.settimeout(5)
    assert WORLD.encode() in b"".join(iter(lambda: flow.recv(1000), b""))
    assert ask(host.world, UPLINK, 8080) == WORLD and ask(host.ns, "127.0.0.1", 8080, 1) == ""
    host.start_daemon()
    wait_for("they are held again", lambda: ask(host.ns, "127.0.0.1", 8080) == GATEWAY, 15)
    assert ask(host.world, UPLINK, 8080) == WORLD
    flow.close()


def test_the_rules_are_flushed(host):
    host.ns.run("nft", "flush", "ruleset")
    wait_for("they are back", lambda: ask(host.world, UPLINK, 8080, 1) == WORLD, 5)
    assert udp_arrives(host, host.world, UPLINK, 9000)


def test_many_at_a_time_by_loopback(host):
    """A thread each, up to a bound; the daemon answers meanwhile."""
    flows = [host.ns.connect(("127.0.0.1", 8080)) for _ in range(300)]
    time.sleep(1)
    assert host.api.get("/v1/vms", timeout=5).status == 200
    for flow in flows:
        flow.close()
    wait_for("it passes on again", lambda: ask(host.ns, "127.0.0.1", 8080) == GATEWAY, 15)


def test_destroyed(host, machines):
    host.api.delete("/v1/vms/one?force=1").ok()
    for port in (8080, 8081, 8000):
        with host.ns.inside(lambda p=port: socket.create_server(("0.0.0.0", p))):
            pass
    rules = host.ns.run("nft", "list", "table", "inet", "fcm").stdout
    assert machines[0]["ip"] not in rules
