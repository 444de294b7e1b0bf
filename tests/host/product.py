"""The product in the test host, as its Debian package installs it (./bootstrap package makes it)."""
import json
import os
import subprocess
import time
from pathlib import Path

import host as hosts

PACKAGES = Path(os.environ.get("FCM_PACKAGES") or hosts.BUILD / "packages")
USER = "ada"
# Each second a number in a line of its own, whole or not at all; not flushed, so only a clean end keeps the last ones. In a guest
# within a host a sleep(1) would be a tenth of the work, so the shell waits by itself.
COUNTER = ("(set -e; n=$(cat /root/count 2>/dev/null | tail -n 1); rm -f /run/tick; mkfifo /run/tick; exec 3<>/run/tick; "
           "while :; do read -t 1 x <&3 || n=$((n + 1)); echo $n >>/root/count; done) >/dev/null 2>&1 &")


def deb(release):
    """The path of the release's package, or None."""
    return next((PACKAGES / release).glob("fcm_*.deb"), None)


def next_version(path, folder):
    """The same package with a higher version, for upgrades."""
    tree = Path(folder) / "tree"
    subprocess.run(["dpkg-deb", "-R", path, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace("\nVersion: ", "\nVersion: 1:", 1))
    new = Path(folder) / "fcm_next.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, new], check=True, stdout=subprocess.DEVNULL)
    return new


class Product:
    """fcm in a test host."""

    def __init__(self, host, package=None):
        self.host, self.package = host, package
        self.boots = {}  # of each guest that boot_id() saw: its VM's name and driver

    def install(self, *options, package=None):
        self.host.put("/root/fcm.deb", Path(package or self.package).read_bytes())
        return self.host.run(["dpkg", "-i", *options, "/root/fcm.deb"], timeout=120)

    def add_assets(self, kernel_tar, **image_tars):
        images = [("POST", f"images/import?name={name}", tar) for name, tar in image_tars.items()]
        for method, path, tar in (("PUT", "kernels/default", kernel_tar), *images):
            self.host.put("/root/asset.tar", Path(tar).read_bytes())
            self.host.run(f"curl -sSf --unix-socket /run/fcm/fcmd.sock -H 'Content-Type: application/octet-stream' -X {method} "
                          f"-T /root/asset.tar 'http://localhost/v1/{path}'; rm /root/asset.tar", timeout=300)

    def add_user(self):
        self.host.run(f"id {USER} 2>/dev/null || useradd -m {USER}; usermod -aG fcm {USER}")

    def fcm(self, *words, user=None, check=True, timeout=120):
        command = hosts.shlex.join(["fcm", *words])
        return self.host.run(["su", "-", user, "-c", command] if user else command, check=check, timeout=timeout)

    def create(self, name, *options):
        self.fcm("create", "--name", name, "--image", "tiny", "--mem", "96", *options)
        return self.vm(name)

    def vm(self, name):
        return json.loads(self.fcm("inspect", name).text)

    def vms(self):
        return {vm["name"]: vm for vm in json.loads(self.fcm("ls", "--json").text)}

    def states(self):
        return {name: vm["state"] for name, vm in self.vms().items()}

    def in_guest(self, name, command):
        """By the agent: ssh would be five times the work."""
        return self.fcm("exec", name, "sh", "-c", command).text

    def boot_id(self, name):
        boot_id = self.in_guest(name, "cat /proc/sys/kernel/random/boot_id").strip()
        if boot_id not in self.boots:
            self.boots[boot_id] = (name, self.vm(name)["vmm"])
        return boot_id

    def count(self, name):
        """What COUNTER wrote: without a gap, a repetition or half a line."""
        lines = self.in_guest(name, "cat /root/count").split("\n")
        assert lines.pop() == "", "the last line is cut"
        assert [int(line) for line in lines] == list(range(1, len(lines) + 1))
        return len(lines)

    def settle(self, wanted, timeout=180):
        """Until the VMs have these states."""
        deadline, now = time.monotonic() + timeout, None
        while time.monotonic() < deadline:
            done = self.fcm("ls", "--json", check=False)
            if done.status == 0:
                now = {vm["name"]: vm["state"] for vm in json.loads(done.text)}
                if now == wanted:
                    return
            time.sleep(0.3)
        raise AssertionError(f"not within {timeout} s: {wanted}; they are {now}")

    def main_pid(self):
        return int(self.host.run("systemctl show -P MainPID fcmd").text)

    def lives(self, pid):
        return self.host.run(["test", "-d", f"/proc/{pid}"], check=False).status == 0

    def traces(self):
        """What there is of VMs outside of the state directory, a line each."""
        return self.host.run(
            "ip -br link | grep -o '^tap_[a-z0-9]*'; pgrep -a 'fcm-shim|qemu-system|firecracker'; "
            "nft list tables | grep fcm; ip route | grep -E 'unreachable|tap_'; ls -d /sys/fs/cgroup/fcm 2>/dev/null; "
            "ls -d /sys/fs/cgroup/system.slice/fcm-vms.service/????????/ 2>/dev/null", check=False).text
