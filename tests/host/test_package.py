"""The Debian package, from its installation to its purge, and the service in between: hardened, watched, with VMs that don't notice
when it ends or is another version."""
import json
import re
import shutil
import signal
import subprocess

import pytest

import host as hosts
import product as products

NAMES = ("one", "two", "three")[:3 if hosts.FIRST else 1]
EXPOSURE = 4.4
DROP_IN = "/etc/systemd/system/fcmd.service.d/test.conf"
# Where files of a package or of its services may stay.
FOLDERS = "/etc /usr /opt /srv /home /root /run /var"
# What belongs to others: dpkg's and systemd's own records, logs, the journal, what the test put there.
OTHERS = ("/var/lib/dpkg/|/var/log/|/var/cache/|/run/log/|/run/systemd/|/run/udev/|/run/user/|/run/lock|/run/dbus|/var/tmp/|/tmp/"
          "|/root/fcm.deb|/root/.ssh|/root/.fcm|/root/.local|/root/.config|/root/.cache|/run/sudo/|/var/lib/caddy/"
          "|/etc/.pwd.lock|/etc/(group|gshadow|passwd|shadow|subuid|subgid)-|/var/lib/systemd/")


def files(host):
    listing = host.run(f"find {FOLDERS} -xdev | grep -vE '^({OTHERS})'", timeout=60).text
    accounts = host.run("cat /etc/passwd /etc/group").text
    return set(listing.splitlines()) | set(accounts.splitlines())


@pytest.fixture(scope="module")
def before(packaged):
    """What was there."""
    return files(packaged.host)


@pytest.fixture(scope="module")
def fresh(packaged, before, kernel_tar, tiny_tar):
    """The package is installed."""
    assert "fcm:" not in "\n".join(before)
    packaged.install()
    packaged.add_assets(kernel_tar, tiny=tiny_tar)
    return packaged


@pytest.fixture(scope="module")
def product(fresh):
    """And an ordinary user, who is in group fcm, has a VM that counts."""
    fresh.add_user()
    fresh.fcm("create", "--name", "one", "--image", "tiny", "--mem", "96", user=products.USER)
    fresh.in_guest("one", products.COUNTER)
    return fresh


def same_guest(product, before, boot_id):
    now = product.vm("one")
    assert (now["state"], now["vmm_pid"], now["ip"]) == ("running", before["vmm_pid"], before["ip"])
    assert product.boot_id("one") == boot_id and product.count("one") > 0


def test_lintian(package):
    if not shutil.which("lintian"):
        pytest.skip("no lintian on this machine")
    done = subprocess.run(["lintian", "--allow-root", "--fail-on", "error,warning", package], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0 and not done.stdout, done.stdout + done.stderr


def test_install(fresh):
    run = fresh.host.run
    for unit in ("fcmd", "fcm-vms"):
        assert run(f"systemctl is-active {unit}; systemctl is-enabled {unit}").text == "active\nenabled\n"
    assert run("stat -c '%U:%G %a' /run/fcm/fcmd.sock").text == "root:fcm 660\n"
    assert run("dpkg-query -W -f='${Conffiles}' fcm").text.split()[0] == "/etc/fcm/fcmd.conf"
    shown = run("fcmd --example-config").text
    assert shown == run("cat /etc/fcm/fcmd.conf").text and "#pool = 172.16.0.0/24" in shown
    assert not run("dpkg --verify fcm | grep -vE ' /usr/share/(doc|man)(/|$)'", check=False).text, "the host's dpkg leaves documents out"


def test_an_ordinary_user(product):
    """A member of group fcm makes a VM; who isn't one may not, and is told what to do."""
    product.host.run("useradd -m eve")
    refused = product.fcm("ls", user="eve", check=False)
    assert refused.status != 0 and "token create" in refused.both
    assert product.fcm("ssh", "one", "--", "echo in it", user=products.USER).text == "in it\n"


def test_exposure(product):
    unit = product.host.run("systemctl show -P FragmentPath fcmd").text.strip()
    said = product.host.run(f"systemd-analyze security --offline=true --no-pager {unit}").text
    found = re.search(r"Overall exposure level for fcmd.service: ([\d.]+)", said)
    assert found and float(found[1]) <= EXPOSURE, said


def test_units_are_well_formed(product):
    done = product.host.run("systemd-analyze verify fcmd.service fcm-vms.service 2>&1 | grep -i fcm", check=False)
    assert not done.text, done.text
    for unit in ("fcmd", "fcm-vms"):
        assert product.host.run(f"systemctl is-active {unit}; systemctl is-enabled {unit}").text == "active\nenabled\n"


def test_vms_are_in_a_unit_of_their_own(product):
    vm = product.vm("one")
    group = product.host.run(f"cat /proc/{vm['vmm_pid']}/cgroup").text.strip()
    assert group == f"0::/system.slice/fcm-vms.service/{vm['id']}"
    memory, swap = product.host.run(f"cd /sys/fs/cgroup/system.slice/fcm-vms.service/{vm['id']}; cat memory.max memory.swap.max").text.split()
    assert memory.isdigit() and swap == memory


def test_what_a_vmm_inherits(product):
    status = product.host.run(f"cat /proc/{product.vm('one')['vmm_pid']}/status").text
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.M) and re.search(r"^Seccomp:\s+2$", status, re.M)
    for caps in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert re.search(rf"^{caps}:\s+0+$", status, re.M), status
    environment = product.host.run(f"tr '\\0' '\\n' </proc/{product.vm('one')['vmm_pid']}/environ").text
    assert "NOTIFY_SOCKET" not in environment and "WATCHDOG" not in environment


