#!/usr/bin/python3
"""What is on this host that a VM could have left behind, as one sorted text.

    residue.py [--state DIR] [--run DIR] [--caddy DIR]... > before
    residue.py ... > after; diff before after
    residue.py ... --each-line    again and again: for each line that it reads, ended by an empty one
    residue.py --self-test

Taken before a VM is created and after it is destroyed, the two texts must be byte-identical. The program knows nothing
of the daemon's code: it asks ip(8), nft(8), /proc and the file system. What changes by itself (counters, handles, learnt
neighbours, lifetimes) is left out. --self-test plants one thing of each kind, inside namespaces of its own, and fails
unless each of them shows.
"""
import argparse
import collections
import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time

VOLATILE = {"handle", "counter", "packets", "bytes", "expires", "metainfo"}
SYSCTLS = {
    "ipv4": ("forwarding", "proxy_arp", "rp_filter", "send_redirects", "accept_redirects", "route_localnet"),
    "ipv6": ("forwarding", "proxy_ndp", "disable_ipv6"),
}
PROGRAMS = re.compile(r"^(fcm-shim|qemu-system-.*|firecracker|fake-vmm)$")
# Other namespaces see the same cgroup tree, so a group counts by its name.
CGROUP = re.compile(r"(^|/)fcm(/|$)")


def output(*argv):
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"residue.py: {' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


def ip_json(*argv):
    return json.loads(output("ip", "-j", *argv) or "[]")


def links():
    for link in ip_json("-d", "addr", "show"):
        kind = link.get("linkinfo", {}).get("info_kind", link.get("link_type"))
        yield "link {} kind={} mtu={} group={} address={} flags={}".format(
            link["ifname"], kind, link["mtu"], link.get("group"), link.get("address"),
            ",".join(sorted(link["flags"])))
        for address in link.get("addr_info", []):
            yield "address {} {}/{} peer={}".format(
                link["ifname"], address.get("local"), address.get("prefixlen"), address.get("address"))


def routes():
    for family in ("-4", "-6"):
        for route in ip_json(family, "route", "show", "table", "all"):
            kept = {k: v for k, v in route.items() if k not in ("expires", "flags", "pref")}
            yield f"route {family} {json.dumps(kept, sort_keys=True)}"
        for rule in ip_json(family, "rule", "show"):
            yield f"rule {family} {json.dumps(rule, sort_keys=True)}"


def neighbours():
    """Permanent and proxy entries: those were put there by somebody; the others were learnt."""
    for neighbour in ip_json("neigh", "show", "nud", "permanent"):
        yield "neighbour {} {} {}".format(neighbour["dst"], neighbour["dev"], neighbour.get("lladdr"))
    for neighbour in ip_json("neigh", "show", "proxy"):
        yield "neighbour proxy {} {}".format(neighbour["dst"], neighbour.get("dev"))


def stable(node):
    """The same JSON without what changes by itself, its lists of plain elements sorted."""
    if isinstance(node, dict):
        return {k: stable(v) for k, v in node.items() if k not in VOLATILE}
    if isinstance(node, list):
        return [stable(v) for v in node]
    return node


def firewall():
    for item in json.loads(output("nft", "-j", "list", "ruleset") or "{}").get("nftables", []):
        item = stable(item)
        for kind, body in item.items():
            elements = body.pop("elem", []) if isinstance(body, dict) else []
            yield f"nft {kind} {json.dumps(body, sort_keys=True)}"
            for element in elements:
                yield f"nft element {body.get('table')} {body.get('name')} {json.dumps(element, sort_keys=True)}"


def sysctls():
    yield "sysctl ip_forward " + read("/proc/sys/net/ipv4/ip_forward")
    for family, keys in SYSCTLS.items():
        base = f"/proc/sys/net/{family}/conf"
        for device in os.listdir(base):
            for key in keys:
                value = read(f"{base}/{device}/{key}")
                if value is not None:
                    yield f"sysctl {family} {device} {key}={value}"


def read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None


def below(path, roots):
    return any(path == root or path.startswith(root + "/") for root in roots)


def open_files(pid, roots):
    found = []
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/{pid}/fd/{fd}")
                if below(target.removesuffix(" (deleted)"), roots):
                    found.append(target)
    with contextlib.suppress(OSError):
        for link in ("cwd", "root"):
            target = os.readlink(f"/proc/{pid}/{link}")
            if below(target, roots):
                found.append(target)
    return found


