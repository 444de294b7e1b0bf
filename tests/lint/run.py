#!/usr/bin/python3
"""What the compiler doesn't check: who may include whom, how the code is written, and what other programs say of it.

    run.py [--all] [--build DIR] [NAME...]

Prints one line a check and, where it fails, what is wrong; the last line is "N passed, N failed, N skipped". --all adds
clang-tidy and the slow one, its analyzer, which need the compile_commands.json of a build.
"""
import argparse
import concurrent.futures
import functools
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]

LEAVES = ["daemon/vmm", "daemon/net", "daemon/disk", "daemon/image", "daemon/guest", "daemon/caddy", "daemon/store"]
BASE = ["daemon/proc", "daemon/loop.h", "daemon/relay.h", "common"]

# Folder (the longest match counts) -> what it may include besides itself. An entry is a folder or a file.
# These are the arrows of docs/ARCHITECTURE.md: leaves never include each other, and only the engine knows two of them.
ARROWS = {
    "common/core": [],
    "common": ["common/core"],
    "client": ["common"],
    "images/agent": ["common/core"],
    "daemon": ["daemon", "common"],
    "daemon/proc": ["common"],
    "daemon/shim": ["common/core", "daemon/proc", "daemon/vmm/vmm.h"],
    "daemon/store": [*BASE, "daemon/proc"],
    "daemon/oci": ["common", "daemon/proc"],
    "daemon/http": [*BASE, "daemon/store/token.h"],
    "daemon/engine": [*LEAVES, *BASE, "daemon/shim/shim.h", "daemon/shim/lastword.h", "daemon/oci/job.h", "daemon/conf.h"],
    "daemon/api": ["daemon/http/http.h", "daemon/engine", *LEAVES, "daemon/shim", "daemon/conf.h", "daemon/check.h", *BASE],
    "tests": ["common", "daemon", "client", "images", "tests"],
    **{leaf: BASE for leaf in LEAVES if leaf != "daemon/store"},
}

# Each library of others lives in one place. The static programs are libc only.
LIBRARIES = {
    r"jansson\.h": ["common/field", "common/json", "common/model", "daemon/vmm/qmp", "tests/"],
    r"curl/": ["common/httpc", "daemon/oci/", "tests/"],
    r"sodium": ["common/crypt", "tests/"],
    r"ini\.h": ["common/config"],
    r"libsmartcols": ["client/out"],
    r"microhttpd\.h": ["daemon/http/", "tests/"],
    r"netlink/|libnl": ["daemon/net/"],
    r"nftables/": ["daemon/net/"],
    r"archive(_entry)?\.h": ["daemon/image/", "daemon/oci/", "daemon/store/export.c", "tests/"],
    r"openssl/": ["daemon/oci/", "tests/"],
    r"cmocka\.h": ["tests/"],
    r"ext2fs/|et/": ["daemon/oci/", "tests/"],
    r"seccomp\.h": ["daemon/oci/"],
    r"argp\.h": ["client/", "daemon/main.c", "daemon/"],
}
SYSTEM = re.compile(r"^(sys|linux|net|netinet|netpacket|arpa|asm)/[a-z0-9_/]+\.h$|^("
                    "argp|assert|byteswap|cpuid|ctype|dirent|elf|endian|err|errno|fcntl|features|fnmatch|ftw|getopt|grp|ifaddrs|"
                    "inttypes|langinfo|libgen|limits|locale|malloc|mntent|netdb|poll|pthread|pty|pwd|regex|sched|search|semaphore|setjmp|shadow|signal|spawn|"
                    "stdarg|stdatomic|stdbool|stddef|stdint|stdio|stdlib|string|strings|syslog|termios|threads|time|ucred|unistd|"
                    r"utmp|wchar|wordexp|x86intrin|immintrin)\.h$")

