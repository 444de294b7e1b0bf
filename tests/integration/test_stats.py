"""What VMs use, against the scripted VMM and agent: the API, the client, and what Prometheus is given."""
import concurrent.futures
import json
import os
import re
import signal
import time

import pytest
from host import TOP, wait_for

HOST = {"fake": True}

HOST_NUMBERS = ("pid", "threads", "up_ms", "at_us", "cpu_us", "rss", "pss", "disk_read", "disk_written", "net_received", "net_sent")
GUEST = {"memory": 268435456, "available": 201326592, "load": "0.12", "disk": 8589934592, "disk_used": 4194304}
DEAF = dict.fromkeys(GUEST)


@pytest.fixture(scope="module", autouse=True)
def vms(host):
    vms = [host.create("web"), host.create("idle")]
    host.api.post("/v1/vms/idle/kill").ok()
    return vms


def stats(api, name="web"):
    return api.get(f"/v1/vms/{name}/stats").ok()


def test_running(host, api):
    s = stats(api)
    vm = host.vm("web")
    assert (s["id"], s["name"], s["state"], s["cpus"], s["memory"]) == (vm["id"], "web", "running", vm["cpus"], vm["memory"])
    assert s["pid"] == vm["vmm_pid"] and s["guest"] == GUEST
    assert all(isinstance(s[key], int) and s[key] >= 0 for key in HOST_NUMBERS), s
    assert 0 < s["pss"] <= s["rss"] and s["threads"] >= 1
    later = stats(api)
    assert later["at_us"] > s["at_us"] and later["up_ms"] >= s["up_ms"] and later["cpu_us"] >= s["cpu_us"]


def test_the_process_is_the_vmm(api):
    s = stats(api)
    with open(f"/proc/{s['pid']}/smaps_rollup", encoding="ascii") as file:
        rss = int(re.search(r"^Rss:\s+(\d+) kB$", file.read(), re.M)[1]) * 1024
    assert abs(s["rss"] - rss) < 1 << 20


def test_not_running(api):
    s = stats(api, "idle")
    assert s["state"] == "stopped" and all(s[key] is None for key in HOST_NUMBERS) and s["guest"] == DEAF


def test_list(api):
    listed = api.get("/v1/stats").ok()["vms"]
    assert [(s["name"], s["state"]) for s in listed] == [("web", "running"), ("idle", "stopped")]
    assert set(listed[0]) == set(stats(api))
    assert api.get("/v1/vms/nope/stats").status == 404
    assert api.post("/v1/stats").status == 405
    assert api.get("/v1/stats", token=None, tcp=True).status == api.get("/metrics", token=None, tcp=True).status == 401


def test_network(host, api):
    """The guest's side: what the host sends to the TAP is what the guest receives."""
    before = stats(api)
    tap, ip = "tap_" + before["id"], host.vm("web")["ip"]
    host.run("ping", "-c", "3", "-i", "0.2", "-s", "1000", "-W", "1", ip, check=False)
    after = stats(api)
    sent = int(host.run("cat", f"/sys/class/net/{tap}/statistics/tx_bytes", check=False).stdout or -1)
    assert sent in (-1, after["net_received"]) and after["net_received"] >= before["net_received"]


@pytest.fixture
def deaf(api):
    """Another VM, whose VMM doesn't run for a while."""
    host = api.host
    host.create("deaf")
    pid = host.vm("deaf")["vmm_pid"]
    os.kill(pid, signal.SIGSTOP)
    yield pid
    os.kill(pid, signal.SIGCONT)
    api.delete("/v1/vms/deaf?force=1").ok()


def test_a_deaf_guest_delays_nobody(api, deaf):
    begun = time.monotonic()
    listed = {s["name"]: s for s in api.get("/v1/stats").ok()["vms"]}
    took = time.monotonic() - begun
    assert listed["deaf"]["guest"] == DEAF and listed["deaf"]["rss"] > 0
    assert listed["web"]["guest"] == GUEST and took < 3
    begun = time.monotonic()
    stats(api)
    assert time.monotonic() - begun < 0.45
    os.kill(deaf, signal.SIGCONT)
    wait_for("it answers again", lambda: stats(api, "deaf")["guest"] == GUEST, 10)


def test_a_guest_that_was_deaf_for_long(api, deaf):
    """What it didn't answer is bounded, and forgotten when it does."""
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        asked = list(pool.map(lambda _: stats(api, "deaf"), range(140)))
    assert all(s["guest"] == DEAF and s["rss"] > 0 for s in asked)
    assert stats(api)["guest"] == GUEST
    os.kill(deaf, signal.SIGCONT)
    wait_for("it answers again", lambda: stats(api, "deaf")["guest"] == GUEST, 10)


@pytest.mark.parametrize("fault", ["agent-error", "agent-flood"])
def test_a_guest_that_makes_trouble(api, fault):
    name = f"fault-{fault}-stats"
    answer = api.post("/v1/vms", {"name": name, "image": "tiny"})
    if answer.status == 201:
        assert stats(api, name)["guest"] in (GUEST, DEAF)
    assert stats(api)["guest"] == GUEST
    api.delete(f"/v1/vms/{name}?force=1")


# ---- Prometheus ----

METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
NUMBER = re.compile(r"-?\d+(\.\d+)?")