def test_restart(product):
    before, boot_id, daemon = product.vm("one"), product.boot_id("one"), product.main_pid()
    product.host.run("systemctl restart fcmd")
    assert product.main_pid() != daemon
    same_guest(product, before, boot_id)


@pytest.mark.one_release
def test_doctor(product):
    """Hardened as it is, the daemon sees what it must; the clock only by systemd's word."""
    found = {row["name"]: row for row in json.loads(product.host.run("fcm doctor --json", check=False).text)}
    assert found["clock"]["status"] == "warn" and "timedatectl" in found["clock"]["fix"], found["clock"]
    well = {"programs", "tun", "nft", "pool", "forwarding", "rp_filter", "docker", "ufw", "firewalld", "forward", "cgroup", "disk"}
    assert well <= {name for name, row in found.items() if row["status"] == "ok"}, found


@pytest.mark.one_release
def test_stop_and_start(product):
    before, boot_id = product.vm("one"), product.boot_id("one")
    product.host.run("systemctl stop fcmd")
    assert product.lives(before["vmm_pid"])
    product.host.run("systemctl start fcmd")
    same_guest(product, before, boot_id)


def test_kill(product):
    before, boot_id, daemon = product.vm("one"), product.boot_id("one"), product.main_pid()
    product.host.run(["kill", "-9", str(daemon)])
    product.settle({"one": "running"})
    assert product.main_pid() not in (0, daemon)
    same_guest(product, before, boot_id)


@pytest.mark.one_release
def test_watchdog(product):
    """A daemon whose loop stands still is ended and started again; one that works isn't."""
    product.host.put(DROP_IN, "[Service]\nWatchdogSec=4\n")
    product.host.run("systemctl daemon-reload; systemctl restart fcmd")
    before, boot_id, daemon = product.vm("one"), product.boot_id("one"), product.main_pid()
    product.host.run("sleep 9")
    assert product.main_pid() == daemon, "it was fed"
    product.host.run(["kill", f"-{signal.SIGSTOP.value}", str(daemon)])
    product.host.run(f"for i in $(seq 60); do test \"$(systemctl show -P MainPID fcmd)\" != {daemon} && break; sleep 0.5; done",
                     timeout=60)
    product.settle({"one": "running"})
    assert product.main_pid() not in (0, daemon)
    assert "watchdog" in product.host.run("journalctl -u fcmd --no-pager").text.lower()
    same_guest(product, before, boot_id)
    product.host.run(f"rm {DROP_IN}; systemctl daemon-reload; systemctl restart fcmd")


def test_journal(product):
    vm = product.vm("one")
    product.host.run("systemctl restart fcmd")
    lines = product.host.run(f"journalctl --no-pager -o cat -u fcmd FCM_VM={vm['id']}").text.splitlines()
    assert any("adopt" in line for line in lines), lines
    assert all(f"vm={vm['id']}" in line for line in lines)
    product.host.run("journalctl --sync")
    priorities = product.host.run("journalctl --no-pager -o json -u fcmd _COMM=fcmd").text
    assert set(re.findall(r'"PRIORITY":"(\d)"', priorities)) <= set("3467") and '"PRIORITY":"6"' in priorities


def test_what_reads_images_has_its_sandbox(product):
    """Under the unit's limits, too: it is the job that refuses this host's own address, from within; without its sandbox it
    would not have looked."""
    done = product.fcm("pull", "127.0.0.1:1/x", check=False)
    assert done.status == 5 and "127.0.0.1:1 leads to an address that isn't allowed" in done.both, done.both


@pytest.mark.one_release
def test_the_api_by_caddys_unit(product):
    """Both as their packages run them: Caddy's user gets at the socket in /run/fcm, and there a token is needed."""
    run = product.host.run
    ask = ("curl -sS -o /dev/null -w '%{http_code}' --cacert /var/lib/caddy/.local/share/caddy/pki/authorities/local/root.crt "
           "--resolve api.example.org:443:127.0.0.1 https://api.example.org/v1")
    run("systemctl start caddy; cp /etc/fcm/fcmd.conf /root/fcmd.conf; printf 'tls = internal\\napi_domain = api.example.org\\n' >>/etc/fcm/fcmd.conf; "
        "systemctl restart fcmd")
    run("for i in $(seq 60); do fcm info --json | grep -q '\"active\"' && break; sleep 0.5; done", timeout=60)
    run(f"for i in $(seq 60); do {ask} && break; sleep 0.5; done", timeout=60)
    assert run(ask).text == "401"
    assert run(f"{ask} -H \"Authorization: Bearer $(fcm token create)\"").text == "200"
    run("mv /root/fcmd.conf /etc/fcm/fcmd.conf; systemctl restart fcmd; "
        "for i in $(seq 60); do test -e /etc/caddy/fcm.d/fcmd-api.caddy || break; sleep 0.5; done; systemctl stop caddy", timeout=60)
    assert run("ls -A /etc/caddy/fcm.d; ls /run/fcm | grep proxy", check=False).text == ""


