#!/usr/bin/python3
"""Runs the libFuzzer targets of a build, or those that are named, for some seconds each, two at a time."""
import argparse
import concurrent.futures
import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CORPUS = Path(__file__).resolve().parent / "corpus"


def fuzz(seconds, program):
    """None when nothing was found, else the end of the log. What libFuzzer finds goes to a folder of its own."""
    seeds = CORPUS / program.name.removeprefix("fuzz_")
    with tempfile.TemporaryDirectory() as found:
        argv = [program, f"-max_total_time={seconds}", "-timeout=5", "-rss_limit_mb=1024", "-print_final_stats=1",
                f"-artifact_prefix={found}/", found, *([seeds] if seeds.is_dir() else [])]
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode == 0:
            runs = [line for line in done.stderr.splitlines() if "number_of_executed_units" in line]
            return None, runs[-1].split()[-1] if runs else "?"
        for artifact in Path(found).glob("*-*"):
            if artifact.name.startswith(("crash-", "oom-", "timeout-", "leak-")):
                print(f"{program.name}: {artifact.name}: {artifact.read_bytes()[:4096]!r}")
        return "\n".join(done.stderr.splitlines()[-40:]), "0"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of fuzz_NAME")
    options = parser.parse_args()
    programs = sorted(p for p in (options.build / "tests/fuzz").glob("fuzz_*") if os.access(p, os.X_OK) and p.is_file())
    there = [p.name.removeprefix("fuzz_") for p in programs]
    if unknown := [name for name in options.names if name not in there]:
        parser.error(f"no target {' '.join(unknown)}; there are {' '.join(there)}")
    programs = [p for p, name in zip(programs, there) if not options.names or name in options.names]
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for program, (trouble, runs) in zip(programs, pool.map(functools.partial(fuzz, options.seconds), programs)):
            print(f"{'FAIL' if trouble else 'ok  '}  {program.name} ({runs} inputs)")
            if trouble:
                failed += 1
                print(trouble)
    print(f"{len(programs) - failed} passed, {failed} failed, 0 skipped")
    return 1 if failed or not programs else 0


if __name__ == "__main__":
    sys.exit(main())
