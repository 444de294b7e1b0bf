"""The rows of a bench's table: each is fcm's figure against the bare thing's, with a goal that is met or missed; and the parts that
the bench has, each of which leaves its rows in a file for report.py."""
import json
import os
import statistics
import sys
import time

ROWS = []
# What is measured against what; report.py shows them in this order.
PARTS = {
    "vm": "A VM's life, on QEMU: against the same command line and requests by hand",
    "exec": "A command in a VM: against ssh",
    "cp": "Files: against scp",
    "clone": "Clones and snapshots: against a boot, and against dd",
    "net": "A published port: against the VM's own address",
    "run": "A VM for one command: against the same by hand",
    "images": "Images: against skopeo and umoci",
    "daemon": "The daemon alone, with a scripted VMM: against libmicrohttpd with the same answer, and against itself when it has little to do",
    "rate": "Many creates, with a scripted VMM: against bare launches of the same",
    "firecracker": "Firecracker on KVM in a test host, which is itself emulated (docs/TESTING.md): against the same calls by hand",
    "user": "`fcm bench`, on QEMU",
    "user-firecracker": "`fcm bench`, on Firecracker in a test host, which is emulated",
}


def row(what, ours, bare, goal, unit="ms", lower=True):
    """One line of the table. `lower`: the ratio ours/bare shall be at most the goal, else at least."""
    ratio = ours / bare if bare else ours
    if goal is None:
        verdict = ""
    elif bare is None:
        verdict = "met" if ours <= goal else "MISSED"
    else:
        verdict = "met" if (ratio <= goal if lower else ratio >= goal) else "MISSED"
    ROWS.append((what, f"{ours:.1f} {unit}", f"{bare:.1f} {unit}" if bare else "-", f"{ratio:.2f}" if bare else "-",
                 f"{'<=' if lower else '>='} {goal:g}" if goal is not None else "-", verdict))
    print("  ".join(ROWS[-1]), file=sys.stderr, flush=True)


def timed(call):
    """Seconds that it takes."""
    begun = time.monotonic()
    call()
    return time.monotonic() - begun


def timed_ms(call):
    return timed(call) * 1e3


def by_turns(rounds, *measures):
    """Call each measure in turn, `rounds` times; their medians. A first round warms up and isn't counted. What one left to be
    written to disk is written before the next one, whose fsync would wait for it."""
    results = [[] for _ in measures]
    for number in range(rounds + 1):
        for result, measure in zip(results, measures):
            os.sync()
            value = measure(number)
            if number:
                result.append(value)
    return [statistics.median(r) for r in results]


# ---- parts ----

def add_options(parser):
    """Those of both halves of the bench."""
    parser.add_argument("--rounds", type=int, help="how often each is measured")
    parser.add_argument("--many", type=int, default=500, help="VMs for the crowded create")
    parser.add_argument("--vms", type=int, default=20, help="VMs in the test host")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PARTS), metavar="PART,...", help=", ".join(PARTS))
    return parser


def wanted(options, *names):
    """Those of these parts that were asked for."""
    return [name for name in names if name in options.only]


def part(folder, name, measure):
    """Measure it, and leave what came of it, with what one must know besides. What `measure` returns is kept as it is."""
    first, load = len(ROWS), os.getloadavg()[0]
    report = measure()
    (folder / "bench").mkdir(exist_ok=True)
    (folder / f"bench/{name}.json").write_text(json.dumps({
        "date": time.strftime("%Y-%m-%d", time.gmtime()), "load": round(load, 1), "rows": ROWS[first:], "report": report}))


def table():
    head = ("what", "fcm", "bare", "ratio", "goal", "verdict")
    widths = [max(len(r[i]) for r in [head, *ROWS]) for i in range(len(head))]
    for line in [head, *ROWS]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
