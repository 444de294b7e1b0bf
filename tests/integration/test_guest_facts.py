"""What a guest knows: who it is, and what time it is."""
import json
import os
import signal
import time

import pytest
from host import wait_for

HOST = {"assets": ("kernel", "tiny"), "config": "clock_seconds = 2\n"}

LABELS = {"a": "", "team/db": "\"quotes\" and \\back\\slashes\\", "u.x_y-z": "</script> ünï ✓ {\"x\":1}", "long": "\\" * 255}
FACTS = "/run/fcm/instance.json"


@pytest.fixture(scope="module", autouse=True)
def web(host):
    return host.create("web", memory=256, labels=LABELS, env={"SECRET": "hunter2"})


def sh(host, script, **kwargs):
    return host.fcm("exec", "web", "sh", "-c", script, **kwargs).stdout


def facts(host):
    return json.loads(sh(host, f"cat {FACTS}"))


def test_facts(host, web):
    assert facts(host) == {"id": web["id"], "name": "web", "hostname": "web", "ip": web["ip"], "labels": LABELS, "boot": 1}
    assert "hunter2" not in sh(host, f"cat {FACTS}")
    assert sh(host, f"stat -c '%a %u %g' {FACTS}") == "644 0 0\n"
    assert json.loads(host.fcm("exec", "-u", "1000", "web", "cat", FACTS).stdout)["id"] == web["id"]
    assert "tmp" not in sh(host, "ls -a /run/fcm")


def test_facts_of_a_later_boot(host):
    host.fcm("restart", "web")
    assert facts(host)["boot"] == 2


def test_a_new_name_and_other_labels(host, web):
    """The facts follow at once, the host name with the next start, and both by all ways of asking."""
    names = "hostname; cat /etc/hostname; getent hosts web www || grep -w -e web -e www /etc/hosts"
    try:
        host.fcm("rename", "web", "www")
        host.fcm("update", "www", "--label", "new=1", *(word for key in LABELS for word in ("--label-rm", key)))
        assert json.loads(host.fcm("exec", "www", "cat", FACTS).stdout) == {
            "id": web["id"], "name": "www", "hostname": "web", "ip": web["ip"], "labels": {"new": "1"}, "boot": 2}
        assert "www" not in host.fcm("exec", "www", "sh", "-c", names).stdout
        host.fcm("update", "www", "--memory", "384")
        host.fcm("restart", "www")
        shown = host.fcm("exec", "www", "sh", "-c", names).stdout.split()
        assert shown[:2] == ["www", "www"] and "web" not in shown
        assert json.loads(host.fcm("exec", "www", "cat", FACTS).stdout)["hostname"] == "www"
        assert int(host.fcm("exec", "www", "sed", "-n", "s/MemTotal: *//p", "/proc/meminfo").stdout.split()[0]) > 300 << 10
    finally:
        host.fcm("rename", web["id"], "web")


def test_labels_that_do_not_fit(api):
    many = {f"l{n}": "\\" * 255 for n in range(64)}
    answer = api.post("/v1/vms", {"name": "many", "image": "tiny", "labels": many})
    assert answer.status == 400 and answer.error["field"] == "labels"
    most = dict(list(many.items())[:58])
    vm = api.post("/v1/vms", {"name": "most", "image": "tiny", "memory": 128, "labels": most}).ok(201)
    assert vm["state"] == "running" and vm["reason"] is None
    api.delete("/v1/vms/most?force=1").ok()


def wrong_by(host):
    """Seconds by which the guest's clock is ahead, as far as a command's way tells."""
    before = time.time()
    guest = float(sh(host, "date +%s"))  # whole seconds
    after = time.time()
    return 0 if before - 1 <= guest <= after else guest - after


def is_right(host):
    wait_for("the clock is right", lambda: wrong_by(host) == 0, 20, 0.5)


@pytest.mark.parametrize("wrong", [3600, -86400, 5])
def test_a_wrong_clock(host, wrong):
    is_right(host)
    sh(host, f"date -s @{int(time.time()) + wrong}")
    is_right(host)


def test_a_machine_that_stood_still(host, web):
    pid = host.vm("web")["vmm_pid"]
    os.kill(pid, signal.SIGSTOP)
    time.sleep(5)
    os.kill(pid, signal.SIGCONT)
    is_right(host)
    time.sleep(3)
    assert wrong_by(host) == 0
    assert web["boot_id"]


def test_a_deaf_guest_keeps_no_other_from_the_time(host, api):
    """One whose VMM stands still is passed over; and no operation waits for a look at a clock."""
    api.post("/v1/vms", {"name": "deaf", "image": "tiny", "memory": 128}).ok(201)
    pid = host.vm("deaf")["vmm_pid"]
    os.kill(pid, signal.SIGSTOP)
    sh(host, f"date -s @{int(time.time()) + 3600}")
    is_right(host)
    begun = time.monotonic()
    api.delete("/v1/vms/deaf?force=1").ok()
    assert time.monotonic() - begun < 5
