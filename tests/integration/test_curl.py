"""The same life with curl alone, as a script would live it, and plain ssh to the address."""
import json

import pytest

URL = "http://127.0.0.1:7777"


@pytest.fixture(scope="module")
def curl(host):
    def call(method, path, body=None, *options):
        argv = ["curl", "-sS", "--max-time", "120", "-X", method, "-H", f"Authorization: Bearer {host.api.token}"]
        if body is not None:
            argv += ["-H", "Content-Type: application/json", "--data-binary", json.dumps(body)]
        return host.run(*argv, *options, URL + path).stdout

    return call


@pytest.fixture(scope="module")
def ssh(host):
    """Plain ssh with a key and a known_hosts of our own."""
    host.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/key")

    def call(vm, command):
        known = f"{vm['ip']} {vm['host_key']}\n"
        host.run("sh", "-c", "cat >/root/known", input=known)
        return host.run("ssh", "-q", "-i", "/root/key", "-o", "UserKnownHostsFile=/root/known", "-o",
                        "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", f"root@{vm['ip']}", command).stdout

    return call


def test_life(host, curl, ssh):
    key = host.run("cat", "/root/key.pub").stdout.strip()
    vm = json.loads(curl("POST", "/v1/vms", {"name": "web", "image": "tiny", "ssh_keys": [key], "env": {"A": "b"}}))
    assert vm["name"] == "web" and vm["state"] == "running" and vm["took_ms"] > 0
    assert vm["env"] == {"A": "***"}
    assert json.loads(curl("GET", "/v1/vms/web?show=env"))["env"] == {"A": "b"}
    assert [v["id"] for v in json.loads(curl("GET", "/v1/vms"))["vms"]] == [vm["id"]]
    assert json.loads(curl("GET", f"/v1/vms/{vm['id'][:4]}"))["name"] == "web"

    assert ssh(vm, "cat /proc/sys/kernel/random/boot_id").strip() == vm["boot_id"]
    host.boot_ids.append(("web", vm["boot_id"]))
    ssh(vm, "echo kept >/root/data; sync")

    stopped = json.loads(curl("POST", "/v1/vms/web/stop", {"time": 10}))
    assert stopped["state"] == "stopped" and stopped["changed"] and not stopped["forced"]
    assert json.loads(curl("POST", "/v1/vms/web/stop"))["changed"] is False
    started = json.loads(curl("POST", "/v1/vms/web/start"))
    assert started["state"] == "running" and started["changed"] and started["ip"] == vm["ip"]
    assert started["boot_id"] != vm["boot_id"] and started["host_key"] == vm["host_key"]
    assert ssh(started, "cat /root/data") == "kept\n"
    assert json.loads(curl("POST", "/v1/vms/web/start"))["changed"] is False

    gone = json.loads(curl("DELETE", "/v1/vms/web"))
    assert gone["name"] == "web" and gone["left"] == [] and gone["removed"]["tap"] == f"tap_{vm['id']}"
    assert json.loads(curl("DELETE", "/v1/vms/web"))["error"]["code"] == "not_found"


def test_progress_is_a_line_each(curl):
    lines = [json.loads(line) for line in curl("POST", "/v1/vms", {"name": "slow", "image": "tiny"},
                                               "-H", "Accept: application/x-ndjson").splitlines()]
    assert lines[-1]["result"]["name"] == "slow"
    steps = [line for line in lines if line.get("event") == "step"]
    assert {line["status"] for line in steps} == {"begin", "done"}
    curl("DELETE", "/v1/vms/slow?force=1")


def test_logs_are_the_console(curl):
    curl("POST", "/v1/vms", {"name": "talks", "image": "tiny"})
    assert "Linux" in curl("GET", "/v1/vms/talks/logs") or curl("GET", "/v1/vms/talks/logs")
    assert len(curl("GET", "/v1/vms/talks/logs?tail=2").splitlines()) <= 2
    curl("DELETE", "/v1/vms/talks?force=1")


def test_tunnel_is_raw_bytes_after_101(host, api):
    vm = host.create("tunnelled")
    with api.connect(tcp=False, timeout=20) as sock:
        sock.sendall((f"GET /v1/vms/{vm['id']}/tunnel?port=22 HTTP/1.1\r\nHost: localhost\r\n"
                      f"Authorization: Bearer {api.token}\r\nConnection: Upgrade\r\nUpgrade: fcm-tunnel\r\n\r\n").encode())
        answer = b""
        while b"\r\n\r\n" not in answer or not answer.split(b"\r\n\r\n", 1)[1]:
            chunk = sock.recv(4096)
            assert chunk, answer
            answer += chunk
    head, body = answer.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 101") and body.startswith(b"SSH-2.0-")
    api.seen.add(("GET /v1/vms/{vm}/tunnel", 101, ""))
    api.delete("/v1/vms/tunnelled?force=1").ok()


def test_wait(host, api):
    host.create("waits")
    assert api.get("/v1/vms/waits/wait?state=running&timeout=5").ok()["state"] == "running"
    late = api.get("/v1/vms/waits/wait?state=stopped&timeout=1")
    assert (late.status, late.code) == (504, "timeout")
    api.post("/v1/vms/waits/kill").ok()
    assert api.get("/v1/vms/waits/wait?state=stopped&timeout=5").ok()["state"] == "stopped"
    api.delete("/v1/vms/waits").ok()
