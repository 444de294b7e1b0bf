"""Readiness and health against the scripted agent (tests/fake/exec.c): what a gate says, what the policy does."""
import json
import time

import pytest
from host import wait_for

HOST = {"fake": True, "config": "boot_seconds = 20\nstop_seconds = 2\n"}


@pytest.fixture(autouse=True)
def clean(host):
    yield
    host.destroy_all()


def create(api, name="web", **spec):
    return api.post("/v1/vms", {"name": name, "image": "tiny", **spec})


@pytest.mark.parametrize("ready", [
    {"mode": "none"}, {"mode": "agent"}, {"mode": "auto"}, {"mode": "tcp", "port": 80}, {"mode": "tcp", "port": 300},
    {"mode": "http", "url": "http://127.0.0.1:80/x"}, {"mode": "http", "url": "http://localhost:300"},
    {"mode": "exec", "exec": "exit 0"}, {"mode": "log", "log": "^fake guest: (up|down)$"},
])
def test_it_opens(host, api, ready):
    vm = create(api, ready={**ready, "timeout": 15}).ok(201)
    assert vm["state"] == "running" and vm["ready"] == {**ready, "timeout": 15} and vm["health"] is None
    config = json.loads((host.state_dir / vm["id"] / "config.json").read_text())
    assert config["ready"] == vm["ready"]


@pytest.mark.parametrize("ready, why", [
    ({"mode": "tcp", "port": 100}, "tcp=100 did not become ready (closed?[31m)"),
    ({"mode": "tcp", "port": 200}, "(no answer came)"),
    ({"mode": "ssh"}, "ssh did not"),
    ({"mode": "http", "url": "http://127.0.0.1:100"}, "http=http://127.0.0.1:100 did not"),
    ({"mode": "exec", "exec": "exit 3"}, "exec=exit 3 did not become ready (exit status 3)"),
    ({"mode": "exec", "exec": "nosuch"}, "no such?[31m program"),
    ({"mode": "exec", "exec": "flood 100000000"}, "said more than 256 KiB"),
    ({"mode": "log", "log": "never said$"}, "no line of the console matches"),
])
def test_it_does_not_open(host, api, ready, why):
    """The VM is left running, as with any guest that is late; its reason says why."""
    begun = time.monotonic()
    answer = create(api, ready={**ready, "timeout": 1})
    assert answer.status == 504 and answer.code == "timeout" and answer.error["step"] == "ready", answer
    assert why in answer.error["message"] and "within 1 s" in answer.error["message"]
    assert answer.error["hint"] == "fcm logs web"
    assert time.monotonic() - begun < 6
    vm = host.vm("web")
    assert vm["state"] == "running" and vm["reason"]["code"] == "timeout" and vm["reason"]["step"] == "ready"


def test_none_right_after_a_stop(host, api):
    """The guest is set up all the same, though the session of the run before is just being given up."""
    create(api).ok(201)
    for _ in range(3):
        api.post("/v1/vms/web/stop").ok()
        api.post("/v1/vms/web/start", {"ready": {"mode": "none"}}).ok()
        wait_for("exec", lambda: api.post("/v1/vms/web/exec", {"cmd": ["exit", "0"]}).status == 200, 10)


def test_at_start(host, api):
    create(api, ready={"mode": "tcp", "port": 80}).ok(201)
    api.post("/v1/vms/web/stop").ok()
    answer = api.post("/v1/vms/web/start", {"ready": {"mode": "tcp", "port": 100, "timeout": 1}})
    assert answer.status == 504 and "tcp=100" in answer.error["message"]
    assert host.vm("web")["ready"] == {"mode": "tcp", "port": 80}
    assert api.post("/v1/vms/web/start", {"ready": {"mode": "tcp", "port": 80}}).ok()["changed"] is False
    answer = api.post("/v1/vms/web/start", {"ready": {"mode": "tcp", "port": 100, "timeout": 1}})
    assert answer.status == 504 and host.vm("web")["state"] == "running"
    api.post("/v1/vms/web/stop").ok()
    assert api.post("/v1/vms/web/start").ok()["state"] == "running"


def test_kill_does_not_wait_for_the_gate(host, api):
    import concurrent.futures
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        made = pool.submit(create, api, ready={"mode": "tcp", "port": 200, "timeout": 300})
        wait_for("it starts", lambda: api.get("/v1/vms/web").json.get("state") == "starting", 10)
        time.sleep(1)
        begun = time.monotonic()
        api.post("/v1/vms/web/kill").ok()
        assert time.monotonic() - begun < 4
        assert made.result(10).status == 499


