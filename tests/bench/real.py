#!/usr/bin/python3
"""The bench's second table: the real Firecracker on KVM, in a test host. `./bootstrap bench` calls this behind run.py.

What is measured runs in the host (in_host.py); here it is put there, and the table made.
"""
import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from table import add_options, part, row, table, wanted

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests/host"))
import firecracker  # noqa: E402
import host as hosts  # noqa: E402
import product  # noqa: E402

RELEASE, FOLDER = "bookworm", "/srv/bench"
ASSETS = Path(os.environ.get("FCM_ASSETS") or hosts.BUILD / "assets")


def prepare(host):
    """The installed product with kernel and image, and what in_host.py needs."""
    host.install()
    host.put_tree(firecracker.fetch(hosts.CACHE), "/usr/local/bin")
    for path in (TOP / "tests/bench/in_host.py", TOP / "tests/host/by_hand.py"):
        host.put(f"{FOLDER}/{path.name}", path.read_bytes())
    host.run("systemctl start fcmd")
    product.Product(host).add_assets(ASSETS / "kernel.tar", tiny=ASSETS / "tiny.tar")


def by_turns_in_host(host, options):
    result = json.loads(host.run(f"python3 -B {FOLDER}/in_host.py {options.rounds or 5} {options.vms}", timeout=600).out)
    rows(result, options.vms)


def user(host, options):
    return json.loads(host.run(f"fcm bench -n {options.rounds or 5} --json tiny", timeout=300).out)


def measure(options):
    measures = {"firecracker": by_turns_in_host, "user-firecracker": user}
    with tempfile.TemporaryDirectory(prefix="bench-", dir=hosts.BUILD) as folder, hosts.Host(RELEASE, Path(folder)) as host:
        prepare(host)
        for name in wanted(options, *measures):
            part(hosts.BUILD, name, lambda name=name: measures[name](host, options))


def rows(result, vms):
    def median(who, key):
        return statistics.median(times[key] for times in result[who]) * 1e3

    for key, what, goal in (("started", "create to InstanceStart answered / the same calls by hand", 1.15),
                            ("marker", "create to the guest set up by its agent / by hand", 1.03),
                            ("spawned", "VMM spawned by shim in jail and cgroup / by hand", None)):
        row(what, median("ours", key), median("by_hand", key), goal)
    row(f"{vms} VMs up, one after the other", result["up"], None, None, "s")
    row(f"{vms} VMs down", result["down"], None, None, "s")
    row("CPU of an idle guest", result["idle"] * 100, None, None, "%")
    seconds = [statistics.median(result[key]) * 1e3 for key in ("warm", "cold")]
    row("clone to its first exec / cold boot to its first exec", *seconds, 0.1)
    row(f"PSS of a clone, of {vms} / of a VM that booted", statistics.mean(result["clone_kib"]) / 1024, result["cold_kib"] / 1024, 0.3, "MiB")
    row("RSS of fcm-shim, the largest", result["shim_kib"] / 1024, None, 1, "MiB")


def main():
    options = add_options(argparse.ArgumentParser(description=__doc__.splitlines()[0])).parse_args()
    if not wanted(options, "firecracker", "user-firecracker"):
        return 0
    try:
        measure(options)
    except (hosts.Unavailable, firecracker.Unavailable) as reason:
        print(f"SKIPPED the table of the test host: {reason}")
        return 0
    table()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except hosts.Failed as failure:
        sys.exit(f"bench: {failure}")
