"""Every row of common/core/errors.def, provoked through the shipped fcmd and fcm, and what the user then reads, word for word.

    pytest tests/integration/test_errors.py --update        writes tests/integration/golden/errors anew: read the diff
"""
import concurrent.futures
import contextlib
import os
import re
import signal
import time
from pathlib import Path

import pytest
from host import TOP, USER, wait_for
from oci import change, docker_archive

HOST = {"fake": True, "config": "header_seconds = 2\nboot_seconds = 20\n"}
ROWS = {wire: (int(status), int(exit_status)) for wire, status, exit_status in re.findall(
    r'^X\(\w+,\s*"(\w+)",\s*(\d+), (\d+),', (TOP / "common/core/errors.def").read_text(), re.M)}
HUNT = {}  # wire code -> the function that provokes it
GOLDEN = Path(__file__).parent / "golden/errors"
TCP = "http://127.0.0.1:7777"


def provokes(code):
    def note(function):
        HUNT[code] = function
        return function
    return note


@pytest.fixture(autouse=True)
def nobody(host):
    yield
    host.destroy_all()


# ---- what somebody reads ----

def constant(text):
    """Without what differs from run to run: ids of requests and VMs, and what this machine has."""
    text = re.sub(r"\b[0-9a-f]{12}\b", "REQUEST", text)
    text = re.sub(r"\([a-z0-9]{8}, (?=running|stopped)", "(ID, ", text)
    text = re.sub(r"\d+ MiB are free", "N MiB are free", text)
    return re.sub(r"of the \d+ MiB", "of the N MiB", text)


def said(done, code, status=None):
    """The client's two lines, and its exit status, which must be the row's, unless the command has one of its own."""
    assert done.returncode == (status or ROWS[code][1]), done
    return f"$ {' '.join(done.args[done.args.index('fcm'):]) if 'fcm' in done.args else 'fcmd'}\n{done.stderr}"


def answered(answer, code):
    """The error object, whose code and status must be the row's."""
    assert (answer.status, answer.code) == (ROWS[code][0], code), answer
    return f"HTTP {answer.status} {code}: {answer.error['message']}\n     {answer.error.get('hint', '-')}\n"


def fcm(host, *argv, **kwargs):
    return host.fcm(*argv, check=False, **kwargs)


@contextlib.contextmanager
def daemon_with(host, *argv, env=None):
    """Another daemon in its place."""
    try:
        host.restart_daemon(argv=("fcmd", *argv), env=env)
        yield
    finally:
        host.restart_daemon()


# ---- what is wrong with the request ----

@provokes("invalid")
def _(host, code):
    yield answered(host.api.post("/v1/vms", {"cpus": 99}), code)
    yield said(fcm(host, "create", "--name", "Web!", "tiny"), code)


@provokes("unknown_field")
def _(host, code):
    yield answered(host.api.post("/v1/vms", {"cpu": 2}), code)
    yield said(fcm(host, "api", "POST", "/v1/vms", "-d", '{"memroy": 512}'), code)


@provokes("bad_json")
def _(host, code):
    yield answered(host.api.post("/v1/vms", b"{", headers={"Content-Type": "application/json"}), code)
    yield said(fcm(host, "api", "POST", "/v1/vms", "-d", '{"cpus": 1, "cpus": 2}'), code)


@provokes("bad_request")
def _(host, code):
    yield answered(host.api.get("/v1/vms/%zz"), code)
    yield said(fcm(host, "api", "GET", "/v1/vms?state=running&state=%zz"), code)


@provokes("no_route")
def _(host, code):
    yield answered(host.api.get("/v1/nothing"), code)
    yield said(fcm(host, "api", "GET", "/v2"), code)


@provokes("method_not_allowed")
def _(host, code):
    yield answered(host.api.put("/v1/vms"), code)
    yield said(fcm(host, "api", "PUT", "/v1/vms/web"), code)