OPENERS = {
    "open": "O_CLOEXEC", "openat": "O_CLOEXEC", "socket": "SOCK_CLOEXEC", "socketpair": "SOCK_CLOEXEC", "accept4": "SOCK_CLOEXEC",
    "pipe2": "O_CLOEXEC", "epoll_create1": "EPOLL_CLOEXEC", "eventfd": "EFD_CLOEXEC", "timerfd_create": "TFD_CLOEXEC",
    "signalfd": "SFD_CLOEXEC", "inotify_init1": "IN_CLOEXEC", "memfd_create": "MFD_CLOEXEC", "fopen": "e\"",
    "recvmsg": "MSG_CMSG_CLOEXEC", "mkostemp": "O_CLOEXEC",
}
BANNED = {
    r"\b(pipe|accept|epoll_create|inotify_init|dup|mkstemp)\(": "has no CLOEXEC form",
    r"\b(strcpy|strcat|sprintf|vsprintf|gets|strtok|atoi|alloca)\(": "has no bound or no error",
    r"\b(system|popen)\(": "runs a shell",
    r"\bjson_unpack": "silently cuts numbers",
    r"\b(TODO|FIXME|XXX)\b": "is not finished",
    r"#define\s+cleanup\b": "breaks json_auto_t",
}
FORK = re.compile(r"\bv?fork\(")
MAY_FORK = ("daemon/shim/", "images/agent/", "client/", "tests/")

# What must never be committed: a path of the machine that somebody worked on.
MACHINE = re.compile("/" + "work/(main|shared)|/" + "tmp/build|/home/(?!web|USER|ada)[a-z]+/(src|fcm)")

LONG_FUNCTION, LONGEST_FUNCTION, LONGEST_FILE = 60, 110, 750


def files(*endings, under=""):
    out = subprocess.run(["git", "-C", TOP, "ls-files", "-co", "--exclude-standard", under or "."], capture_output=True,
                         text=True, check=True).stdout.split("\n")
    return sorted(p for p in out if p.endswith(endings) and (TOP / p).is_file())


def text_of(path):
    return (TOP / path).read_text(encoding="utf-8", errors="replace")


def without_comments(text):
    """Comments and the contents of strings are blanked, line numbers kept."""
    def blank(match):
        return re.sub(r"[^\n]", " ", match[0])
    return re.sub(r"/\*.*?\*/|//[^\n]*", blank, text, flags=re.S)


def line_of(text, at):
    return text.count("\n", 0, at) + 1


# ---- includes ----

def folder_rule(path):
    return max((f for f in ARROWS if path.startswith(f + "/")), key=len, default=None)


def check_includes():
    """Arrows between folders go one way."""
    for path in files(".c", ".h"):
        rule = folder_rule(path)
        if rule is None:
            yield f"{path}: no rule for this folder in ARROWS"
            continue
        for number, line in enumerate(text_of(path).splitlines(), 1):
            match = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
            if not match:
                continue
            target = match[1]
            own = folder_rule(target) == rule
            allowed = any(target == a or target.startswith(a + "/") for a in ARROWS[rule])
            if not own and not allowed:
                yield f"{path}:{number}: {rule} may not include {target}"
            elif not (TOP / target).exists():
                yield f"{path}:{number}: {target} is not named from the top of the tree"


def check_libraries():
    """One external library lives behind one file or folder; everything else is libc."""
    for path in files(".c", ".h"):
        for number, line in enumerate(text_of(path).splitlines(), 1):
            match = re.match(r"\s*#\s*include\s+<([^>]+)>", line)
            if not match or SYSTEM.match(match[1]):
                continue
            places = next((p for r, p in LIBRARIES.items() if re.match(r, match[1])), None)
            if places is None or not path.startswith(tuple(places)):
                yield f"{path}:{number}: <{match[1]}> belongs to {', '.join(places or ['nobody'])}"


# ---- text ----