@pytest.mark.parametrize("spec, field, word", [
    ({"ready": {"mode": "tcp"}}, "ready.port", "needs"),
    ({"ready": {"mode": "tcp", "port": 70000}}, "ready.port", "65535"),
    ({"ready": {"mode": "agent", "port": 1}}, "ready.port", "not for"),
    ({"ready": {"mode": "http"}}, "ready.url", "needs"),
    ({"ready": {"mode": "http", "url": "https://localhost"}}, "ready.url", "http://"),
    ({"ready": {"mode": "http", "url": "http://example.com/"}}, "ready.url", "localhost"),
    ({"ready": {"mode": "http", "url": "http://127.0.0.1/a b"}}, "ready.url", "spaces"),
    ({"ready": {"mode": "http", "url": "http://127.0.0.1:0/"}}, "ready.url", "PORT"),
    ({"ready": {"mode": "log", "log": "("}}, "ready.log", "regular expression"),
    ({"ready": {"mode": "log", "log": "a{1,255}"}}, "ready.log", "braces"),
    ({"ready": {"mode": "log", "log": r"(a)\1"}}, "ready.log", "back references"),
    ({"ready": {"mode": "log", "log": "a" * 201}}, "ready.log", "200"),
    ({"ready": {"mode": "exec", "exec": "a" * 4097}}, "ready.exec", "4096"),
    ({"ready": {"mode": "tcp", "port": 1, "timeout": 0}}, "ready.timeout", "3600"),
    ({"ready": {"mode": "soon"}}, "ready.mode", "agent"),
    ({"ready": {"mod": "none"}}, "ready.mod", "unknown"),
    ({"health": {"interval": 1}}, "health", "needs cmd, args or http"),
    ({"health": {"cmd": "a", "http": "http://127.0.0.1"}}, "health", "one of cmd, args"),
    ({"health": {"args": ["a"], "disable": True}}, "health", "one of cmd, args"),
    ({"health": {"args": [""]}}, "health.args", "what to run"),
    ({"health": {"cmd": "a", "interval": 0}}, "health.interval", "86400"),
    ({"health": {"cmd": "a", "timeout": 601}}, "health.timeout", "600"),
    ({"health": {"http": "http://1.2.3.4.5/"}}, "health.http", "IPv4"),
])
def test_refused(api, spec, field, word):
    answer = create(api, **spec)
    assert answer.status == 400 and answer.error.get("field") == field and word in answer.error["message"], answer
    assert api.get("/v1/vms").ok()["vms"] == []


def health(host, name="web"):
    return (host.vm(name)["health"] or {}).get("status")


def test_healthy(host, api):
    vm = create(api, health={"cmd": "exit 0", "interval": 1}).ok(201)
    assert vm["health"]["status"] == "starting" and vm["health"]["retries"] == 3 and vm["health"]["timeout"] == 5
    wait_for("it is healthy", lambda: health(host) == "healthy", 5)
    assert "it is healthy" in host.log_tail(20)
    done = host.fcm("ls")
    assert "HEALTH" in done.stdout and "healthy" in done.stdout
    create(api, "plain").ok(201)
    assert host.fcm("ls", "--json").stdout.count('"healthy"') == 1
    host.restart_daemon()
    wait_for("healthy again", lambda: health(host) == "healthy", 10)
    api.post("/v1/vms/web/stop").ok()
    assert "status" not in host.vm("web")["health"]


def test_no_column_for_nobody(host, api):
    create(api).ok(201)
    assert "HEALTH" not in host.fcm("ls").stdout
    assert host.fcm("ls", "-o", "name,health").stdout.split()[-1] == "-"


def test_health_during_a_snapshot(host, api):
    """It isn't asked while it stands still, and what is known of it stays; then it is asked again."""
    create(api, restart="no", health={"cmd": "flips 3", "interval": 1, "retries": 1}).ok(201)
    wait_for("it is healthy", lambda: health(host) == "healthy", 5)
    api.delete(f"/v1/snapshots/{api.post('/v1/vms/web/snapshots', {}).ok(201)['id']}").ok()
    assert health(host) in ("healthy", "unhealthy")
    wait_for("it is unhealthy", lambda: health(host) == "unhealthy", 20)


@pytest.mark.parametrize("check, why", [({"cmd": "exit 7"}, "exit status 7"), ({"http": "http://127.0.0.1:100/"}, "closed"),
                                        ({"cmd": "sleep", "timeout": 1}, "no answer within 1 s")])
