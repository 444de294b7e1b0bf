"""The Debian package: installs, upgrades under running VMs, goes, and leaves nothing."""
import re
import shutil
import subprocess

import pytest

import host as hosts
import product as products

NAMES = ("one", "two", "three")[:3 if hosts.FIRST else 1]
# Where files of a package or of its services may stay.
FOLDERS = "/etc /usr /opt /srv /home /root /run /var"
# What belongs to others: dpkg's and systemd's own records, logs, the journal, what the test put there.
OTHERS = ("/var/lib/dpkg/|/var/log/|/var/cache/|/run/log/|/run/systemd/|/run/udev/|/run/user/|/run/lock|/run/dbus|/var/tmp/|/tmp/"
          "|/root/fcm.deb|/root/.ssh|/root/.fcm|/root/.local|/root/.config|/root/.cache"
          "|/etc/.pwd.lock|/etc/(group|gshadow|passwd|shadow|subuid|subgid)-|/var/lib/systemd/")


@pytest.fixture(scope="module")
def product(packaged):
    return packaged


def files(host):
    listing = host.run(f"find {FOLDERS} -xdev | grep -vE '^({OTHERS})'", timeout=60).text
    accounts = host.run("cat /etc/passwd /etc/group").text
    return set(listing.splitlines()) | set(accounts.splitlines())


@pytest.fixture(scope="module")
def before(product):
    return files(product.host)


def test_lintian(package):
    if not shutil.which("lintian"):
        pytest.skip("no lintian on this machine")
    done = subprocess.run(["lintian", "--allow-root", "--fail-on", "error,warning", package], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0 and not done.stdout, done.stdout + done.stderr


def test_install(product, before, kernel_tar, tiny_tar):
    assert "fcm:" not in "\n".join(before)
    product.install()
    run = product.host.run
    for unit in ("fcmd", "fcm-vms"):
        assert run(f"systemctl is-active {unit}; systemctl is-enabled {unit}").text == "active\nenabled\n"
    assert run("stat -c '%U:%G %a' /run/fcm/fcmd.sock").text == "root:fcm 660\n"
    assert run("dpkg-query -W -f='${Conffiles}' fcm").text.split()[0] == "/etc/fcm/fcmd.conf"
    shown = run("fcmd --example-config").text
    assert shown == run("cat /etc/fcm/fcmd.conf").text and "#pool = 172.16.0.0/24" in shown
    assert not run("dpkg --verify fcm | grep -vE ' /usr/share/(doc|man)(/|$)'", check=False).text, "the host's dpkg leaves documents out"
    product.add_assets(kernel_tar, tiny=tiny_tar)


def test_an_ordinary_user(product):
    """A member of group fcm makes a VM; who isn't one may not, and is told what to do."""
    product.host.run("useradd -m eve")
    refused = product.fcm("ls", user="eve", check=False)
    assert refused.status != 0 and "token create" in refused.both
    product.add_user()
    product.fcm("create", "--name", "one", "--image", "tiny", "--mem", "96", user=products.USER)
    assert product.fcm("ssh", "one", "--", "echo in it", user=products.USER).text == "in it\n"


def test_upgrade_keeps_vms(product, package, tmp_path):
    for name in NAMES[1:]:
        product.create(name)
    for name in NAMES:
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
    for name in NAMES[1:]:
        product.fcm("destroy", "-f", name)


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
