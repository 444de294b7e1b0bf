"""fcm bench: what it asks for, what it prints, and that nothing of it stays."""
import json
import re
import signal
import subprocess
import time

import pytest


def without_figures(text):
    """Times and what only this machine has, made constant."""
    text = re.sub(r" +\d+(\.\d+)? m?s\b", " TIME", text)
    text = re.sub(r"^WHAT .*", lambda head: re.sub(" +", " ", head[0]), text, flags=re.M)  # as wide as the times are
    text = re.sub(r"^machine .*", "machine  2 x CPU, 4G, Linux 6.1", text, flags=re.M)
    return re.sub(r"at http://\S+,", "at URL,", text)


def requests_of(daemon):
    return [(seen["method"], re.sub("bench-[0-9a-f]+", "NAME", seen["path"])) for seen in daemon.seen]


def test_what_it_asks(fcm, daemon, golden):
    done = fcm("bench", "-n", "2", "tiny")
    assert (done.status, done.err) == (0, "")
    golden("pipe-bench", without_figures(done.out))
    create, destroy = ("POST", "/v1/vms"), ("DELETE", "/v1/vms/NAME")
    clone = [("POST", "/v1/snapshots/NAME/clone"), ("DELETE", "/v1/vms/NAME-clone")]
    assert requests_of(daemon) == [
        ("GET", "/v1"), create, destroy, create, *[("POST", "/v1/vms/NAME/exec")] * 2, ("POST", "/v1/vms/NAME/snapshots"), *clone, *clone, destroy,
        ("DELETE", "/v1/vms/NAME-clone?force=1"), ("DELETE", "/v1/vms/NAME?force=1"), ("DELETE", "/v1/snapshots/NAME")]
    assert not daemon.made
    made = [seen["body"] for seen in daemon.seen if (seen["method"], seen["path"]) == create]
    assert all(body == {"name": made[0]["name"], "restart": "no", "image": "tiny"} for body in made)


def test_json(fcm, daemon, monkeypatch):
    answer = daemon.RequestHandlerClass.post_exec
    monkeypatch.setattr(daemon.RequestHandlerClass, "post_exec", lambda *args: time.sleep(0.3) or answer(*args))
    report = json.loads(fcm("bench", "--json", "--rounds", "3").out)
    assert {k: report[k] for k in ("rounds", "image", "cpus", "memory", "daemon")} == {
        "rounds": 3, "image": "base", "cpus": 1, "memory": 512, "daemon": "0.1.0"}
    assert report["vmm"]["driver"] == "qemu" and "nearest rank" in report["method"] and report["machine"]["cpus"] > 0
    rows = {row["what"]: row for row in report["results"]}
    assert {what: row["count"] for what, row in rows.items()} == {"create": 3, "exec": 3, "clone": 3, "destroy": 6}
    for row in rows.values():
        assert 0 < row["min_us"] <= row["p50_us"] <= row["p95_us"] == row["max_us"]
    assert rows["exec"]["min_us"] >= 300000 > rows["clone"]["min_us"]


def test_columns(fcm, daemon):
    done = fcm("bench", "-o", "what,nope")
    assert done.status == 2 and "nope" in done.err and not daemon.seen
    assert fcm("bench", "-n", "1", "-q").out == "create\nexec\nclone\ndestroy\n"
    assert fcm("bench", "-n", "1", "-o", "what,count", "--no-headings").out.split() == ["create", "1", "exec", "1", "clone", "1", "destroy", "2"]


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(fcm, daemon, sig):
    """The request that is on its way is waited for, and then all goes; it ends as the signal would have it."""
    daemon.step_seconds = 0.2
    child = subprocess.Popen([fcm.binary, "bench"], env=fcm.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 10
    while ("POST", "/v1/vms") not in requests_of(daemon) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(sig)
    out, err = child.communicate(timeout=20)
    assert (child.returncode, out) == (-sig, "")
    assert err == "fcm: stopping; what it made goes first\nfcm: interrupted; what it made is removed\n"
    assert requests_of(daemon)[:3] == [("GET", "/v1"), ("POST", "/v1/vms"), ("DELETE", "/v1/vms/NAME-clone?force=1")]
    assert not daemon.made


def test_interrupted_twice(fcm, daemon):
    daemon.step_seconds = 5
    child = subprocess.Popen([fcm.binary, "bench"], env=fcm.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    begun = time.monotonic()
    for _ in range(2):
        time.sleep(0.5)
        child.send_signal(signal.SIGINT)
    child.communicate(timeout=20)
    assert child.returncode == -signal.SIGINT and time.monotonic() - begun < 4


def test_what_fails_leaves_nothing(fcm, daemon, monkeypatch):
    handler = daemon.RequestHandlerClass
    monkeypatch.setattr(handler, "post_exec", lambda self, one, query, body: self.fail(500, "guest", "it hangs"))
    done = fcm("bench")
    assert (done.status, done.out) == (1, "") and done.err.startswith("fcm: it hangs\n")
    assert not daemon.made