def check_cloexec():
    """No descriptor leaks into a child."""
    call = re.compile(r"(?<![\w>.])(" + "|".join(OPENERS) + r")\s*\(")
    for path in files(".c"):
        if path.startswith("tests/"):
            continue
        text = without_comments(text_of(path))
        for match in call.finditer(text):
            depth, at = 1, match.end()
            while depth and at < len(text):
                depth += {"(": 1, ")": -1}.get(text[at], 0)
                at += 1
            arguments = text[match.end():at]
            following = text[at:at + 2].lstrip()
            if re.match(r"\s*\{", following) or OPENERS[match[1]] in arguments or "flags" in arguments:
                continue
            if "O_PATH" in arguments and "O_CLOEXEC" in arguments:
                continue
            yield f"{path}:{line_of(text, match.start())}: {match[1]}() without {OPENERS[match[1]]}"


def check_banned():
    """Functions and words that the style forbids."""
    for path in files(".c", ".h"):
        text = text_of(path)
        code = without_comments(text)
        for pattern, why in BANNED.items() if not path.startswith("tests/") else []:
            for match in re.finditer(pattern, text if "TODO" in pattern else code):
                yield f"{path}:{line_of(text, match.start())}: {match[0].rstrip('(')} {why}"
        if not path.startswith(MAY_FORK):
            for match in FORK.finditer(code):
                yield f"{path}:{line_of(code, match.start())}: the daemon has threads: posix_spawn only"


def check_machine_paths():
    """Nothing in the tree speaks of the machine that it was written on."""
    for path in files(""):
        for number, line in enumerate(text_of(path).splitlines(), 1):
            if MACHINE.search(line):
                yield f"{path}:{number}: {line.strip()[:80]}"


def check_headers():
    """Every prototype of a header is documented: a comment above it, behind it, or above the group that it stands in."""
    prototype = re.compile(r"^(?!static|typedef|struct \w+ \{|enum|union|#|\}|return)[a-zA-Z_][\w \*]*?\b(\w+)\([^;{]*\)[^;{]*;", re.M)
    for path in files(".h"):
        if path.startswith("tests/"):
            continue
        text = text_of(path)
        if not re.match(r"\s*/\*", text):
            yield f"{path}:1: the header doesn't say what it is"
        for match in prototype.finditer(without_comments(text)):
            above = text[:match.start()]
            group = above[above.rfind("\n\n") + 2:]
            behind = text[match.end():text.find("\n", match.end())]
            if "*/" not in group and "/*" not in behind:
                yield f"{path}:{line_of(text, match.start())}: {match[1]}() is not documented"


def functions(path):
    """(name, line, lines) of every function, by the way that clang-format writes them."""
    lines = text_of(path).splitlines()
    begin = None
    for number, line in enumerate(lines):
        if line == "{" and number:
            begin = number
        elif line == "}" and begin is not None:
            head = " ".join(lines[max(0, begin - 3):begin])
            name = re.findall(r"(\w+)\(", head)
            yield (name[-1] if name else "?"), begin + 1, number - begin - 1
            begin = None


def check_lengths():
    """Functions and files stay short; prints the figures."""
    lengths = []
    for path in files(".c"):
        if path.startswith("tests/"):
            continue
        count = len(text_of(path).splitlines())
        if count > LONGEST_FILE:
            yield f"{path}: {count} lines, more than {LONGEST_FILE}"
        for name, line, n in functions(path):
            lengths.append(n)
            if n > LONGEST_FUNCTION:
                yield f"{path}:{line}: {name}() has {n} lines, more than {LONGEST_FUNCTION}"
    if lengths:
        over = sum(n > LONG_FUNCTION for n in lengths)
        print(f"      {len(lengths)} functions, median {statistics.median(lengths):.0f} lines, {over} over {LONG_FUNCTION}")
        if over > len(lengths) // 50:
            yield f"{over} of {len(lengths)} functions are longer than {LONG_FUNCTION} lines"


# ---- other programs ----

class Skip(Exception):
    """This check can't run here."""


def tool(*names):
    for name in names:
        if shutil.which(name):
            return name
    raise Skip(f"{names[0]} is not installed")


def complaints(argv, **kwargs):
    done = subprocess.run(argv, cwd=TOP, capture_output=True, text=True, check=False, **kwargs)
    if done.returncode != 0:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        return lines or [f"{argv[0]}: status {done.returncode}"]
    return []