def test_upgrade_keeps_vms(product, package, tmp_path):
    for name in NAMES[1:]:
        product.create(name)
        product.in_guest(name, products.COUNTER)
    vms, daemon = product.vms(), product.main_pid()
    boot_ids = {name: product.boot_id(name) for name in NAMES}
    product.host.run("echo 'stop_seconds = 15' >>/etc/fcm/fcmd.conf")
    product.install(package=products.next_version(package, tmp_path))
    assert product.main_pid() not in (0, daemon), "the new daemon"
    assert product.host.run("dpkg-query -W -f='${Version}' fcm").text.startswith("1:")
    product.settle(dict.fromkeys(NAMES, "running"))
    now = product.vms()
    for name in NAMES:
        assert (now[name]["vmm_pid"], now[name]["ip"]) == (vms[name]["vmm_pid"], vms[name]["ip"])
        assert product.boot_id(name) == boot_ids[name]
        assert product.count(name) > 0
    assert "stop_seconds = 15\n" in product.host.run("cat /etc/fcm/fcmd.conf").text
    assert re.search(r"^stop_seconds = 15 .*fcmd.conf", product.host.run("fcmd --print-config").text, re.M)
    for name in NAMES[2:]:
        product.fcm("destroy", "-f", name)


def test_vms_stop_gently_with_their_unit(product):
    """But for one that hangs. They start with the next daemon, for nobody asked for their end."""
    before, boot_id, states = product.vm("one"), product.boot_id("one"), product.states()
    if "two" in states:
        product.fcm("update", "two", "--restart", "no")
        states["two"] = "stopped"
        product.host.run(["kill", f"-{signal.SIGSTOP.value}", str(product.vm("two")["vmm_pid"])])
    product.host.run("systemctl stop fcm-vms", timeout=120)
    for now in product.vms().values():
        assert (now["state"], now["desired"], now["reason"]["code"]) == ("stopped", "running", "host_shutdown")
    assert not re.search("fcm-shim|firecracker|tap_", product.traces())
    product.host.run("systemctl restart fcmd")
    product.settle(states)
    assert product.host.run("systemctl is-active fcm-vms").text == "active\n"
    assert product.vm("one")["ip"] == before["ip"] and product.boot_id("one") != boot_id
    assert product.count("one") > 0 and product.vm("one")["reason"] is None
    for name in NAMES[1:2]:
        product.fcm("destroy", "-f", name)


@pytest.mark.whole
def test_without_a_daemon_the_unit_still_ends_them(product):
    vm = product.vm("one")
    product.host.run("systemctl stop fcmd; systemctl stop fcm-vms", timeout=120)
    assert not product.lives(vm["vmm_pid"])
    product.host.run("systemctl reset-failed; systemctl start fcmd")
    product.settle({"one": "running"})


@pytest.mark.whole
def test_disabled_stays_disabled(product):
    product.host.run("systemctl disable fcmd")
    product.install("--force-downgrade")
    assert product.host.run("systemctl is-enabled fcmd", check=False).text == "disabled\n"
    product.host.run("systemctl enable fcmd")


@pytest.mark.one_release
def test_remove(product):
    """VMs end; what is theirs stays for the next installation, also where the configuration goes and the state shall stay, and
    nothing of them is left in the kernel."""
    boot_id, ip = product.boot_id("one"), product.vm("one")["ip"]
    run = product.host.run
    run("dpkg -r fcm", timeout=120)
    assert product.traces() == ""
    assert not run("systemctl list-unit-files --no-legend 'fcm*' | grep -v masked", check=False).text
    assert run("ls /etc/fcm").text == "fcmd.conf\n"
    run("touch /var/lib/firecracker/.keep; dpkg -P fcm")
    assert not run("ls -d /etc/fcm; getent group fcm", check=False).text
    assert len(run("ls -d /var/lib/firecracker/*/config.json").text.split()) == 1
    product.install()
    product.settle({"one": "running"})
    assert product.vm("one")["ip"] == ip
    assert product.count("one") > 0 and product.boot_id("one") != boot_id


def test_purge(product, before):
    product.host.run(f"rm /var/lib/firecracker/.keep; dpkg -P fcm; userdel -r {products.USER}; userdel -r eve", timeout=120,
                     check=False)
    assert product.traces() == ""
    left = files(product.host) - before
    assert not left, sorted(left)
