"""Events against the scripted VMM and agent: what is told, in which order, to whom, and over the daemon's end."""
import concurrent.futures
import json
import signal
import subprocess
import time

import pytest
from host import wait_for

HOST = {"fake": True}
LIFE = ["creating", "starting", "running", "stopping", "stopped", "starting", "running", "destroying", "destroyed"]


def parse(text):
    """A stream's events: (id, event, data) each; comments are left out."""
    result = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            result.append((int(fields.get("id", 0)), fields["event"], json.loads(fields["data"])))
    return result


def events(api, query="", **kwargs):
    answer = api.get(f"/v1/events{query}", **kwargs)
    assert answer.status == 200 and answer.headers["Content-Type"] == "text/event-stream", answer
    return parse(answer.body.decode())


def names(api, query=""):
    return [name for _, name, _ in events(api, query)]


def last(api):
    return max((number for number, _, _ in events(api)), default=0)


@pytest.fixture(autouse=True)
def nobody(host):
    """Each test begins without VMs."""
    yield
    host.destroy_all()


@pytest.fixture(name="since")
def fixture_since(api):
    """Only what a test itself does: its query."""
    return f"?after={last(api)}"


def test_life(host, api, since):
    vm = host.create("web")
    api.post("/v1/vms/web/stop").ok()
    api.post("/v1/vms/web/start").ok()
    api.delete("/v1/vms/web?force=1").ok()
    seen = events(api, since)
    assert [name for _, name, _ in seen] == LIFE
    assert {(data["id"], data["name"]) for _, _, data in seen} == {(vm["id"], "web")}
    assert all(number == data["seq"] and name == data["event"] for number, name, data in seen)
    assert [number for number, _, _ in seen] == list(range(seen[0][0], seen[0][0] + len(LIFE)))
    assert all(data["time"].endswith("Z") for _, _, data in seen)


def test_a_crash_says_why(host, api, since):
    host.create("web", restart="no")
    host.run("kill", "-9", str(host.vm("web")["vmm_pid"]))
    host.wait_state("web", "failed")
    failed = events(api, since + "&event=failed")
    assert len(failed) == 1 and failed[0][2]["code"] == "crashed" and failed[0][2]["message"]


def test_a_create_that_fails_goes_again(host, api, since):
    assert api.post("/v1/vms", {"name": "web", "image": "tiny", "ready": {"mode": "exec", "exec": "exit 1"}, "dry_run": True}).status == 200
    assert names(api, since) == []
    assert api.post("/v1/vms", {"name": "big", "image": "tiny", "memory": 1 << 20}).status == 409
    assert names(api, since) == ["creating", "destroyed"]


def test_health(host, api, since):
    api.post("/v1/vms", {"name": "web", "image": "tiny", "restart": "no", "health": {"cmd": "flips 2", "interval": 1, "retries": 1}}).ok(201)
    wait_for("it is unhealthy", lambda: "unhealthy" in names(api, since), 20)
    seen = [(name, data.get("message")) for _, name, data in events(api, since) if name.endswith("healthy")]
    assert seen[:2] == [("healthy", None), ("unhealthy", "exit status 1")]


def test_exposure(host, api, since):
    host.create("web")
    api.put("/v1/vms/web/expose", {"port": 8000}).ok()
    api.delete("/v1/vms/web/expose").ok()
    seen = [(name, data.get("message")) for _, name, data in events(api, since + "&vm=web")][3:]
    assert [name for name, _ in seen] == ["pending", "unexposed"]  # no Caddy here
    assert seen[0][1].startswith("web.") and seen[1][1] is None


def test_filters(host, api, since):
    one, two = host.create("one"), host.create("two")
    assert [data["name"] for _, _, data in events(api, since + "&vm=two")] == ["two"] * 3
    assert events(api, since + f"&vm={one['id']}") == events(api, since + "&vm=one")
    assert [(n, d["name"]) for _, n, d in events(api, since + "&event=running")] == [("running", "one"), ("running", "two")]
    assert events(api, since + "&vm=nobody") == [] and two
    time.sleep(2)
    assert events(api, since + "&since=1s") == [] and len(events(api, since + "&since=5m")) == 6


@pytest.mark.parametrize("query, field", [("?event=nope", "event"), ("?since=yesterday", "since"), ("?after=-1", "after"), ("?after=x", "after")])
def test_refused(api, query, field):
    answer = api.get("/v1/events" + query)
    assert answer.status == 400 and answer.error["field"] == field
    assert api.get("/v1/events", headers={"Last-Event-ID": "x"}).status == 400
    assert api.get("/v1/events", token=None, tcp=True).status == 401


def follow(host, *argv):
    child = host.spawn(["fcm", "events", "-f", *argv], stdout=subprocess.PIPE, text=True)
    time.sleep(0.5)
    return child


