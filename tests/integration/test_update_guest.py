"""Changes of a machine that stands still, or goes on from its saved memory: it has the size that it has."""
import json

import pytest

HOST = {"assets": ("kernel", "tiny")}


@pytest.fixture(scope="module", autouse=True)
def web(host):
    return host.create("web", memory=128, labels={"a": "b"})


def facts(host, name):
    return json.loads(host.fcm("exec", name, "cat", "/run/fcm/instance.json").stdout)


def memory(host):
    return int(host.fcm("exec", "web", "sed", "-n", "s/MemTotal: *//p", "/proc/meminfo").stdout.split()[0]) >> 10


def test_one_that_stands_still(host, web):
    """It learns what changed when it goes on."""
    host.fcm("pause", "web")
    host.fcm("rename", "web", "www")
    host.fcm("update", "www", "--label", "c=d")
    assert host.vm("www")["state"] == "paused"
    host.fcm("resume", "www")
    assert facts(host, "www") | {"boot": 1} == {"id": web["id"], "name": "www", "hostname": "web", "ip": web["ip"], "boot": 1,
                                                "labels": {"a": "b", "c": "d"}}
    host.fcm("rename", "www", "web")


def test_one_that_is_saved(host):
    """Another size waits for a boot: the saved memory has its own."""
    before, small = host.vm("web"), memory(host)
    host.fcm("update", "web", "--memory", "256")
    host.fcm("suspend", "web")
    host.fcm("update", "web", "--cpus", "2")
    assert (host.vm("web")["memory"], host.vm("web")["next"]) == (128, {"cpus": 2, "memory": 256})
    host.fcm("start", "web")
    now = host.vm("web")
    assert now["boot_id"] == before["boot_id"] and now["next"] == {"cpus": 2, "memory": 256} and memory(host) == small
    host.fcm("snapshot", "create", "web", "small")
    host.fcm("restart", "web")
    assert host.vm("web")["next"] is None and memory(host) > 1.5 * small
    assert host.fcm("exec", "web", "nproc").stdout == "2\n"


def test_one_that_goes_back(host):
    """To the size of the snapshot; what it had comes with the boot after."""
    host.fcm("restore", "web", "small")
    assert memory(host) < 128 and host.vm("web")["next"] == {"cpus": 2, "memory": 256}
    host.fcm("restart", "web")
    assert memory(host) > 200 and host.vm("web")["next"] is None
    host.fcm("snapshot", "rm", "small")
