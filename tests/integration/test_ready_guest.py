"""Readiness and health of real guests: each gate opens and each stays closed; what isn't healthy is started again."""
import time

import pytest
from host import wait_for

HOST = {"assets": ("kernel", "tiny"), "config": "stop_seconds = 5\n"}

# What a service of the guest would do: after some seconds a port, a page, a file, a line.
SERVE = "(sleep 2; mkdir -p /tmp/www; echo hello >/tmp/www/index.html; httpd -p 127.0.0.1:8080 -h /tmp/www; echo is up >/dev/console) &"


@pytest.fixture(scope="module", autouse=True)
def web(host):
    """What is put on the VM's disk is there at its next start."""
    vm = host.create("web", memory=256, ready={"mode": "agent"})
    host.fcm("exec", "web", "which", "httpd")
    return vm


def restart(host, **ready):
    host.api.post("/v1/vms/web/stop").ok()
    return host.api.post("/v1/vms/web/start", {"ready": {"timeout": 40, **ready}})


@pytest.mark.parametrize("ready", [
    {"mode": "none"}, {"mode": "agent"}, {"mode": "auto"}, {"mode": "ssh"}, {"mode": "tcp", "port": 22},
    {"mode": "exec", "exec": "test -e /etc/fcm/env && test $(hostname) = web"},
])
def test_it_opens(host, ready):
    assert restart(host, **ready).ok()["state"] == "running"
    wait_for("exec", lambda: host.fcm("exec", "web", "true", check=False).returncode == 0, 30)


@pytest.mark.parametrize("ready", [
    {"mode": "tcp", "port": 8080}, {"mode": "http", "url": "http://127.0.0.1:8080/"}, {"mode": "http", "url": "http://localhost:8080"},
    {"mode": "exec", "exec": "wget -q -O - http://127.0.0.1:8080/ | grep -q hello"}, {"mode": "log", "log": "^is up$"},
])
def test_it_waits_for_what_comes_late(host, ready):
    restart(host, mode="agent").ok()
    host.fcm("exec", "-d", "web", "sh", "-c", SERVE)
    begun = time.monotonic()
    host.api.post("/v1/vms/web/start", {"ready": {**ready, "timeout": 30}}).ok()
    assert time.monotonic() - begun > 1


def test_an_sshd_that_takes_its_time(host):
    """It is asked once and waited for; asked again and again, a slow guest would never come up."""
    host.fcm("exec", "-i", "web", "sh", "-c", "cp /etc/fcm/rc /root/rc; cat >/root/slow; chmod 755 /root/slow; "
             "sed -i 's|^/usr/sbin/dropbear.*|nc -ll -p 22 -e /root/slow \\&|' /etc/fcm/rc", input="#!/bin/sh\necho >>/run/asked\nsleep 3\necho SSH-2.0-slow\n")
    assert restart(host, mode="auto").ok()["state"] == "running"
    assert host.fcm("exec", "web", "sh", "-c", "wc -l </run/asked; mv /root/rc /etc/fcm/rc").stdout == "1\n"
    restart(host, mode="ssh").ok()  # with dropbear again


@pytest.mark.parametrize("ready, why", [
    ({"mode": "tcp", "port": 9}, "Connection refused"),
    ({"mode": "http", "url": "http://127.0.0.1:22/"}, "no HTTP answer"),
    ({"mode": "http", "url": "http://172.16.0.1/"}, "isn't this machine's"),
    ({"mode": "exec", "exec": "echo not yet; false"}, "(not yet)"),
    ({"mode": "exec", "exec": "sleep 1234"}, "no answer came"),
    ({"mode": "log", "log": "never said$"}, "no line"),
])
def test_it_stays_closed(host, ready, why):
    answer = host.api.post("/v1/vms/web/start", {"ready": {**ready, "timeout": 2}})
    assert answer.status == 504 and why in answer.error["message"], answer
    assert host.vm("web")["state"] == "running"
    wait_for("what was asked has ended", lambda: "1234" not in host.fcm("exec", "web", "ps").stdout, 10, 0.5)


def test_unhealthy_is_started_again(host):
    host.create("frail", memory=256, restart="on-failure", health={"cmd": "test ! -e /run/broken || { echo broken; false; }",
                                                                  "interval": 1, "retries": 2})
    wait_for("it is healthy", lambda: host.vm("frail")["health"].get("status") == "healthy", 10)
    boot_id = host.vm("frail")["boot_id"]
    host.fcm("exec", "frail", "sh", "-c", "touch /run/broken; echo kept >/root/kept; sync")
    wait_for("it is started again", lambda: (vm := host.vm("frail"))["boot_id"] != boot_id and vm["state"] == "running", 40)
    wait_for("it is healthy again", lambda: host.vm("frail")["health"].get("status") == "healthy", 10)
    assert host.fcm("exec", "frail", "cat", "/root/kept").stdout == "kept\n"
    assert "not healthy: broken" in host.log_tail(60)


def test_a_wrong_answer(host):
    host.create("stuck", memory=256, restart="no", health={"http": "http://localhost:22/", "interval": 1, "retries": 2, "timeout": 2})
    wait_for("it is unhealthy", lambda: host.vm("stuck")["health"].get("status") == "unhealthy", 20)
    assert host.vm("stuck")["state"] == "running" and "no HTTP answer" in host.vm("stuck")["health"]["message"]