def check_format():
    """clang-format has nothing to change."""
    found = complaints([tool("clang-format"), "--dry-run", "-Werror", *files(".c", ".h")])
    yield from sorted({line.split(":")[0] + ": ./bootstrap format" for line in found if ": error: " in line})


def check_shell():
    """shellcheck has nothing to say about any script."""
    shellcheck = tool("shellcheck")
    scripts = [p for p in files("") if re.match(r"#! ?/\S*(bin/env )?(ba)?sh\b", text_of(p)[:40])]
    yield from complaints([shellcheck, "-x", *scripts])


def check_cppcheck():
    """cppcheck finds nothing."""
    yield from complaints([tool("cppcheck"), "--quiet", "--std=c11", "--enable=warning,portability", "--inline-suppr", "-j2",
                           "--suppress=missingIncludeSystem", "--suppress=unknownMacro", "--suppress=preprocessorErrorDirective",
                           "--error-exitcode=1", "-D_GNU_SOURCE", "-I.", *[p for p in files(".c") if not p.startswith("tests/")]])


def check_python():
    """Every Python file compiles."""
    for path in files(".py"):
        try:
            compile(text_of(path), path, "exec")
        except SyntaxError as error:
            yield f"{path}:{error.lineno}: {error.msg}"


# The path-sensitive core checks don't know that a failing function of another file returned -1 (fcm_fail), nor what
# __attribute__((cleanup)) frees: the sanitizers do that work in the tests.
ANALYZER = "-*,clang-analyzer-*,-clang-analyzer-core.CallAndMessage,-clang-analyzer-core.NullDereference," \
           "-clang-analyzer-core.UndefinedBinaryOperatorResult,-clang-analyzer-unix.Malloc,-clang-analyzer-valist.Uninitialized," \
           "-clang-analyzer-security.insecureAPI.DeprecatedOrUnsafeBufferHandling"


def check_tidy(build, *options):
    """clang-tidy with the checks of .clang-tidy, or those of the options."""
    tidy = tool("clang-tidy")
    database = Path(build) / "compile_commands.json"
    if not database.exists():
        raise Skip(f"no {database}")
    sources = [p for p in files(".c") if not p.startswith("tests/") and str(TOP / p) in database.read_text()]

    def one(path):
        return [line for line in complaints([tidy, "--quiet", *options, "-p", build, path], timeout=600)
                if re.search(r": (warning|error): ", line)]

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for found in pool.map(one, sources):
            yield from found


CHECKS = {
    "includes": check_includes, "libraries": check_libraries, "cloexec": check_cloexec, "banned": check_banned,
    "machine paths": check_machine_paths, "headers": check_headers, "lengths": check_lengths, "clang-format": check_format,
    "shellcheck": check_shell, "cppcheck": check_cppcheck, "python": check_python,
}

# They need the compile_commands.json of a build; the second takes a quarter of an hour.
BUILT = {"clang-tidy": (), "analyzer": (f"--checks={ANALYZER}",)}


def run(name, check):
    """'passed', 'failed' or 'skipped'."""
    begun = time.monotonic()
    try:
        found = list(check())
    except Skip as reason:
        print(f"skip  {name}: {reason}")
        return "skipped"
    print(f"{'FAIL' if found else 'ok  '}  {name} ({time.monotonic() - begun:.1f} s)")
    for line in found[:60]:
        print(f"      {line}")
    if len(found) > 60:
        print(f"      and {len(found) - 60} more")
    return "failed" if found else "passed"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="those too that need a build")
    parser.add_argument("--build", default=TOP / "build")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these checks: " + ", ".join([*CHECKS, *BUILT]))
    options = parser.parse_args()
    checks = dict(CHECKS)
    for name, more in BUILT.items():
        if options.all or name in options.names:
            checks[name] = functools.partial(check_tidy, options.build, *more)
    results = [run(name, check) for name, check in checks.items() if not options.names or name in options.names]
    print(", ".join(f"{results.count(word)} {word}" for word in ("passed", "failed", "skipped")))
    return 1 if "failed" in results else 0


if __name__ == "__main__":
    sys.exit(main())
