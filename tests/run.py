#!/usr/bin/python3
"""Runs the tests of a build: `./bootstrap test` calls this after building.

    run.py --build DIR --build-asan DIR [--assets DIR] quick|all|FILE...

Each part runs on its own, with a limit, its output in DIR/test-logs/<part>.log; a part that fails shows the end of it.
The end names each test that failed, and each that did so only beside others; the last line is the sum: "N passed, N failed,
N skipped". FILE is the path of a pytest file or the name of a part.
"""
import argparse
import collections
import concurrent.futures
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
PYTHON = "/usr/bin/python3"
WHOLE = os.environ.get("FCM_ACCEPTANCE") == "whole"  # tests/host/test_acceptance.py
TOTAL_LIMIT = (180 if WHOLE else 44) * 60
SKIPPED = 77  # the status of a part that can't be tried here, as automake's
WORDS = ("passed", "failed", "skipped")
FIRST = "--cache-clear"  # what tells pytest's first run from its second, of what failed
AGAIN_MAX = 3
# How many parts of a kind run beside others. A host, or guests that boot, are one processor's work, of which there are two; what has
# a scripted VMM mostly waits for a time to pass, and what is made for others for the network.
BUSY, WAITING, MAKERS = 2, 2, 2
RELEASES = ("bookworm", "trixie")
GUEST, HOST, SCRIPTED, MAKER = "with guests", "in a host", "with a scripted VMM", "made for others"
# Of the parts that run beside others these begin first, so that all lanes end together.
LONGEST = ("host", "package", "base", "debian", "asan", "fuzzers", "test_undo", "contract", "test_software_guest", "test_debian_guest", "test_build_guest", "test_main_guest", "test_guest_power",
           "test_snapshot_files", "test_restart", "test_volumes_guest", "test_freeze_guest", "test_snapshot_guest", "test_ready_guest", "fuzz",
           "clang-tidy", "test_cp_guest", "test_remote_guest", "test_tutorial_guest", "test_exec_guest", "test_schemathesis", "test_ways_out",
           "test_package", "test_reboot", "test_acceptance", "test_readme", "test_vmm", "test_host", "test_switch")


class Part:
    """A command, how long it may take, how its output is counted, and of which kind it is, if it may run beside others."""
    beside = None  # the kind
    after = ()  # the names of those that must be over before it begins

    def __init__(self, name, argv, count, limit, env=None):
        self.name, self.argv, self.count, self.limit, self.env = name, argv, count, limit, env or {}
        self.failures, self.recovered = [], []  # the names of what failed in it, and of what passed when it ran again, alone


# ---- counting: each takes the log and the exit status and returns (passed, failed, skipped) ----

