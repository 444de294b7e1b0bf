#!/usr/bin/python3
"""Writes docs/BENCH.md from what the parts of the bench left in BUILD/bench (table.py): `./bootstrap bench` calls this last.

    report.py --build BUILD          a part that was never measured is named as such
"""
import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from table import PARTS

TOP = Path(__file__).resolve().parents[2]
HEAD = ("what", "fcm", "bare", "ratio", "goal", "verdict")
INTRODUCTION = """# Bench

Written by `sudo ./bootstrap bench`; `--only PART,...` measures some anew and leaves the others. What each row is measured against is in
docs/TESTING.md, "The bench". Both sides are measured in the same run by turns, and the figures are medians, so that the ratio holds where
the figures don't: other machines have others, and one that is busy with other things (its load is told) makes single ratios wrong, too. A goal
that is missed is shown as missed. `fcm bench` measures yours.
"""


def first_line(*argv):
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        return ""


def field(path, name):
    found = re.search(rf"^{name}\s*[:=]\s*\"?(.*?)\"?$", Path(path).read_text(encoding="utf-8"), re.M)
    return found[1] if found else "unknown"


def machine(build):
    """The one that all was measured on; nothing of it tells whose it is."""
    memory = int(field("/proc/meminfo", "MemTotal").split()[0]) / 2**20
    release = field("/etc/os-release", "PRETTY_NAME")
    qemu = re.search(r"version (\S+)", first_line("qemu-system-x86_64", "--version"))
    return [("machine", f"{os.cpu_count()} x {field('/proc/cpuinfo', 'model name')}, {memory:.0f} GiB"),
            ("system", f"{release}, Linux {os.uname().release.split('-')[0]}"), ("fcm", first_line(build / "client/fcm", "version")[4:]),
            ("QEMU", qemu[1] if qemu else "none")]


def markdown(head, rows):
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for cells in rows:
        yield "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def time_text(us):
    return f"{us / 1e6:.2f} s" if us >= 1e6 else f"{us / 1e3:.1f} ms"


def user_rows(report):
    """What `fcm bench --json` said."""
    for row in report["results"]:
        yield (row["what"], row["count"], *(time_text(row[key]) for key in ("p50_us", "p95_us", "min_us", "max_us")))


def section(name, title, path):
    yield f"\n## {title}\n"
    if not path.exists():
        yield f"Not measured yet: `sudo ./bootstrap bench --only {name}`."
        return
    result = json.loads(path.read_text(encoding="utf-8"))
    yield f"{result['date']}; the machine's load before was {result['load']}.\n"
    report = result["report"]
    if report:
        vmm = report["vmm"]
        yield f"{report['image']}, {report['cpus']} vCPU, {report['memory']} MiB; {vmm['driver']} {vmm['version']}, {vmm['accel']}.\n"
        yield from markdown(("what", "count", "p50", "p95", "min", "max"), user_rows(report))
        yield f"\nMethod: {report['method']}."
    else:
        yield from markdown(HEAD, result["rows"])


def document(build):
    yield INTRODUCTION
    yield from markdown(("", ""), machine(build))
    for name, title in PARTS.items():
        yield from section(name, title, build / f"bench/{name}.json")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, required=True)
    options = parser.parse_args()
    (TOP / "docs/BENCH.md").write_text("\n".join(document(options.build)) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
