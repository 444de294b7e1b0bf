"""Published ports against the scripted VMM: what is taken, refused, shown and kept."""
import json
import socket

import pytest
from host import wait_for

HOST = {"fake": True}


@pytest.fixture(autouse=True)
def nobody(host):
    yield
    host.destroy_all()


def create(api, *ports, name="web", **spec):
    return api.post("/v1/vms", {"name": name, "image": "tiny", "publish": list(ports), **spec})


def listening(host):
    """(protocol, "address:port") of fcmd's sockets at the host's ports, but for the API's."""
    lines = host.ns.run("ss", "-Hlntup").stdout.splitlines()
    fields = [line.split() for line in lines if "fcmd" in line]
    return {(f[0], f[4]) for f in fields} - {("tcp", "127.0.0.1:7777")}


def rules(host):
    return [line.strip() for line in host.ns.run("nft", "list", "table", "inet", "fcm").stdout.splitlines() if "172.16.0.5" in line]


@pytest.mark.parametrize("ports, wire", [
    (["8080:80"], ["0.0.0.0:8080:80/tcp"]), (["127.0.0.1:53:53/udp"], ["127.0.0.1:53:53/udp"]),
    (["8000-8002:80-82"], [f"0.0.0.0:{8000 + i}:{80 + i}/tcp" for i in range(3)]),
    (["8080:80", "8080:80/udp"], ["0.0.0.0:8080:80/tcp", "0.0.0.0:8080:80/udp"]), ([], []),
    (["203.0.113.10:9000:90", "127.0.0.1:9000:91"], ["203.0.113.10:9000:90/tcp", "127.0.0.1:9000:91/tcp"])])
def test_taken(host, api, ports, wire):
    vm = create(api, *ports).ok(201)
    assert vm["publish"] == wire == host.vm("web")["publish"]
    assert listening(host) == {("udp" if w.endswith("udp") else "tcp", w.rsplit(":", 1)[0]) for w in wire}
    host.restart_daemon()
    assert host.vm("web")["publish"] == wire
    api.post("/v1/vms/web/kill").ok()
    assert listening(host) == set() and rules(host) == [] and host.vm("web")["publish"] == wire


@pytest.mark.parametrize("port", ["80", ":80", "127.0.0.1::80", "0:80/udp"])
def test_a_free_port(host, api, port):
    """The host chooses; the choice stays."""
    vm = create(api, port).ok(201)
    address, chosen, _ = vm["publish"][0].split(":")
    assert int(chosen) > 1024 and {x for _, x in listening(host)} == {f"{address}:{chosen}"}
    api.post("/v1/vms/web/restart").ok()
    assert host.vm("web")["publish"] == vm["publish"]


@pytest.mark.parametrize("ports, word", [
    (["http"], "number"), (["0"], "number"), (["65536"], "number"), (["8080:0"], "number"), (["70000:80"], "number"), (["-1:80"], "number"),
    (["8080:80/sctp"], "/udp"), (["8080:80/"], "/udp"), (["a.b:8080:80"], "IPv4"), (["::1:8080:80"], "IPv4"), (["1:2:3:4"], "IPv4"), ([""], "number"),
    (["8000-8002:80-81"], "length"), (["8002-8000:80-82"], "number"), (["1-100:1-100"], "64"), (["x" * 100], "long"),
    (["8080:80", "127.0.0.1:8080:81"], "already"), (["8000-8001:80-81", "8001:90"], "already"), (["203.0.113.99:8080:80"], "no address of this host")])
def test_refused(host, api, ports, word):
    answer = create(api, *ports)
    assert answer.status == 400 and answer.error["field"] == "publish" and word in answer.error["message"], answer
    assert api.get("/v1/vms").ok()["vms"] == [] and listening(host) == set()


@pytest.mark.parametrize("port, owner", [("22:22", "ssh"), ("80:80", "fcm expose"), ("443:1", "fcm expose"), ("7777:80", "API")])
def test_reserved(host, api, port, owner):
    answer = create(api, port)
    assert (answer.status, answer.code, answer.error["field"]) == (409, "port_taken", "publish") and owner in answer.error["message"]
    assert answer.error["step"] == "publish" and api.get("/v1/vms").ok()["vms"] == [] and listening(host) == set()


def test_taken_by_others(host, api):
    create(api, "8080:80", name="first").ok(201)
    for port in ("8080:81", "127.0.0.1:8080:80", "9000:1", "8000-8100:8000-8100"):
        with host.ns.inside(lambda: socket.create_server(("127.0.0.1", 9000))):
            answer = create(api, port)
        if port.startswith("8000"):
            assert answer.status == 400
            continue
        owner = "another program" if port == "9000:1" else "VM 'first'"
        assert answer.code == "port_taken" and owner in answer.error["message"], answer
        assert ("ss -lnpt" in answer.error["hint"]) == (port == "9000:1")
    create(api, "8080:80/udp", name="other").ok(201)
    assert listening(host) == {("tcp", "0.0.0.0:8080"), ("udp", "0.0.0.0:8080")}


def test_all_or_nothing(host, api):
    """One port of several is taken: none is."""
    create(api, "8081:80", name="first").ok(201)
    before = listening(host), rules(host)
    assert create(api, "8079-8081:80-82").status == 409
    assert api.post("/v1/vms/first/publish", {"publish": ["9000:1", "22:22"]}).code == "port_taken"
    assert (listening(host), rules(host)) == before and host.vm("first")["publish"] == ["0.0.0.0:8081:80/tcp"]