def test_unhealthy_runs_on_without_a_policy(host, api, check, why):
    create(api, restart="no", health={**check, "interval": 1, "retries": 2}).ok(201)
    wait_for("it is unhealthy", lambda: health(host) == "unhealthy", 10)
    vm = host.vm("web")
    assert vm["state"] == "running" and vm["boots"] == 1 and vm["health"]["failing"] >= 2 and why in vm["health"]["message"]
    time.sleep(3)
    assert host.vm("web")["boots"] == 1


@pytest.mark.parametrize("policy", ["always", "on-failure", "unless-stopped"])
def test_unhealthy_is_restarted(host, api, policy):
    create(api, restart=policy, health={"cmd": "flips 2", "interval": 1, "retries": 1}).ok(201)
    wait_for("it is healthy", lambda: health(host) == "healthy", 5)
    wait_for("it is started again", lambda: (vm := host.vm("web"))["boots"] == 2 and vm["state"] == "running", 20)
    assert "the VM was not healthy: exit status 1" in host.log_tail(60)
    wait_for("healthy again", lambda: health(host) == "healthy", 5)


def test_backoff(host, api):
    """Each time it is started again later, as after a crash."""
    create(api, restart="always", health={"cmd": "exit 1", "interval": 1, "retries": 1}).ok(201)
    wait_for("the second restart", lambda: host.vm("web")["boots"] == 3, 25)
    begun = time.monotonic()
    wait_for("the third restart", lambda: host.vm("web")["boots"] == 4, 25, 0.2)
    assert time.monotonic() - begun > 4  # it waits for 4 s
    api.post("/v1/vms/web/stop").ok()
    time.sleep(6)
    assert host.vm("web")["state"] == "stopped"


def test_the_start_period(host, api):
    create(api, restart="no", health={"cmd": "exit 1", "interval": 1, "retries": 1, "start_period": 4}).ok(201)
    time.sleep(3)
    assert health(host) == "starting"
    wait_for("it is unhealthy", lambda: health(host) == "unhealthy", 5)


def test_a_deaf_guest_stops_no_other(host, api):
    for i in range(4):
        create(api, f"deaf-{i}", restart="no", health={"cmd": "sleep", "interval": 1, "timeout": 600}).ok(201)
    create(api, health={"cmd": "exit 0", "interval": 1}).ok(201)
    wait_for("it is healthy", lambda: health(host) == "healthy", 5)
    assert {health(host, f"deaf-{i}") for i in range(4)} == {"starting"}


def test_the_daemon_is_killed_while_it_restarts_one(host, api):
    create(api, restart="always", health={"cmd": "flips 1", "interval": 1, "retries": 1}).ok(201)
    wait_for("it is to be restarted", lambda: "it is started again" in host.log_tail(10), 10, 0.01)
    host.restart_daemon(9)
    wait_for("it runs", lambda: (vm := host.vm("web"))["state"] == "running" and vm["boots"] >= 2, 20)


def test_the_client(host, api):
    done = host.fcm("create", "--name", "web", "--image", "tiny", "--wait-ready", "tcp=100", "--ready-timeout", "1", check=False)
    assert done.returncode == 8 and "tcp=100 did not become ready" in done.stderr and "fcm logs web" in done.stderr
    host.fcm("stop", "web")
    host.fcm("start", "web", "--wait-ready", "mode=http,url=http://127.0.0.1:80,timeout=5,interval=1")
    host.fcm("create", "--name", "ok", "--image", "tiny", "--wait-ready", "exec=exit 0", "--health-http", "http://127.0.0.1:80/",
             "--health-interval", "1", "--health-retries", "2")
    vm = host.vm("ok")
    assert vm["ready"] == {"mode": "exec", "exec": "exit 0"}
    assert (vm["health"]["http"], vm["health"]["interval"], vm["health"]["retries"]) == ("http://127.0.0.1:80/", 1, 2)
    for words in (["--wait-ready", "tcp"], ["--wait-ready", "ssh=1"], ["--wait-ready", "soon"], ["--wait-ready", "mode=http,uri=x"],
                  ["--health-retries", "0"]):
        done = host.fcm("create", "--name", "bad", *words, check=False)
        assert done.returncode == 2 and words[0] in done.stderr, done
    assert "wait for tcp=80, at most 20 s" in host.fcm("create", "--dry-run", "--wait-ready", "tcp=80").stdout
