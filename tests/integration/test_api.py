"""The API as a whole: tokens, methods, idempotency, parallel requests, progress. With the scripted VMM."""
import concurrent.futures
import json
import os
import re
import stat
import time

import pytest
from host import ROUTES, USER, wait_for

HOST = {"fake": True}

OPEN = {"/healthz"}


WRONG = "fcm_aaaaaaaa_" + "A" * 43


def unthrottled(call):
    """The answer that comes when the wrong tokens of the tests before are forgotten."""
    return wait_for("not throttled", lambda: (answer := call()).status != 429 and answer, 10, 0.2)


def filled(pattern):
    return pattern.replace("{vm}", "web").replace("{name}", "web")


@pytest.fixture
def vm(host):
    yield host.create("web")
    host.api.delete("/v1/vms/web?force=1")


@pytest.mark.parametrize("method, pattern", ROUTES, ids=str)
@pytest.mark.parametrize("token", [None, "", "x", WRONG, "Bearer"], ids=["none", "empty", "x", "wrong", "word"])
def test_without_a_right_token(api, method, pattern, token):
    if pattern in OPEN:
        assert api.call(method, pattern, token=token, tcp=True).status == 200
        return
    answer = unthrottled(lambda: api.call(method, filled(pattern), token=token, tcp=True))
    assert (answer.status, answer.code) == (401, "unauthorized"), answer
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="fcm"'
    assert "web" not in answer.error["message"]


def test_failures_are_throttled_and_honest_clients_are_not(api):
    unthrottled(lambda: api.get("/v1", token=WRONG, tcp=True))
    assert 429 in {api.get("/v1", token=WRONG, tcp=True).status for _ in range(200)}
    assert api.get("/v1", tcp=True).status == 200


def test_the_sockets_mode_is_its_check(host, api):
    """No token is needed there, and nobody but root and the group gets in."""
    assert api.get("/v1", token=None).status == 200
    done = host.run("curl", "-sS", "--unix-socket", "/run/fcm/fcmd.sock", "http://localhost/v1", user=USER, check=False)
    assert done.returncode == 7 and not done.stdout


@pytest.mark.parametrize("pattern", sorted({p for _, p in ROUTES}))
def test_wrong_method(api, pattern):
    answer = api.call("COPY", filled(pattern))
    assert (answer.status, answer.code) == (405, "method_not_allowed"), answer
    allowed = {m.strip() for m in answer.headers["Allow"].split(",")}
    assert allowed - {"HEAD", "OPTIONS"} == {m for m, p in ROUTES if re.fullmatch(re.sub(r"{\w+}", "[^/]+", p), filled(pattern))}


def test_no_route(api):
    for path in ("/", "/v2", "/v1/", "/v1/nosuch", "/v1/vms/web/nosuch", "//v1/vms", "/v1/vms/", "/v1//vms"):
        answer = api.get(path)
        assert (answer.status, answer.code) == (404, "no_route"), (path, answer)


def test_info(api):
    info = api.get("/v1").ok()
    assert info["api"] == "v1" and info["extensions"] == [] and info["vms"] == {"total": 0, "running": 0}
    assert {"version", "vmm", "defaults", "pool", "state_dir"} <= set(info)


def test_doctor(api):
    checks = api.get("/v1/doctor").ok()["checks"]
    assert checks and all(c["status"] in ("ok", "warn", "fail") and c["name"] and c["message"] for c in checks)
    assert all(c["fix"] for c in checks if c["status"] != "ok")
    assert {"vmm", "kvm", "modules", "tun", "nft", "port", "pool", "disk", "caddy", "sites"} <= {c["name"] for c in checks}


def test_images(api):
    images = {(i["kind"], i["name"]) for i in api.get("/v1/images").ok()["images"]}
    assert {("kernel", "default"), ("image", "tiny")} <= images


def test_a_vm_as_it_is_shown(host, api, vm):
    shown = api.get(f"/v1/vms/{vm['id']}").ok()
    assert list(shown)[:5] == ["id", "name", "ip", "state", "expose"]
    assert shown["state"] == "running" and shown["expose"] is None and shown["schema"] == 1
    assert shown["mac"] == "02:fc:ac:10:00:" + f"{int(shown['ip'].split('.')[3]):02x}"
    config = host.state_dir / vm["id"] / "config.json"
    assert stat.S_IMODE(config.stat().st_mode) & 0o077 == 0
    assert (host.state_dir / vm["id"] / "rootfs.img").exists()


