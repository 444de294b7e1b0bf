"""The image `debian`: systemd as PID 1 of a real guest, the agent beside it. And that a stopped VM's disk is clean: of this image,
and of one whose PID 1 is the agent. Another VM judges that, on a copy; this host never mounts or checks what a guest wrote.
"""
import os
import time

import pytest
from console import LEAVE, Terminal
from host import USER, wait_for

HOST = {"assets": ("kernel", "base", "debian")}

# Counts its boots, takes its time to stop, and says that it could.
UNIT = """[Unit]
Description=A service of a test

[Service]
ExecStart=/bin/sh -c 'echo boot >>/root/boots; while :; do echo $((n = n + 1)) >/root/new; mv /root/new /root/count; sleep 1; done'
ExecStop=/bin/sh -c 'sleep 1; echo stopped >>/root/stopped'

[Install]
WantedBy=multi-user.target
"""


@pytest.fixture(scope="module", autouse=True)
def deb(host):
    host.add_user_token()
    begun = time.monotonic()
    vm = host.create("deb", image="debian", memory=384, disk=256)
    print(f"created in {time.monotonic() - begun:.1f} s")
    sh(host, "cat >/etc/systemd/system/counter.service && systemctl daemon-reload && systemctl enable --now counter", input=UNIT)
    return vm


def sh(host, script, check=True, vm="deb", **kwargs):
    return host.fcm("exec", *(["-i"] if "input" in kwargs else []), vm, "sh", "-c", script, check=check, **kwargs)


def said(host, script, **kwargs):
    return sh(host, script, **kwargs).stdout.strip()


def settled(host):
    """What systemd says of itself once it has started what it wants to start."""
    return wait_for("systemd settles", lambda: (state := said(host, "systemctl is-system-running --wait", check=False, timeout=200)) not in
                    ("", "offline", "starting", "initializing") and state, 200, 0.5)


def in_guest(host, command):
    """A command that ends the machine."""
    host.fcm("exec", "-d", "deb", "sh", "-c", f"sleep 0.5; {command}")


def rebooted(host, old):
    vm = wait_for("deb booted again", lambda: (now := host.vm("deb"))["state"] == "running" and
                  now["boot_id"] not in ("", old["boot_id"]) and now, 200)
    assert vm["boots"] == old["boots"] + 1
    settled(host)
    assert not recovered(host)
    return vm


def recovered(host, vm="deb"):
    """What the kernel says of a disk that wasn't clean when it was mounted."""
    return said(host, "dmesg | grep -i 'EXT4-fs (vdb).*\\(recover\\|error\\|orphan\\|unchecked\\)'", check=False, vm=vm)


def lines(host, path):
    return int(said(host, f"cat {path} 2>/dev/null | wc -l"))


def test_it_comes_up_whole(host):
    state = settled(host)
    assert state == "running", sh(host, "systemctl --failed; journalctl -b -p warning --no-pager | tail -50").stdout
    assert said(host, "cat /proc/1/comm") == "systemd"
    pid = said(host, "cat /run/fcm/agent.pid")
    assert said(host, f"cat /proc/{pid}/comm; cut -d' ' -f4 /proc/{pid}/stat; cat /proc/{pid}/oom_score_adj") == "fcm-agent\n1\n-1000"
    assert said(host, "cat /proc/self/oom_score_adj") == "0"
    assert said(host, "cat /etc/machine-id") and said(host, "hostname") == "deb"
    print(said(host, "systemd-analyze; systemd-analyze blame | head -n 12", check=False))


def test_ssh(host):
    assert host.boot_id("deb") == host.vm("deb")["boot_id"]
    assert host.ssh("deb", "systemctl is-active ssh") == "active\n"


def test_facts(host, deb):
    assert said(host, "cat /run/fcm/instance.json").startswith('{"id":"' + deb["id"])


def test_a_shell_at_the_console(host):
    assert said(host, "systemctl is-active fcm-console") == "active"
    assert said(host, "ps -t ttyS0 -o comm=") == "agetty"
    terminal = Terminal(host, "deb")
    terminal.until(b"Ctrl-] detaches")
    terminal.type(b"\r")
    terminal.until(b"~# ", 30)
    terminal.type(b"echo sum $((6 * 7)) $(tty)\r")
    terminal.until(b"sum 42 /dev/ttyS0", 30)
    terminal.type(b"exit\r" + LEAVE)
    terminal.close()


def test_the_clock_after_a_new_session(host):
    sh(host, f"date -s @{int(time.time()) + 3600}")
    host.restart_daemon()
    wait_for("the clock is right", lambda: abs(int(said(host, "date +%s", check=False) or 0) - time.time()) < 3, 30, 0.5)