@provokes("request_timeout")
def _(host, code):
    head, _, body = host.api.raw(b"GET /v1 HTTP/1.1\r\nHost: localhost\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    yield body.decode()


@provokes("too_large")
def _(host, code):
    yield answered(host.api.get("/v1", headers={"Content-Length": "5"}), code)
    large = host.work / "large.json"
    large.write_text('{"name": "' + "x" * 70000 + '"}')
    yield said(fcm(host, "api", "POST", "/v1/vms", "-d", f"@{large}"), code).replace(str(large), "large.json")


@provokes("uri_too_long")
def _(host, code):
    yield answered(host.api.get("/v1/vms?name=" + "x" * 9000), code)
    yield said(fcm(host, "api", "GET", "/v1/vms?name=" + "x" * 9000), code).replace("x" * 9000, "xxx...")


@provokes("headers_too_large")
def _(host, code):
    yield answered(host.api.get("/v1", headers={"X": "x" * 17000}), code)


@provokes("unsupported_media_type")
def _(host, code):
    yield answered(host.api.post("/v1/vms", b"{}", headers={"Content-Type": "text/plain"}), code)


@provokes("idempotency_key_reused")
def _(host, code):
    key = {"Idempotency-Key": "once"}
    host.api.post("/v1/volumes", {"name": "a"}, headers=key).ok()
    yield answered(host.api.post("/v1/volumes", {"name": "b"}, headers=key), code)
    host.api.delete("/v1/volumes/a").ok()


# ---- who may ----

@provokes("misdirected")
def _(host, code):
    yield answered(host.api.get("/v1", tcp=True, headers={"Host": "evil.example"}), code)


@provokes("unauthorized")
def _(host, code):
    yield answered(host.api.get("/v1", tcp=True, token=None), code)
    yield said(fcm(host, "ls", user=USER, env={"FCM_TOKEN": "fcm_wrong", "FCM_URL": TCP}), code)
    time.sleep(1.1)  # for the throttle to forget it


@provokes("throttled")
def _(host, code):
    for _ in range(10):
        host.api.get("/v1", tcp=True, token="fcm_wrong")
    yield answered(host.api.get("/v1", tcp=True, token="fcm_wrong"), code)
    yield said(fcm(host, "ls", user=USER, env={"FCM_TOKEN": "fcm_wrong", "FCM_URL": TCP}), code)
    time.sleep(1.1)


@provokes("forbidden")
def _(host, code):
    yield answered(host.api.get("/v1", headers={"Origin": "https://evil.example"}), code)
    yield said(fcm(host, "token", "create", "--for", "root", user=USER), code)


@provokes("no_token")
def _(host, code):
    yield said(fcm(host, "ls", user=USER, env={"FCM_URL": TCP}), code)


@provokes("no_daemon")
def _(host, code):
    yield said(fcm(host, "--url", "http://127.0.0.1:1", "ls"), code)


@provokes("usage")
def _(host, code):
    yield said(fcm(host, "craete"), code)


# ---- what isn't there, is there already, or is otherwise ----

@provokes("not_found")
def _(host, code):
    yield answered(host.api.get("/v1/vms/nosuch"), code)
    yield said(fcm(host, "inspect", "nosuch"), code)


@provokes("no_image")
def _(host, code):
    yield answered(host.api.post("/v1/vms", {"image": "nosuch"}), code)
    yield said(fcm(host, "create", "--pull", "never", "nosuch"), code)


@provokes("no_kernel")
def _(host, code):
    yield answered(host.api.post("/v1/vms", {"image": "tiny", "kernel": "nosuch"}), code)


@provokes("name_taken")
def _(host, code):
    host.create("web")
    yield answered(host.api.post("/v1/vms", {"image": "tiny", "name": "web"}), code)
    yield said(fcm(host, "create", "--name", "web", "tiny"), code)


@provokes("domain_taken")
def _(host, code):
    host.create("web")
    host.create("other")
    host.api.put("/v1/vms/web/expose", {"port": 80, "domain": "www.example.org"}).ok()
    yield answered(host.api.put("/v1/vms/other/expose", {"port": 80, "domain": "www.example.org"}), code)
    yield said(fcm(host, "expose", "other", "80", "--domain", "www.example.org"), code)


@provokes("port_taken")
def _(host, code):
    host.create("web", publish=["8080:80"])
    yield answered(host.api.post("/v1/vms", {"image": "tiny", "name": "other", "publish": ["8080:80"]}), code)
    yield said(fcm(host, "create", "--name", "other", "-p", "7777:80", "tiny"), code)


@provokes("wrong_state")
def _(host, code):
    host.create("web")
    host.api.post("/v1/vms/web/stop").ok()
    yield answered(host.api.post("/v1/vms/web/pause"), code)
    yield said(fcm(host, "pause", "web"), code)


@provokes("busy")
def _(host, code):
    pid = host.create("web")["vmm_pid"]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        os.kill(pid, signal.SIGSTOP)
        try:
            pool.submit(host.api.post, "/v1/vms/web/pause")
            # whoever gives up waiting is still counted
            wait_for("many that wait", lambda: host.api.post("/v1/vms/web/pause", timeout=0.2).code == "busy", 10)
            yield answered(host.api.post("/v1/vms/web/resume"), code)
            yield said(fcm(host, "resume", "web"), code)
        finally:
            os.kill(pid, signal.SIGCONT)


@provokes("cancelled")
def _(host, code):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        ready = {"mode": "tcp", "port": 200, "timeout": 20}
        api = pool.submit(host.api.post, "/v1/vms", {"name": "web", "image": "tiny", "ready": ready})
        client = pool.submit(fcm, host, "create", "--name", "other", "--wait-ready", "tcp=200", "tiny")
        for name in ("web", "other"):
            wait_for("it starts", lambda name=name: host.api.get(f"/v1/vms/{name}").json.get("state") == "starting", 10)
        time.sleep(1)  # until they wait for the port
        for name in ("web", "other"):
            host.api.post(f"/v1/vms/{name}/kill").ok()
        yield answered(api.result(), code)
        yield said(client.result(), code)


@provokes("timeout")
def _(host, code):
    host.create("web")
    yield answered(host.api.get("/v1/vms/web/wait?state=stopped&timeout=0"), code)
    yield said(fcm(host, "wait", "web", "--state", "stopped", "--timeout", "1"), code)


# ---- no room ----

@provokes("pool_exhausted")
def _(host, code):
    with daemon_with(host, "--set", "last_address=50"):
        host.create("web")
        yield answered(host.api.post("/v1/vms", {"image": "tiny"}), code)
        yield said(fcm(host, "create", "tiny", "--name", "other"), code)


@provokes("insufficient_resources")
def _(host, code):
    yield answered(host.api.post("/v1/vms", {"image": "tiny", "memory": "1t"}), code)
    yield said(fcm(host, "create", "tiny", "-m", "1t", "--name", "web"), code)


@provokes("no_space")
def _(host, code):
    host.create("web")
    with daemon_with(host, "--set", "disk_reserve_mib=16t"):
        yield answered(host.api.post("/v1/vms/web/snapshots"), code).replace(str(host.work), "")
        yield said(fcm(host, "snapshot", "create", "web"), code)


@provokes("unavailable")
def _(host, code):
    with daemon_with(host, "--set", "max_connections=8", "--set", "max_anonymous=8"), contextlib.ExitStack() as held:
        for _ in range(8):
            sock = held.enter_context(host.api.connect(False, 10))
            sock.sendall(b"GET /v1/events?follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert sock.recv(12) == b"HTTP/1.1 200"
        yield answered(host.api.get("/v1"), code)
        yield said(fcm(host, "ls"), code)


# ---- the host, the VMM, the guest, ourselves ----

@provokes("host")
def _(host, code):
    host.run("mount", "--bind", "/bin/false", "/usr/sbin/mkfs.ext4")
    try:
        yield answered(host.api.post("/v1/volumes", {"name": "a", "size": 321}), code)
        yield said(fcm(host, "volume", "create", "--size", "321m", "b"), code)
    finally:
        host.run("umount", "/usr/sbin/mkfs.ext4")


@provokes("vmm")
def _(host, code):
    yield answered(host.api.post("/v1/vms", {"image": "tiny", "name": "fault-close"}), code)
    yield said(fcm(host, "create", "tiny", "--name", "fault-close"), code)


@provokes("guest")
def _(host, code):
    yield answered(host.api.post("/v1/vms", {"image": "tiny", "name": "fault-agenterror"}), code)
    yield said(fcm(host, "create", "tiny", "--name", "fault-agenterror-2"), code)


@provokes("script_failed")
def _(host, code):
    _, archive = docker_archive([change()], {}, ["layered:1"])
    made = host.api.post("/v1/images/import", archive, headers={"Content-Type": "application/octet-stream"}).ok(201)
    script = {"name": "new", "script": "#!/bin/false", "from": "layered:1"}
    yield answered(host.api.post("/v1/images/build", script), code)
    yield said(fcm(host, "build", "--image-name", "new", "--script-path", "-", "--from", "layered:1", input=script["script"]), code, 3)
    host.api.delete(f"/v1/image?ref={made['digest']}").ok()


@provokes("no_vmm")
def _(host, code):
    host.create("stopped")
    host.api.post("/v1/vms/stopped/kill").ok()
    host.api.post("/v1/vms/stopped/snapshots", {"name": "warm"}).ok(201)
    with daemon_with(host, "--set", "vmm=firecracker"):
        yield answered(host.api.post("/v1/vms", {"image": "tiny"}), code)
        yield answered(host.api.post("/v1/vms/stopped/start"), code)
        yield answered(host.api.post("/v1/vms/stopped/clone"), code)
        yield answered(host.api.post("/v1/snapshots/warm/clone"), code)
        yield said(fcm(host, "create", "tiny", "--name", "web"), code)
    host.api.delete("/v1/snapshots/warm").ok()


@provokes("config_invalid")
def _(host, code):
    yield said(host.run("fcmd", "--set", "pool=nonsense", check=False), code)
    vm = host.create("web")
    host.stop_daemon()
    (host.state_dir / vm["id"] / "config.json").write_text("garbage")
    host.start_daemon()
    yield answered(host.api.post(f"/v1/vms/{vm['id']}/start"), code).replace(vm["id"], "ID")
    host.api.delete(f"/v1/vms/{vm['id']}?force=1").ok()


@provokes("internal")
def _(host, code):
    with daemon_with(host, env={"FCM_FAULT": "create/disk:fail"}):
        yield answered(host.api.post("/v1/vms", {"image": "tiny", "name": "web"}), code)
    with daemon_with(host, env={"FCM_FAULT": "create/disk:fail"}):
        yield said(fcm(host, "create", "tiny", "--name", "web"), code)


# ---- all of them ----

@pytest.mark.parametrize("code", ROWS)
def test_error(host, request, code):
    assert code in HUNT, "a row of errors.def that no test provokes"
    text = constant("\n".join(HUNT[code](host, code)))
    golden = GOLDEN / code
    if request.config.getoption("--update"):
        GOLDEN.mkdir(parents=True, exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text(), f"differs from {golden}"


def test_no_row_is_left_over():
    assert set(HUNT) == set(ROWS) == {path.name for path in GOLDEN.iterdir()}