def test_changing(host, api):
    create(api, "8080:80").ok(201)
    vm = api.post("/v1/vms/web/publish", {"publish": ["9000:90", "127.0.0.1:53:53/udp"]}).ok()
    assert vm["publish"] == ["0.0.0.0:8080:80/tcp", "0.0.0.0:9000:90/tcp", "127.0.0.1:53:53/udp"] and vm["changed"]
    assert len(listening(host)) == 3
    assert api.post("/v1/vms/web/unpublish", {"publish": ["8080", "127.0.0.1:53/udp"]}).ok()["publish"] == ["0.0.0.0:9000:90/tcp"]
    assert listening(host) == {("tcp", "0.0.0.0:9000")}
    for port, code in (("8080", "not_found"), ("9000/udp", "not_found"), ("9000:91", "not_found"), ("127.0.0.1:9000", "not_found"), ("x", "invalid"),
                       ("1-2", "invalid"), ("", "invalid")):
        answer = api.post("/v1/vms/web/unpublish", {"publish": [port]})
        assert (answer.code, answer.error["field"]) == (code, "publish"), answer
    assert api.post("/v1/vms/web/publish", {"publish": ["9000:1"]}).status == 400
    host.restart_daemon()
    assert host.vm("web")["publish"] == ["0.0.0.0:9000:90/tcp"]
    assert listening(host) == {("tcp", "0.0.0.0:9000")}, "nobody else is served before it is held again"
    assert api.post("/v1/vms/web/unpublish", {"publish": ["0.0.0.0:9000:90/tcp"]}).ok()["publish"] == []


def test_a_stopped_one(host, api):
    """Only the wish changes; a port that is taken is found out at the start."""
    create(api).ok(201)
    api.post("/v1/vms/web/kill").ok()
    create(api, "8080:80", name="first").ok(201)
    assert api.post("/v1/vms/web/publish", {"publish": ["8080:80"]}).ok()["publish"] == ["0.0.0.0:8080:80/tcp"]
    answer = api.post("/v1/vms/web/start")
    assert answer.code == "port_taken" and "VM 'first'" in answer.error["message"] and host.vm("web")["state"] == "stopped"
    api.delete("/v1/vms/first?force=1").ok()
    api.post("/v1/vms/web/start").ok()
    assert listening(host) == {("tcp", "0.0.0.0:8080")}


def test_the_plan(host):
    plan = host.fcm("create", "--dry-run", "-p", "8080:80", "-p", "203.0.113.10:53:53/udp").stdout
    assert "hold TCP port 8080 of 0.0.0.0" in plan and "pub_any { tcp . 8080 : 172.16.0.50 . 80 }" in plan
    assert "pub_at { 203.0.113.10 . udp . 53 : 172.16.0.50 . 53 }" in plan and listening(host) == set()


def test_what_is_shown(host, api):
    host.fcm("create", "--name", "web", "--image", "tiny", "-p", "8080:80", "-p", "127.0.0.1:53:53/udp")
    assert host.fcm("port", "web").stdout == "80/tcp -> 0.0.0.0:8080\n53/udp -> 127.0.0.1:53\n"
    assert host.fcm("port", "web", "80").stdout == "0.0.0.0:8080\n" and json.loads(host.fcm("port", "web", "53/udp", "--json").stdout) == ["127.0.0.1:53"]
    other = host.fcm("port", "web", "53", check=False)
    assert (other.returncode, other.stderr) == (3, "fcm: 'web' doesn't publish its port 53/tcp\n     fcm publish web 53\n")
    assert "0.0.0.0:8080->80/tcp, 127.0.0.1:53->53/udp" in host.fcm("ls").stdout
    assert host.fcm("publish", "web", "8081:81").stdout.splitlines()[-1] == "81/tcp -> 0.0.0.0:8081"
    host.fcm("unpublish", "web", "8080", "8081", "53/udp")
    assert host.fcm("port", "web").stdout == "" and "PORTS" not in host.fcm("ls").stdout
    done = host.fcm("publish", "web", "22:22", check=False)
    assert done.returncode == 4 and done.stderr.startswith("fcm: port 22/tcp of this host is taken by this host's own ssh")


def test_a_crash(host, api):
    """The restart policy takes the ports again."""
    create(api, "8080:80", restart="always").ok(201)
    host.run("kill", "-9", str(host.vm("web")["vmm_pid"]))
    host.wait_state("web", "failed", 5)
    host.wait_state("web", "running", 20)
    assert listening(host) == {("tcp", "0.0.0.0:8080")}


def test_somebody_took_it_meanwhile(host, api):
    """While no daemon ran: the VM runs on, and says so."""
    create(api, "8080:80").ok(201)
    host.stop_daemon()
    with host.ns.inside(lambda: socket.create_server(("127.0.0.1", 8080))):
        host.start_daemon()
        reason = wait_for("it says so", lambda: host.vm("web")["reason"], 10)
        assert host.vm("web")["state"] == "running" and reason["code"] == "port_taken" and "another program" in reason["message"], reason
    api.post("/v1/vms/web/restart").ok()
    assert host.vm("web")["reason"] is None and listening(host) == {("tcp", "0.0.0.0:8080")}
