"""The test host itself: what the tests in it stand on."""
import os
import re
import signal
import time

import pytest

import host as hosts

RELEASES = ("bookworm",)  # the other one's agent and tools show themselves in whatever runs there

RESTORES = 20


def test_systemd_is_up(host):
    state = host.run("systemctl is-system-running", check=False).text.strip()
    assert state in ("running", "degraded"), host.run("systemctl list-jobs", check=False).both
    failed = host.run("systemctl --failed --no-legend --plain").text
    assert not failed, failed
    assert host.run("cat /proc/1/comm").text == "systemd\n"


def test_it_is_the_release(host, release):
    assert f"VERSION_CODENAME={release}\n" in host.run("cat /etc/os-release").text


def test_kvm_works(installed, note):
    """Our own probe, which finds the KVM of a machine that emulates each instruction unusable. In a machine that has just
    been restored TCG has translated nothing of KVM yet: on a busy host the first probe may give up."""
    for tries in range(1, 4):
        done = installed.run("fcmd --check", check=False)
        found = re.search(r"^ok +vmm +(.* kvm.*)$", done.both, re.M | re.I)
        if found:
            break
    assert found, done.both
    note(f"fcmd --check in the host, try {tries}: {found[1]}")


@pytest.mark.one_release
def test_status_and_streams(host):
    done = host.run("echo out; echo err >&2; exit 3", check=False)
    assert (done.status, done.out, done.err) == (3, b"out\n", b"err\n")
    assert host.run("kill -9 $$", check=False).status == -signal.SIGKILL
    assert host.run(["printf", "%s|", "a b", "$c", "'"]).text == "a b|$c|'|"
    with pytest.raises(hosts.Failed, match="status 3: why"):
        host.run("echo why >&2; exit 3")


@pytest.mark.one_release
def test_stdin_and_stdout_at_once(host):
    data = os.urandom(1 << 20) * 24
    assert host.run("cat", data).out == data
    assert host.run("head -c 5", data).out == data[:5], "a command that doesn't want all of it"


@pytest.mark.one_release
def test_a_command_that_hangs_is_ended(host):
    with pytest.raises(hosts.Failed, match=r"not within 0\.5 s: echo begun"):
        host.run("echo begun; sleep 1000; echo ended", timeout=0.5)
    assert host.run("pgrep -f 'sleep 100[0]'", check=False).status == 1, "its process group is gone"
    for command in ("yes", "sleep 1000"):
        with pytest.raises(hosts.Failed):
            host.run(command, bytes(5 << 20), timeout=0.5)
    assert host.run("echo fine").text == "fine\n", "and nothing of it is left in the channel"


@pytest.mark.one_release
def test_what_a_command_leaves_running(host):
    begun = time.monotonic()
    host.run("setsid sleep 60 >/dev/null 2>&1 & sleep 61 &")
    assert time.monotonic() - begun < 5
    assert host.run("pkill -f 'sleep 6[01]'").status == 0


@pytest.mark.one_release
def test_partial_frames_and_garbage(host):
    for junk in (b"X\xff\xff\x00\x00par", b"\0" * 3, b"?" * 5000, b"D\xff\xff\xff\xff", b"X\x02\x00\x00\x00:;Z",
                 b"D\xff\xff\x01\x00" + b"x" * 5000, b"X\x05\x00\x00\x00yes>&D\x00"):
        host.channel.socket.setblocking(True)
        host.channel.socket.sendall(junk)
        host.channel.socket.setblocking(False)
        host.channel.hello(10)
        assert host.run("echo fine").text == "fine\n", junk[:20]


@pytest.mark.one_release
def test_files_and_trees(host, tmp_path):
    data = os.urandom(300_000)
    host.put("/srv/a folder/it's.bin", data, 0o640)
    assert host.get("/srv/a folder/it's.bin") == data
    assert host.run("stat -c '%a %U' \"/srv/a folder/it's.bin\"").text == "640 root\n"
    (tmp_path / "there/deep").mkdir(parents=True)
    (tmp_path / "there/deep/run").write_text("#!/bin/sh\necho ran\n")
    (tmp_path / "there/deep/run").chmod(0o755)
    (tmp_path / "there/link").symlink_to("deep/run")
    (tmp_path / "there/private").mkdir(mode=0o700)
    host.put_tree(tmp_path / "there", "/srv/tree")
    assert host.run("stat -c %a /srv/tree /srv/tree/deep /srv/tree/private").text == "755\n755\n700\n"
    assert host.run("/srv/tree/link").text == "ran\n"
    host.put_tree(tmp_path / "there/deep/run", "/srv/renamed/run2")
    assert host.run("/srv/renamed/run2").text == "ran\n"
    host.get_tree("/srv/tree", tmp_path / "back")
    assert os.readlink(tmp_path / "back/link") == "deep/run"
    assert (tmp_path / "back/deep/run").stat().st_mode & 0o777 == 0o755


def test_the_clock(host):
    host.run("date -s @1000000000")
    host.refresh()
    assert abs(int(host.run("date +%s").text) - time.time()) < 5


def test_network_tools(host):
    """What the product needs of this kernel: TAPs, nftables, network namespaces; and no way out."""
    host.run("ip tuntap add tap_x mode tap && ip link set tap_x up && ip link del tap_x")
    host.run("nft add table inet t && nft list table inet t && nft delete table inet t")
    host.run("ip netns add n && ip netns exec n ip link set lo up && ip netns del n")
    assert host.run("ip route").text == ""


@pytest.mark.one_release
def test_restores(release, note, tmp_path):
    """Each is fresh, answers in well under a second, and has the time and random numbers of its own."""
    times, random = [], set()
    for i in range(RESTORES):
        with hosts.Host(release, tmp_path / "restored") as other:
            times.append(other.restored_in)
            assert other.run("test ! -e /srv/mark && touch /srv/mark && cat /proc/uptime").status == 0
            random.add(other.run("head -c 16 /dev/urandom").out)
            if i == 0:
                assert abs(int(other.run("date +%s").text) - time.time()) < 5
    note(f"{RESTORES} restores of {release}: {min(times) * 1000:.0f} to {max(times) * 1000:.0f} ms, "
         f"median {sorted(times)[RESTORES // 2] * 1000:.0f}")
    assert len(random) == RESTORES
    assert sorted(times)[RESTORES // 2] < 1


def test_a_panic_is_seen(release, tmp_path):
    before = hosts.panics
    with hosts.Host(release, tmp_path / "panics") as other:
        with pytest.raises(hosts.Gone, match="its kernel panicked"):
            other.run("sync; echo c >/proc/sysrq-trigger; sleep 20")
    assert hosts.panics == before + 1
    hosts.panics = before


def test_reboot_and_power_cut(host, note):
    first = host.boot_id
    host.run("echo kept >/srv/kept && sync && touch /run/gone")
    seconds = host.reboot()
    second = host.boot_id
    assert second != first
    assert host.run("cat /srv/kept").text == "kept\n"
    assert host.run("test -e /run/gone", check=False).status == 1
    assert host.run("test -c /dev/kvm").status == 0
    assert host.run("journalctl -q -b -1 -n 1 -o cat").text, "the journal of the boot before is kept"
    cut = host.power_cut()
    assert host.boot_id not in (first, second)
    assert host.run("cat /srv/kept").text == "kept\n"
    note(f"reboot {seconds:.1f} s, power cut {cut:.1f} s")