def test_a_service_starts_at_boot_and_reboot_is_a_restart(host):
    boots, stops, old = lines(host, "/root/boots"), lines(host, "/root/stopped"), host.vm("deb")
    in_guest(host, "reboot")
    rebooted(host, old)
    assert said(host, "systemctl is-active counter") == "active"
    assert (lines(host, "/root/boots"), lines(host, "/root/stopped")) == (boots + 1, stops + 1)


@pytest.mark.skipif(not os.environ.get("FCM_LONG"), reason="one more boot, and the next test powers off, too; with FCM_LONG=1")
def test_poweroff_is_a_stop(host):
    before = lines(host, "/root/stopped")
    in_guest(host, "systemctl poweroff")
    vm = host.wait_state("deb", "stopped", 60)
    assert vm["reason"] is None
    host.fcm("start", "deb", user=USER, timeout=240)
    settled(host)
    assert not recovered(host) and lines(host, "/root/stopped") == before + 1


def test_a_shutdown_that_nobody_heard(host):
    """What the next daemon finds on the console."""
    before = lines(host, "/root/stopped")
    in_guest(host, "sleep 2; systemctl poweroff")
    host.stop_daemon()
    time.sleep(2)
    host.start_daemon()
    assert host.wait_state("deb", "stopped", 60)["reason"] is None
    host.fcm("start", "deb", user=USER, timeout=240)
    settled(host)
    assert lines(host, "/root/stopped") == before + 1


def test_signals_that_mean_others(host):
    """To the agent SIGTERM means nothing beside an init: a killer of all processes doesn't reset the machine."""
    sh(host, "kill -TERM $(cat /run/fcm/agent.pid); kill -INT $(cat /run/fcm/agent.pid); sleep 1")
    assert host.vm("deb")["state"] == "running" and said(host, "echo yes") == "yes"


# ---- the disk of a VM that was stopped ----

@pytest.fixture(scope="module")
def judge(host):
    """A throwaway VM that looks at a copy of another one's disk, in which it is a plain file."""
    host.create("judge", image="base", memory=256, disk=1024)

    def verdict(vm):
        look = "tar -x && e2fsck -fn rootfs.img; echo status $?; dumpe2fs -h rootfs.img; rm rootfs.img"
        return host.run("bash", "-c", f"set -o pipefail; tar -C /var/lib/firecracker/{vm['id']} --sparse -c rootfs.img | "
                                      f"fcm exec -i -w /root judge sh -c '{look}'").stdout
    yield verdict
    host.api.delete("/v1/vms/judge?force=1").ok()


def is_clean(report):
    return "\nstatus 0\n" in report and "needs_recovery" not in report and "Filesystem state:         clean\n" in report


def test_stop_ends_services_and_leaves_a_clean_disk(host, judge):
    before = lines(host, "/root/stopped")
    sh(host, "for i in $(seq 200); do echo $i >/root/f$i; done")
    begun = time.monotonic()
    answer = host.api.post("/v1/vms/deb/stop", {"time": 30}).ok()
    print(f"stopped in {time.monotonic() - begun:.1f} s")
    assert answer["state"] == "stopped" and time.monotonic() - begun < 20
    report = judge(host.vm("deb"))
    assert is_clean(report), report
    host.fcm("start", "deb", user=USER, timeout=240)
    settled(host)
    assert not recovered(host) and lines(host, "/root/stopped") == before + 1
    assert said(host, "cat /root/count").isdigit() and said(host, "cat /root/f*  | wc -l") == "200"


def test_a_service_that_does_not_end_is_overtaken(host, judge):
    """The agent ends what is left before the host's time is over, so the disk is clean even then."""
    sh(host, "systemd-run --unit deaf sh -c 'trap \"\" TERM; while :; do echo x >>/root/deaf; sleep 0.2; done'")
    begun = time.monotonic()
    host.api.post("/v1/vms/deb/stop", {"time": 8}).ok()
    took = time.monotonic() - begun
    report = judge(host.vm("deb"))
    assert took < 15 and is_clean(report), report


@pytest.fixture(scope="module")
def small(host):
    """A VM whose PID 1 is the agent."""
    host.create("small", image="base", memory=256, disk=64)
    return "small"


def test_the_disk_of_an_image_without_init(host, judge, small):
    sh(host, "for i in $(seq 200); do echo $i >/root/f$i; done", vm=small)
    host.fcm("stop", small, user=USER)
    report = judge(host.vm(small))
    assert is_clean(report), report


def test_a_kill_leaves_a_disk_that_is_not(host, judge, small):
    """The judge can say no."""
    host.fcm("start", small, user=USER)
    assert not recovered(host, small)
    sh(host, "echo x >/root/unclean; sync", vm=small)
    host.fcm("kill", small, user=USER)
    report = judge(host.vm(small))
    assert not is_clean(report) and "needs_recovery" in report
    host.fcm("start", small, user=USER)
    assert "recovery complete" in recovered(host, small)