def parse_metrics(text):
    """Strictly what the text format 0.0.4 allows, and what promtool check metrics asks: {name: [(labels, value)]}."""
    assert text.endswith("\n") and "\r" not in text
    families, family, kinds, seen = {}, None, {}, set()
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            family, words = line[7:].split(" ", 1)
            assert METRIC.fullmatch(family) and family not in families and words
            families[family] = []
        elif line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            assert name == family and name not in kinds and not families[name] and kind in ("counter", "gauge")
            assert name.endswith("_total") == (kind == "counter")
            kinds[name] = kind
        else:
            name, labels, value = re.fullmatch(r"([^{ ]+)(?:\{(.*)\})? ([^ ]+)", line).groups()
            assert name == family and name in kinds and NUMBER.fullmatch(value)
            pairs = LABEL.findall(labels or "")
            assert sum(len(k) + len(v) + 3 for k, v in pairs) + max(len(pairs) - 1, 0) == len(labels or "")
            assert len({k for k, _ in pairs}) == len(pairs) and (name, *pairs) not in seen
            seen.add((name, *pairs))
            families[name].append((dict(pairs), float(value)))
    assert set(kinds) == set(families)
    return families


def test_metrics(host, api):
    answer = api.get("/metrics")
    assert answer.status == 200 and answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = parse_metrics(answer.body.decode())
    states = {labels["state"]: value for labels, value in families["fcm_vms"]}
    assert states["running"] == 1 and states["stopped"] == 1 and states["failed"] == 0
    assert families["fcm_build_info"] == [({"version": api.get("/v1").ok()["version"]}, 1)]
    of_vms = {name: lines for name, lines in families.items() if name.startswith("fcm_vm_")}
    web = {"vm": "web", "id": host.vm("web")["id"]}
    assert len(of_vms) == 14 and all([labels for labels, _ in lines] == [web] for lines in of_vms.values())
    s, value = stats(api), {name: lines[0][1] for name, lines in of_vms.items()}
    assert 0 <= s["cpu_us"] / 1e6 - value["fcm_vm_cpu_seconds_total"] < 2
    assert 0 <= s["up_ms"] / 1e3 - value["fcm_vm_uptime_seconds"] < 10
    assert value["fcm_vm_guest_load1"] == 0.12 and value["fcm_vm_guest_memory_bytes"] == GUEST["memory"]
    assert value["fcm_vm_guest_memory_available_bytes"] == GUEST["available"]
    assert value["fcm_vm_resident_memory_bytes"] > 0


def test_metrics_by_curl(host, api):
    done = host.run("curl", "-sS", "--fail", "-H", f"Authorization: Bearer {api.token}", "http://127.0.0.1:7777/metrics")
    assert parse_metrics(done.stdout)["fcm_vm_threads"]


def test_dashboard(api):
    """Whatever docs/grafana.json asks Prometheus for is there, with these labels, and nothing of ours is left out."""
    board = json.loads((TOP / "docs/grafana.json").read_text())
    families = parse_metrics(api.get("/metrics").body.decode())
    named, places = set(), set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert panel["title"] and panel["targets"] and not cells & places and at["x"] + at["w"] <= 24
        places |= cells
        for target in panel["targets"]:
            expr = target["expr"]
            for name, selector in re.findall(r"\b(fcm_\w+)(?:\{(.*?)\})?", expr):
                assert name in families, expr
                known = {label for labels, _ in families[name] for label in labels}
                asked = set(re.findall(r"(\w+)=", selector)) | set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
                assert asked <= known, (expr, target["legendFormat"])
                assert (f"rate({name}{{" in expr) == name.endswith("_total"), expr
                named.add(name)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert named == set(families)
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
            assert label in families[metric][0][0]
            assert f"${variable['name']}" in str(board["panels"])


# ---- fcm stats ----

def test_client(host):
    table = [line.split() for line in host.fcm("stats").stdout.splitlines()]
    assert table[0][:3] == ["NAME", "CPU", "RSS"] and table[1][0] == "web" and table[1][1].endswith("%") and len(table) == 2
    both = json.loads(host.fcm("stats", "--json", "web", "idle").stdout)
    assert [vm["name"] for vm in both] == ["web", "idle"] and float(both[0]["cpu_percent"]) >= 0 and both[1]["cpu_percent"] is None
    assert host.fcm("stats", "-q").stdout == "web\n"
    assert host.fcm("stats", "nope", check=False).returncode == 3


def test_client_watches(host):
    done = host.run("timeout", "-s", "INT", "2.6", "fcm", "stats", "-w", "--no-headings", "-o", "name,up", check=False)
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all(line.startswith("web") for line in lines)


def test_client_on_a_terminal(host):
    done = host.run("sh", "-c", "(sleep 2.5; printf q) | script -qec 'fcm stats -w; echo status $?' /dev/null")
    assert "status 0" in done.stdout and done.stdout.count("\x1b[?1049h") == done.stdout.count("\x1b[?1049l") == 1
    assert done.stdout.index("\x1b[?1049l") < done.stdout.index("status 0") and done.stdout.count("web") >= 2


def test_the_vmm_ends_meanwhile(host, api):
    """Its numbers are gone with it, and a new one begins anew."""
    old = stats(api)
    api.post("/v1/vms/web/restart").ok()
    new = stats(api)
    assert new["pid"] != old["pid"] and new["up_ms"] < old["up_ms"] and new["guest"] == GUEST
    host.restart_daemon(signal.SIGKILL)
    wait_for("the guest is heard again", lambda: stats(api)["guest"] == GUEST, 20)
    assert stats(api)["pid"] == new["pid"]