def test_restart_and_logs(host, api, vm):
    again = api.post("/v1/vms/web/restart", {"time": 1}).ok()
    assert again["state"] == "running" and again["boots"] == vm["boots"] + 1 and again["ip"] == vm["ip"]
    answer = api.get("/v1/vms/web/logs")
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/plain")


def test_a_signal_is_for_a_main_process(host, api, vm):
    """A VM without one has nobody to send it to; KILL is the VM's own end."""
    answer = api.post("/v1/vms/web/kill", {"signal": "HUP"})
    assert (answer.status, answer.code, answer.error["field"]) == (409, "wrong_state", "signal"), answer
    for signal in (0, 65, "nope"):
        assert api.post("/v1/vms/web/kill", {"signal": signal}).error["field"] == "signal"
    assert host.vm("web")["state"] == "running"
    assert api.post("/v1/vms/web/kill", {"signal": "KILL"}).ok()["state"] == "stopped"
    api.post("/v1/vms/web/start").ok()


def test_park_keeps_what_was_wanted(host, api, vm):
    assert api.post("/v1/park").ok()["parked"] == 1
    now = host.vm("web")
    assert (now["state"], now["desired"]) == ("stopped", "running") and now["id"] == vm["id"]


def test_defaults_and_random_names(host, api):
    one, two = (api.post("/v1/vms").ok(201) for _ in range(2))
    assert one["name"] != two["name"] and one["name"].count("-") >= 1
    assert (one["cpus"], one["memory"], one["disk"], one["image"], one["restart"]) == (1, 512, 8192, "base", "unless-stopped")
    for vm in (one, two):
        api.delete(f"/v1/vms/{vm['id']}?force=1").ok()


def test_dry_run_does_nothing(host, api):
    before = host.residue()
    plan = api.post("/v1/vms", {"name": "dry", "image": "tiny", "expose": 8000, "dry_run": True}).ok(200)["plan"]
    text = "\n".join(plan)
    for word in ("tap_", "nft", "rootfs.img", "fcm.d"):
        assert word in text, word
    assert host.residue() == before and api.get("/v1/vms").ok()["vms"] == []


def test_destroy_has_a_receipt(host, api):
    vm = host.create("web")
    plan = api.delete("/v1/vms/web?dry_run=1").ok()
    assert host.vm("web")["state"] == "running" and plan
    receipt = api.delete("/v1/vms/web").ok()
    assert receipt["id"] == vm["id"] and receipt["left"] == []
    assert receipt["removed"]["tap"] == f"tap_{vm['id']}" and receipt["removed"]["nft_elements"] > 0


def test_idempotency_key(api):
    body, key = {"name": "once", "image": "tiny"}, {"Idempotency-Key": "k-1"}
    first, second = (api.post("/v1/vms", body, headers=key) for _ in range(2))
    assert first.status == second.status == 201 and first.json["id"] == second.json["id"]
    other = api.post("/v1/vms", {"name": "twice", "image": "tiny"}, headers=key)
    assert (other.status, other.code) == (422, "idempotency_key_reused")
    api.delete("/v1/vms/once?force=1").ok()


def test_one_name_created_50_times(host, api):
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: api.post("/v1/vms", {"name": "popular", "image": "tiny"}), range(50)))
    statuses = sorted(a.status for a in answers)
    assert statuses == [201] + [409] * 49
    assert {a.code for a in answers if a.status == 409} <= {"name_taken", "busy"}
    api.delete("/v1/vms/popular?force=1").ok()


def test_everything_at_once_to_one_vm(host, api):
    """Start, stop, kill, destroy and create collide: each ends well, with 404 or 409, or with 499 where it was killed; nothing is left."""
    before = host.residue()
    calls = [("POST", "/v1/vms", {"name": "torn", "image": "tiny"}), ("POST", "/v1/vms/torn/stop", {"time": 0}),
             ("POST", "/v1/vms/torn/start", None), ("POST", "/v1/vms/torn/kill", None), ("DELETE", "/v1/vms/torn?force=1", None)]
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda n: api.call(*calls[n % len(calls)]), range(60)))
    assert {a.status for a in answers} <= {200, 201, 404, 409, 499}
    api.delete("/v1/vms/torn?force=1")
    host.check_residue(before)