def test_following(host, api):
    """From now on; several at a time; ended by ^C."""
    host.create("before")
    children = [follow(host, "--json"), follow(host, "--filter", "event=stopped"), follow(host, "--filter", "vm=web", "--since", "1h")]
    host.create("web")
    api.post("/v1/vms/web/kill").ok()
    seen = [json.loads(children[0].stdout.readline()) for _ in range(5)]
    assert [(e["name"], e["event"]) for e in seen] == [("web", x) for x in LIFE[:5]]
    assert children[1].stdout.readline().split()[1:] == ["web", "stopped"]
    assert children[2].stdout.readline().split()[1:] == ["web", "creating"]
    for child in children:
        child.send_signal(signal.SIGINT)
        assert child.wait(5) == -signal.SIGINT


def test_going_on_behind_the_last(host, api):
    host.create("web")
    here = last(api)
    api.post("/v1/vms/web/kill").ok()
    assert [n for _, n, _ in events(api, "", headers={"Last-Event-ID": str(here)})] == ["stopping", "stopped"]
    assert events(api, "?after=999999999999") == []


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_they_outlive_the_daemon(host, api, sig):
    """What was told is kept, numbers go on, and what was so already is no news."""
    host.create("web")
    wait_for("they are written down", lambda: '"running"' in (host.state_dir / "events.jsonl").read_text().splitlines()[-1], 5)
    before = events(api)
    host.restart_daemon(sig)
    after = events(api)
    assert after[:len(before)] == before and "creating" not in [n for _, n, _ in after[len(before):]]
    api.post("/v1/vms/web/kill").ok()
    assert events(api)[-1][1] == "stopped" and events(api)[-1][0] > before[-1][0] + 900
    assert len({number for number, _, _ in events(api)}) == len(events(api))


def test_a_torn_line(host, api):
    """A power cut within a line costs that event and no other."""
    host.create("web")
    host.stop_daemon()
    path = host.state_dir / "events.jsonl"
    kept = path.read_text()
    path.write_text(kept + '{"seq":99999,"time":"2026-01-')
    host.start_daemon()
    assert [d["seq"] for _, _, d in events(api)][-1] == json.loads(kept.splitlines()[-1])["seq"]
    api.post("/v1/vms/web/kill").ok()
    wait_for("they are written down", lambda: path.read_text().endswith("}\n"), 5)
    host.restart_daemon()
    assert names(api)[-1] == "stopped"
    path.write_bytes(b"\xff\x00garbage\n" * 100_000)
    host.restart_daemon()
    assert api.get("/v1/events").status == 200


def test_many_readers(host, api):
    """Thirty read while VMs come and go: each sees all, in order."""
    here = last(api)
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        def read():
            seen = []
            deadline = time.monotonic() + 20
            while sum(n == "destroyed" for _, n, _ in seen) < 3 and time.monotonic() < deadline:
                seen = events(api, f"?after={here}")
            return seen
        readers = [pool.submit(read) for _ in range(30)]
        for i in range(3):
            host.create(f"vm{i}")
            api.delete(f"/v1/vms/vm{i}?force=1").ok()
        results = [reader.result() for reader in readers]
    assert all(result == results[0] for result in results) and [n for n, _, _ in results[0]] == sorted(n for n, _, _ in results[0])


def test_what_is_gone(host, api):
    """More than is kept: who comes back late is told so."""
    path = host.state_dir / "events.jsonl"
    host.stop_daemon()
    line = {"time": "2026-01-01T00:00:00Z", "event": "running", "id": "abcd1234", "name": "old"}
    path.write_text("".join(json.dumps({"seq": n, **line}, separators=(",", ":")) + "\n" for n in range(5_000_000, 5_001_500)))
    host.start_daemon()
    seen = events(api, "?after=5000000")
    assert seen[0][1] == "gone" and seen[0][2] == {"oldest": 5_000_476} and len(seen) == 1 + 1024
    assert len(events(api)) == 1024
    done = host.fcm("events")
    assert len(done.stdout.splitlines()) == 1024 and done.stderr == ""


def test_the_files_stay_small(host, api):
    path = host.state_dir / "events.jsonl"
    host.stop_daemon()
    line = {"time": "2026-01-01T00:00:00Z", "event": "running", "id": "abcd1234", "name": "old"}
    path.write_text("".join(json.dumps({"seq": n, **line}, separators=(",", ":")) + "\n" for n in range(6_000_000, 6_002_780)))
    assert path.stat().st_size > 255_000
    host.start_daemon()
    for _ in range(12):
        host.create("web")
        api.delete("/v1/vms/web?force=1").ok()
    wait_for("the file begins anew", lambda: not path.exists() or path.stat().st_size < 100_000, 10)
    assert (host.state_dir / "events.jsonl.1").stat().st_size >= 256 << 10
    host.restart_daemon()
    assert len(events(api)) == 1024 and events(api)[-1][1] == "destroyed"