def count_line(log, status):
    """The last line says it: lint, fuzz."""
    found = re.findall(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", log, re.M)
    return tuple(map(int, found[-1])) if found else (0, 1, 0)


def count_pytest(log, status):
    """The summary line of pytest; an error outside of a test counts as a failure."""
    lines = re.findall(r"^=* ?((?:\d+ \w+,? ?)+) in [\d.]+s", log, re.M)
    if not lines:
        return 0, 1, 0
    numbers = {word: int(n) for n, word in re.findall(r"(\d+) (\w+)", lines[-1])}
    failed = numbers.get("failed", 0) + numbers.get("errors", 0) + numbers.get("error", 0)
    return numbers.get("passed", 0), failed, numbers.get("skipped", 0)


def count_ctest(log, status):
    """The cmocka tests inside each program; a program that dies counts as a failure."""
    passed = len(set(re.findall(r"^\d+: \[       OK \] .*$", log, re.M)))  # once, if the program ran twice
    skipped = len(set(re.findall(r"\[  SKIPPED \] (\w+)$", log, re.M)))
    failed = len(set(re.findall(r"\[  FAILED  \] (\w+)$", log, re.M))) if status else 0
    dead = len(re.findall(r"\*\*\*(Exception|Timeout|Not Run|Failed)", log))
    if status and not failed:
        failed = max(dead, 1)
    return passed, failed, skipped


def count_status(log, status):
    """One thing, which worked or didn't, or couldn't be tried."""
    return (0, 0, 1) if status == SKIPPED else (0, 1, 0) if status else (1, 0, 0)


def excerpt(log):
    """What to show of a failed part: the output of the programs that ctest calls failed, else the end."""
    numbers = re.findall(r"^\s+(\d+) - .*\(", log.partition("The following tests FAILED:")[2], re.M)
    lines = log.splitlines()
    if numbers:
        return [line for n in numbers for line in [x for x in lines if x.startswith(f"{n}: ")][-60:]]
    return lines[-80:]


# How pytest, ctest, cmocka and our own programs say what failed.
FAILED = re.compile(r"^(?:(?:FAILED|ERROR) (\S+\.py.*?)(?: - .*)?|\t *\d+ - (\S+) \(.*\)|.*\[  FAILED  \] (\w+)|"
                    r"FAIL +(.*?) \(.*\)|NOT SEEN: (.*))$", re.M)


def failures(log):
    """The names of what failed in a part, as far as its output tells them."""
    return list(dict.fromkeys(next(filter(None, names)) for names in FAILED.findall(log)))


# ---- the parts ----

def ctest(name, build, limit):
    # LeakSanitizer finds what a test forgot to free; the sanitizers end a program at the first thing they find.
    env = {"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    return Part(name, ["ctest", "--test-dir", build, "-j2", "-V", "--timeout", "120", "--no-tests=error", "--repeat", "until-pass:2"], count_ctest, limit, env)


def pytest(name, files, build, limit, *options, **env):
    cache = f"cache_dir={Path(build).resolve()}/test-logs/cache-{name}"
    argv = [PYTHON, "-m", "pytest", "-o", cache, FIRST, "-q", "-rsfE", "--durations=5", "--tb=short", *options, *files]
    return Part(name, argv, count_pytest, limit, {"FCM_BUILD": str(build), "PYTHONDONTWRITEBYTECODE": "1", **env})


def test_files(folder):
    return sorted((TOP / "tests" / folder).glob("test_*.py"))


def rank(name):
    name = re.sub(rf"-({'|'.join(RELEASES)})$", "", name)
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


def beside(kind, parts_):
    """Those that may run beside others; `kind` is that of those that have none."""
    for part in parts_:
        part.beside = part.beside or kind
    return sorted(parts_, key=lambda part: rank(part.name))


def after(part, *names):
    part.after = tuple(names)
    return part


def integration_parts(build, asan):
    for file in test_files("integration"):
        options = "".join(re.findall(r"^HOST = .*", file.read_text(), re.M))
        assets = re.search(r'"assets": \((.*?)\)', options)
        part = after(pytest(file.stem, [file], build, 1500), *re.findall("base|debian", assets[1] if assets else ""))
        part.beside = SCRIPTED if '"fake": True' in options else GUEST
        yield part
    sanitized = [TOP / f"tests/integration/{name}.py" for name in ("test_api", "test_bad_input")]
    yield after(pytest("api-asan", sanitized, asan, 900, FCM_SANITIZED="1", FCM_CYCLES="10"), "asan")


def makers(build):
    """What several others need, by `./bootstrap make` and host.py; one that can't be had here is skipped, and so are those."""
    for release in RELEASES:
        argv = [PYTHON, "-B", TOP / "tests/host/host.py", "--release", release, "build"]
        yield Part(f"host-{release}", argv, count_status, 600, {"FCM_BUILD": str(build)})
        yield Part(f"package-{release}", [TOP / "bootstrap", "package", release], count_status, 900)
    for name in ("base", "debian", "asan", "fuzzers"):
        yield Part(name, [TOP / "bootstrap", "make", name], count_status, 900)


def host_parts(build):
    """The test host: each file on each release, or on those of its RELEASES."""
    for file in test_files("host"):
        text = file.read_text()
        only = re.search(r"^RELEASES = (hosts.RELEASES if hosts.WHOLE else )?\((.*?)\)", text, re.M)
        needs = ["base", "debian"] if WHOLE else ["base"] if "base_tar" in text else []
        for release in RELEASES:
            if not only or release in only[2] or (WHOLE and only[1]):
                part = pytest(f"{file.stem}-{release}", [file], build, TOTAL_LIMIT if WHOLE else 1500, FCM_HOST_RELEASE=release)
                packages = [f"package-{release}"] if re.search(r"def \w+\(.*\bpackaged?\b", text) else []
                yield after(part, f"host-{release}", *packages, *needs)


def pytest_folder(name):
    folder = TOP / "tests" / name
    return [folder] if list(folder.glob("test_*.py")) else []


def parts(options):
    build, asan = options.build, options.build_asan
    lint = [PYTHON, TOP / "tests/lint/run.py", "--build", build]
    residue = [PYTHON, TOP / "tests/residue.py", "--self-test"]
    quick = [
        Part("lint", lint, count_line, 120),
        Part("residue", residue, lambda log, _: (log.count("\nseen") + log.startswith("seen"), log.count("NOT SEEN"), 0), 60),
        ctest("units", build, 300),
        *(pytest(name, pytest_folder(name), build, 900) for name in ("contract", "cli") if pytest_folder(name)),
    ]
    if options.what == ["quick"]:
        boot = TOP / "tests/integration/test_curl.py"
        return [*quick, pytest("boot", [boot], build, 120, "-k", "test_life")]
    slow = [
        Part("clang-tidy", [*lint, "clang-tidy"], count_line, 300),
        after(ctest("units-asan", asan, 400), "asan"),
        after(Part("fuzz", [PYTHON, TOP / "tests/fuzz/run.py", "--build", options.build_fuzz, "--seconds", "4"], count_line, 300), "fuzzers"),
        *integration_parts(build, asan),
    ]
    beside(SCRIPTED, [part for part in quick if part.name == "contract"])
    return [*beside(MAKER, list(makers(build))), *beside(GUEST, [*quick, *slow]), *beside(HOST, list(host_parts(build)))]


def chosen(options):
    """The parts that the command line asks for, with what these need; a file makes a part of its own."""
    if options.what in ([], ["all"], ["quick"]):
        return parts(options)
    everything = {part.name: part for part in parts(options)}
    result = []
    for word in options.what:
        name = Path(word).stem
        if name in everything:
            result.append(everything[name])
        elif (TOP / word.split("::")[0]).exists():
            result.append(pytest(name, [TOP / word], options.build, 1200))
        else:
            raise SystemExit(f"no part or file '{word}'; parts: {' '.join(everything)}")
    return list(dict.fromkeys([*(everything[name] for part in result for name in part.after), *result]))


# ---- running ----

def execute(part, log_path, limit, env):
    """Run a part's command in a process group of its own; the group is ended when the limit comes."""
    with open(log_path, "wb") as log:
        child = subprocess.Popen([str(a) for a in part.argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=TOP,
                                 env={**os.environ, **env, **part.env}, start_new_session=True)
        try:
            return child.wait(limit), False
        except subprocess.TimeoutExpired:
            # Python turns SIGINT into an exception, so fixtures still clean up.
            for sig, grace in ((signal.SIGINT, 20), (signal.SIGKILL, 5)):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, sig)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(grace)
                    break
            return child.returncode or 124, True


def again(part, log_path, failed, limit, env):
    """Run what failed once more: other work on a machine of two cores can make a real guest or a deadline late. A few
    only, never after a timeout, and both are shown. Returns how many passed then, or 0 when any failed again."""
    log_path.rename(log_path.with_suffix(".first.log"))
    second = Part(part.name, ["--lf" if a == FIRST else a for a in part.argv], part.count, part.limit, part.env)
    status, late = execute(second, log_path, limit, env)
    passed, still, _ = part.count(log_path.read_text(errors="replace"), status)
    return passed if not (late or status or still) and passed == failed else 0


def run(part, logs, seconds_left, env):
    log_path = logs / f"{part.name}.log"
    if not part.beside:
        print(f"==> {part.name} ... ", end="", flush=True)
    begun = time.monotonic()
    status, late = execute(part, log_path, max(1, min(part.limit, seconds_left)), env)
    log = log_path.read_text(errors="replace")
    passed, failed, skipped = part.count(log, status)
    if (status not in (0, SKIPPED) or late) and not failed:
        failed = 1
    recovered = 0
    if status == 1 and not late and FIRST in part.argv and 0 < failed <= AGAIN_MAX:
        recovered = again(part, log_path, failed, max(1, seconds_left - (time.monotonic() - begun)), env)
        log = log if recovered else log_path.with_suffix(".first.log").read_text(errors="replace")
        passed, failed = passed + recovered, failed - recovered
    lines = [f"==> {part.name} ... " if part.beside else ""]
    lines[0] += f"{passed} passed, {failed} failed, {skipped} skipped in {time.monotonic() - begun:.0f} s"
    lines[0] += " (out of time)" if late else ""
    if recovered:
        first = log_path.with_suffix(".first.log")
        part.recovered = failures(first.read_text(errors="replace"))
        lines.append(f"    {recovered} failed first and passed alone: {first}")
    if failed:
        lines += ["    " + line for line in excerpt(log)] + [f"    the whole log: {log_path}"]
        part.failures = failures(log) or [f"{failed} failed, status {status}"]
    lines += ["    " + line for line in re.findall(r"^(?:SKIPPED|boot_id|FCM_SEED|note).*$", log, re.M)]
    print("\n".join(lines), flush=True)
    return passed, failed, skipped


def processor_time():
    """(busy, all) seconds of all processors since the boot: proc_stat(5)."""
    user, nice, system, idle, iowait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    busy = user + nice + system + irq + softirq
    return busy, busy + idle + iowait


class Lanes:
    """Parts that run beside others, each in the next lane that is free. Calls go() with each and keeps what it returns."""

    def __init__(self, parts_, go):
        self.waiting, self.unfinished, self.go = list(parts_), {part.name for part in parts_}, go
        self.changed, self.run_now = threading.Condition(), collections.Counter()

    def choose(self):
        """The next to begin, or None: what others need, what mostly waits, a host if there is none, guests, a second host."""
        now = self.run_now
        first = {part.beside: part for part in reversed(self.waiting) if self.unfinished.isdisjoint(part.after)}
        for kind, most in ((MAKER, MAKERS), (SCRIPTED, WAITING)):
            if kind in first and now[kind] < most:
                return first[kind]
        if now[HOST] + now[GUEST] + (now[MAKER] > 0) >= BUSY:
            return None
        order = (HOST, GUEST) if now[HOST] == 0 else (GUEST, HOST)
        return next((first[kind] for kind in order if kind in first), None)

    def take(self):
        with self.changed:
            while self.waiting:
                if part := self.choose():
                    self.waiting.remove(part)
                    self.run_now[part.beside] += 1
                    return part
                self.changed.wait()
        return None

    def lane(self):
        results = []
        while part := self.take():
            try:
                results.append(self.go(part))
            finally:
                with self.changed:
                    self.unfinished.remove(part.name)
                    self.run_now[part.beside] -= 1
                    self.changed.notify_all()
        return results

    def run(self):
        begun, before = time.monotonic(), processor_time()
        count = BUSY + WAITING + MAKERS
        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            lanes = [pool.submit(self.lane) for _ in range(count)]
        busy, total = (after - first for first, after in zip(before, processor_time()))
        print(f"    side by side: {time.monotonic() - begun:.0f} s, processors {100 * busy // max(total, 1)}% busy", flush=True)
        return [result for lane in lanes for result in lane.result()]


def run_all(todo, logs, env):
    """One after the other, but in lanes those that may run beside others. Returns what run() does of each."""
    deadline = time.monotonic() + TOTAL_LIMIT

    def go(part):
        return run(part, logs, deadline - time.monotonic(), env)
    side_by_side = [part for part in todo if part.beside]
    return [*(Lanes(side_by_side, go).run() if side_by_side else []), *(go(part) for part in todo if not part.beside)]


def contract(seen_path, whole):
    """What tests saw against docs/openapi.yaml: what it doesn't have, and in a whole run what nobody saw of it."""
    from openapi import Contract, read_seen, shown
    seen, document = read_seen(seen_path), Contract()
    return [f"not in docs/openapi.yaml: {shown(triple)}" for triple in document.undocumented(seen)] + \
           [f"no test saw: {shown(triple)}" for triple in (document.unseen(seen) if whole else [])]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, default=TOP / "build")
    parser.add_argument("--build-asan", type=Path, default=TOP / "build-asan")
    parser.add_argument("--build-fuzz", type=Path, default=TOP / "build-fuzz")
    parser.add_argument("--assets", type=Path, help="folder of kernel.tar, tiny.tar, base.tar, debian.tar")
    parser.add_argument("what", nargs="*")
    options = parser.parse_args()
    # A shell's background job ignores ^C and ^\ and what nohup(1) starts SIGHUP, and so would all that we start; tests send them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for sig in (signal.SIGQUIT, signal.SIGHUP):
        signal.signal(sig, signal.SIG_DFL)
    logs = options.build / "test-logs"
    logs.mkdir(parents=True, exist_ok=True)
    seen = logs / "seen.jsonl"
    seen.unlink(missing_ok=True)
    env = {"FCM_ASSETS": str(options.assets or ""), "FCM_SEEN": str(seen)}
    begun, totals, todo = time.monotonic(), [0, 0, 0], chosen(options)
    for result in run_all(todo, logs, env):
        totals = [a + b for a, b in zip(totals, result)]
    if seen.exists():
        wrong = contract(seen, options.what in ([], ["all"]))
        print(f"==> contract ... {len(wrong)} answers of the API are seen or documented, not both" + "".join(f"\n    {line}" for line in wrong))
        totals[1 if wrong else 0] += len(wrong) or 1
    for part in todo:
        for name in part.failures:
            print(f"FAILED {part.name}: {name}")
        for name in part.recovered:
            print(f"PASSED ALONE {part.name}: {name}")
    print(f"whole: {time.monotonic() - begun:.0f} s")
    print(", ".join(f"{n} {word}" for n, word in zip(totals, WORDS)))
    return 1 if totals[1] or not totals[0] else 0


if __name__ == "__main__":
    sys.exit(main())