def test_pool_is_exhausted_and_reused(host, api):
    """.50 to .254 are 205 addresses; this takes a small pool's worth and looks at the order."""
    vms = [host.create(f"n{i}", memory=64) for i in range(3)]
    assert [vm["ip"] for vm in vms] == ["172.16.0.50", "172.16.0.51", "172.16.0.52"]
    api.delete("/v1/vms/n1?force=1").ok()
    assert host.create("again")["ip"] in ("172.16.0.51", "172.16.0.53")
    for name in ("n0", "n2", "again"):
        api.delete(f"/v1/vms/{name}?force=1").ok()


def test_tokens(host, api):
    made = api.post("/v1/tokens", {"name": "script"}).ok(201)
    assert made["token"].startswith(f"fcm_{made['id']}_") and len(made["token"]) == 13 + 43
    assert api.get("/v1", token=made["token"]).status == 200
    assert made["token"] not in (host.state_dir / "tokens.json").read_text()
    for name in (".token", "tokens.json"):
        assert stat.S_IMODE((host.state_dir / name).stat().st_mode) == 0o600
    assert made["token"] not in host.log_path.read_text()


def test_token_for_a_user(host):
    host.add_user_token()
    path = f"/home/{USER}/.fcm-token"
    assert host.run("stat", "-c", "%U %a", path).stdout.split() == [USER, "600"]
    assert host.fcm("ls", user=USER).returncode == 0
    host.run("chmod", "644", path)
    refused = host.fcm("ls", user=USER, check=False)
    assert refused.returncode == 5 and "chmod" in refused.stderr
    host.run("chmod", "600", path)


def test_socket_mode(host):
    info = (host.run_dir / "fcmd.sock").stat()
    assert stat.S_IMODE(info.st_mode) == 0o660 and info.st_uid == 0


def test_print_config(host):
    text = host.run("fcmd", "--print-config").stdout
    assert "qemu" in text and "/etc/fcm/fcmd.conf" in text
    (host.work / "etc/bad.conf").write_text("pool = 172.16.0.0/24\nnosuchkey = 1\n")
    done = host.run("fcmd", "--config", "/etc/fcm/bad.conf", "--print-config", check=False)
    os.unlink(host.work / "etc/bad.conf")
    assert done.returncode != 0 and "nosuchkey" in done.stderr and "2" in done.stderr


def test_check(host):
    done = host.run("fcmd", "--check", check=False, timeout=60)
    rows = dict(reversed(line.split()[:2]) for line in done.stdout.splitlines() if not line.startswith(" "))
    assert rows["tun"] == rows["nft"] == rows["port"] == rows["disk"] == "ok"
    done = host.run("fcmd", "--check", "--set", "shim=/nope", check=False, timeout=60)
    assert done.returncode == 1 and re.search(r"^fail +programs .*\n +fix: ", done.stdout, re.M)


def test_any_request_by_the_client(host, vm):
    assert json.loads(host.fcm("api", "GET", "/v1/vms").stdout)["vms"][0]["id"] == vm["id"]
    done = host.fcm("api", "-i", "PATCH", "/v1/vms/web", "-d", "-", input='{"labels": {"a": "b"}}')
    assert done.stdout.startswith("HTTP/1.1 200") and host.vm("web")["labels"] == {"a": "b"}
    done = host.fcm("api", "PATCH", "/v1/vms/web", "-d", "[]", check=False)
    assert done.returncode == 2 and "object" in done.stderr
    done = host.fcm("api", "POST", "/v1", check=False)
    assert done.returncode == 1 and done.stderr.startswith("fcm: this path doesn't have the method POST\n")


def test_cycles_leave_nothing(host, api):
    """Descriptors, threads and memory after many lives are what they were."""
    def figures():
        base = f"/proc/{host.daemon.pid}"
        status = dict(line.split(":\t", 1) for line in open(f"{base}/status", encoding="ascii").read().splitlines() if ":\t" in line)
        return len(os.listdir(f"{base}/fd")), int(status["Threads"]), int(status["VmRSS"].split()[0])

    def life(number):
        host.create(f"life-{number}", memory=64)
        api.delete(f"/v1/vms/life-{number}?force=1").ok()

    for number in range(5):
        life(number)
    time.sleep(12)  # threads of the server that find nothing to do end after 10 s
    before, residue = figures(), host.residue()
    for number in range(int(os.environ.get("FCM_CYCLES", "40"))):
        life(number)
    host.check_residue(residue)
    wait_for(f"descriptors and threads as before, {before[:2]}", lambda: figures()[:2] == before[:2] or print(figures()), 15, 1)
    if not os.environ.get("FCM_SANITIZED"):  # AddressSanitizer keeps what was freed; its own check is for leaks
        assert figures()[2] - before[2] < 4096, "KiB of memory grew"
