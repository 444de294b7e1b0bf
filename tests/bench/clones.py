"""What a start from a snapshot saves: clones against cold boots of the same image, and what a snapshot costs its VM."""
import re
import statistics
from pathlib import Path

from table import by_turns, row, timed_ms

CROWD = 8  # clones at a time, beside one
MANY_MIB = 64  # what dd writes, to compare a snapshot's rate with


def answers(host, name):
    assert host.api.post(f"/v1/vms/{name}/exec", {"cmd": ["true"]}).ok()["exit"] == 0


def pss(host, name):
    """MiB of all that the VM's VMM has in memory; pages that several have are shared out."""
    text = Path(f"/proc/{host.vm(name)['vmm_pid']}/smaps_rollup").read_text()
    return int(re.search(r"^Pss:\s+(\d+)", text, re.M)[1]) / 1024


def gone(host, *names):
    for name in names:
        host.api.delete(f"/v1/vms/{name}?force=1").ok()


def clone(host, name, count):
    made = host.api.post("/v1/snapshots/warm/clone", {"name": name, "count": count}).ok(201)["vms"]
    return [vm["name"] for vm in made]


def clones(host, count=1):
    """Make them, and take them away; milliseconds until all are there and answer."""
    made = []

    def make():
        made.extend(clone(host, "clone", count))
        for name in made:
            answers(host, name)

    taken = timed_ms(make)
    gone(host, *made)
    return taken


def cold(host):
    def make():
        host.create("cold", image="base")
        answers(host, "cold")

    taken = timed_ms(make)
    gone(host, "cold")
    return taken


def run(host, *argv):
    taken = timed_ms(lambda: host.fcm("run", "-d", "--name", "ran", *argv))
    gone(host, "ran")
    return taken


def dd_rate(host, folder):
    """MiB/s of a file that is on the disk when it ends."""
    path = folder / "dd"
    taken = timed_ms(lambda: host.run("dd", "if=/dev/zero", f"of={path}", "bs=1M", f"count={MANY_MIB}", "conv=fsync"))
    path.unlink()
    return MANY_MIB / taken * 1e3


def snapshot_rate(host, pauses):
    taken = host.api.post("/v1/vms/source/snapshots", {"name": "rate"}).ok(201)
    host.api.delete("/v1/snapshots/rate").ok()
    pauses.append(taken["pause_ms"])
    return taken["on_disk"] / (1 << 20) / taken["took_ms"] * 1e3


def bench_clones(host, rounds):
    host.create("source", image="base")
    answers(host, "source")
    host.api.post("/v1/vms/source/snapshots", {"name": "warm"}).ok(201)
    row("clone to its first exec / cold boot to its first exec", *by_turns(rounds, lambda _: clones(host), lambda _: cold(host)), 0.05)
    many, one = by_turns(max(rounds // 2, 1), lambda _: clones(host, CROWD) / CROWD, lambda _: clones(host))
    row(f"a clone of {CROWD} at once / one alone", many, one, None)
    row("fcm run from a warm snapshot / cold", *by_turns(rounds, lambda _: run(host, "--snapshot", "warm"), lambda _: run(host, "base")), None)
    twins = clone(host, "twin", 2)
    host.create("cold", image="base")
    for name in (*twins, "cold"):
        answers(host, name)
    row("PSS of a clone / of a VM that booted", statistics.mean(pss(host, name) for name in twins), pss(host, "cold"), 0.3, "MiB")
    gone(host, *twins, "cold")
    pauses = []
    rates = by_turns(rounds, lambda _: snapshot_rate(host, pauses), lambda _: dd_rate(host, host.work))
    row(f"a live snapshot / dd of {MANY_MIB} MiB, both on the disk", *rates, None, "MiB/s", lower=False)
    row("pause of a live snapshot", statistics.median(pauses), None, None)
    gone(host, "source")
    host.api.delete("/v1/snapshots/warm").ok()