def program_names(pid):
    names = []
    with contextlib.suppress(OSError):
        names.append(os.path.basename(os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")))
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            names += [os.path.basename(a) for a in file.read().decode(errors="replace").split("\0")[:2]]
    return names


def netns_of(pid):
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return None


def parent_of(pid):
    text = read(f"/proc/{pid}/stat") or ""
    return int(text.rsplit(")", 1)[1].split()[1]) if ")" in text else 0


def belongs_here(pid, netns):
    """In this network namespace, or in one that a process of this one made for it."""
    while pid > 1:
        if netns_of(pid) == netns:
            return True
        pid = parent_of(pid)
    return False


def processes(roots):
    """By program, by cgroup, by the files that they hold open."""
    netns = netns_of("self")
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        names = program_names(pid)
        if pid == os.getpid() or not names:
            continue
        known = any(PROGRAMS.match(name) for name in names)
        if netns_of(pid) != netns and not (known and belongs_here(pid, netns)):
            continue
        if known:
            yield f"process {names[0]}"
        for line in (read(f"/proc/{pid}/cgroup") or "").splitlines():
            group = line.split(":", 2)[2]
            if re.search(r"/fcm/[a-z0-9]{8}$", group):
                yield f"process {names[0]} in cgroup {group}"
        for path in sorted(open_files(pid, roots)):
            yield f"process {names[0]} holds {path}"


def cgroups(below_name):
    for path, _, _ in os.walk("/sys/fs/cgroup"):
        name = os.path.relpath(path, "/sys/fs/cgroup")
        if CGROUP.search(name) and (below_name is None or below_name in name.split("/")):
            yield f"cgroup {name}"


def paths(roots):
    for root in roots:
        for folder, directories, files in os.walk(root):
            for name in directories + files:
                path = os.path.join(folder, name)
                with contextlib.suppress(OSError):
                    info = os.lstat(path)
                    target = f" -> {os.readlink(path)}" if stat.S_ISLNK(info.st_mode) else ""
                    yield f"path {path} {stat.filemode(info.st_mode)} {info.st_uid}:{info.st_gid}{target}"


def snapshot(state, run, caddy, group=None):
    roots = [os.path.realpath(p) for p in (state, run)]
    sites = [os.path.realpath(p) for p in caddy]
    lines = []
    for part in (links(), routes(), neighbours(), firewall(), sysctls(), processes(roots), cgroups(group),
                 paths(roots + sites)):
        lines += part
    return "\n".join(sorted(lines)) + "\n"


# ---- the self test ----

class Planter:
    """One of each kind: how to plant it, what its line begins with, how to remove it."""

    def __init__(self, root):
        self.root = root
        self.state, self.run, self.caddy = (os.path.join(root, d) for d in ("state", "run", "caddy"))
        for folder in (self.state, self.run, self.caddy):
            os.mkdir(folder)
        self.program = os.path.join(root, "fcm-shim")
        shutil.copy("/bin/sleep", self.program)
        self.group = self.make_group_name()

    @staticmethod
    def make_group_name():
        for base in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup/pids", "/sys/fs/cgroup"):
            if os.path.exists(os.path.join(base, "cgroup.procs")):
                return os.path.join(base, f"residue-{os.getpid()}")
        raise SystemExit("residue.py: no cgroup hierarchy that can be written")

    def snapshot(self):
        return snapshot(self.state, self.run, [self.caddy], os.path.basename(self.group))

    @contextlib.contextmanager
    def command(self, plant, remove):
        output(*plant.split())
        yield
        output(*remove.split())

    @contextlib.contextmanager
    def file(self, path):
        with open(path, "w", encoding="utf-8"):
            pass
        yield
        os.unlink(path)

    @contextlib.contextmanager
    def sysctl(self, path):
        old = read(path)
        with open(path, "w", encoding="utf-8") as file:
            file.write("0" if old != "0" else "1")
        yield
        with open(path, "w", encoding="utf-8") as file:
            file.write(old)

    @contextlib.contextmanager
    def process(self, argv, **popen):
        with subprocess.Popen(argv, **popen) as child:
            time.sleep(0.1)
            yield
            child.kill()

    @contextlib.contextmanager
    def deleted_file(self):
        path = os.path.join(self.state, "gone")
        with open(path, "w", encoding="utf-8") as file:
            os.unlink(path)
            with self.process(["/bin/sleep", "60"], stdout=file):
                yield

    @contextlib.contextmanager
    def cgroup(self, member):
        group = os.path.join(self.group, "fcm", "abcd1234")
        os.makedirs(group)
        child = subprocess.Popen(["/bin/sleep", "60"]) if member else None
        if child:
            with open(os.path.join(group, "cgroup.procs"), "w", encoding="utf-8") as file:
                file.write(str(child.pid))
        yield
        if child:
            child.kill()
            child.wait()
        for folder in (group, os.path.dirname(group), self.group):
            for _ in range(50):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
                    break
                time.sleep(0.02)

    def all(self):
        chain = "{ type filter hook input priority 0; }"
        output("ip", "tuntap", "add", "base0", "mode", "tap")
        output("nft", "add table inet self; add set inet self s { type ipv4_addr; }")
        output("nft", f"add chain inet self c {chain}")
        yield "link tap_abcd1234", self.command("ip tuntap add tap_abcd1234 mode tap",
                                                "ip tuntap del tap_abcd1234 mode tap")
        yield "address base0 172.16", self.command("ip addr add 172.16.0.1/32 dev base0",
                                                   "ip addr del 172.16.0.1/32 dev base0")
        yield "route -4", self.command("ip route add unreachable 172.16.0.0/24", "ip route del unreachable 172.16.0.0/24")
        yield "rule -4", self.command("ip rule add pref 77 from 172.16.0.9 lookup main", "ip rule del pref 77")
        yield "neighbour 172.16", self.command("ip neigh add 172.16.0.50 lladdr 02:fc:00:00:00:05 dev base0 nud permanent",
                                               "ip neigh del 172.16.0.50 dev base0")
        yield "neighbour proxy", self.command("ip neigh add proxy 172.16.0.51 dev base0",
                                              "ip neigh del proxy 172.16.0.51 dev base0")
        yield "nft table", self.command("nft add table inet fcm", "nft delete table inet fcm")
        yield "nft element", self.command("nft add element inet self s {172.16.0.50}",
                                          "nft delete element inet self s {172.16.0.50}")
        yield "nft rule", self.command("nft add rule inet self c tcp dport 7777 drop", "nft flush chain inet self c")
        yield "sysctl ipv4 base0 forwarding", self.sysctl("/proc/sys/net/ipv4/conf/base0/forwarding")
        yield "sysctl ip_forward", self.sysctl("/proc/sys/net/ipv4/ip_forward")
        yield "process fcm-shim", self.process([self.program, "60"])
        yield "process fcm-shim", self.process(["unshare", "--net", self.program, "60"])
        yield "process sleep holds", self.process(["/bin/sleep", "60"], cwd=self.state)
        yield "process sleep holds", self.deleted_file()
        yield "cgroup ", self.cgroup(member=False)
        yield "process sleep in cgroup", self.cgroup(member=True)
        for folder in (self.state, self.run, self.caddy):
            yield f"path {folder}/left", self.file(f"{folder}/left")


def self_test():
    missed = 0
    with tempfile.TemporaryDirectory() as root:
        planter = Planter(root)
        for prefix, plant in planter.all():
            before = planter.snapshot()
            with plant:
                during = planter.snapshot()
            new = collections.Counter(during.splitlines()) - collections.Counter(before.splitlines())
            ok = any(line.startswith(prefix) for line in new) and planter.snapshot() == before
            print(f"{'seen' if ok else 'NOT SEEN'}: {prefix}")
            missed += not ok
    return 1 if missed else 0


def in_own_namespaces():
    """Start again in new network and mount namespaces, so that nothing is planted on the host."""
    mark = "RESIDUE_SELF_TEST"
    if mark not in os.environ:
        os.environ[mark] = "1"
        os.execvp("unshare", ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, *sys.argv])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", default="/var/lib/firecracker")
    parser.add_argument("--run", default="/run/fcm")
    parser.add_argument("--caddy", action="append", help="a directory of Caddy's (repeats; default /etc/caddy)")
    parser.add_argument("--cgroup", metavar="NAME", help="only cgroups below one of this name")
    parser.add_argument("--each-line", action="store_true", help="for each line of stdin, not once")
    parser.add_argument("--self-test", action="store_true")
    options = parser.parse_args()
    if options.self_test:
        in_own_namespaces()
        return self_test()
    for _ in sys.stdin if options.each_line else [None]:
        print(snapshot(options.state, options.run, options.caddy or ["/etc/caddy"], options.cgroup),
              end="\n" if options.each_line else "", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
