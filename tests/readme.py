#!/usr/bin/python3
"""Runs what README.md and docs/TUTORIAL.md show: in their code blocks, each line that begins with "$ ".

    readme.py FILE...                list the blocks with commands, and why one isn't run
    readme.py --run LINE FILE        run the block that begins there, as the user who calls; a report in JSON

tests/host/test_readme.py calls it in a test host, a login for each block, tests/integration/test_tutorial_guest.py in namespaces;
both in the user's home. A command gets no stdin, and a terminal for its output. Lines behind it that begin with "> " belong to it. A
comment in front of a block says how it is taken:

    <!-- not run: WHY -->            it isn't, for that reason
    <!-- checked -->                 what it prints is compared: each line, in this order, where "..." leaves lines out; a word
                                     with a digit in it, and its unit, stand for any such
"""
import argparse
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path

ROWS, COLUMNS = 40, 100
LIMIT = 120  # seconds for a command
COMMENT = re.compile(r"<!-- (not run: (?P<why>.+)|(?P<checked>checked)) -->$")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# An id may have no digit in it.
NUMBER = re.compile(r"tap_\w+|\S*\d\S*( (ms|s|m|h|d|B|kB|MB|GB)\b)?")


class Block:
    """A code block: `steps` are pairs of a command and the lines that are shown behind it."""

    def __init__(self, line, comment):
        found = COMMENT.match(comment or "")
        self.line, self.steps = line, []
        self.why = found["why"] if found else None
        self.checked = bool(found and found["checked"])

    def add(self, text):
        if text.startswith("$ "):
            self.steps.append((text[2:], []))
        elif self.steps and text.startswith("> ") and not self.steps[-1][1]:
            self.steps[-1] = (f"{self.steps[-1][0]}\n{text[2:]}", [])
        elif self.steps:
            self.steps[-1][1].append(text)


def blocks(text):
    """Those of a document that have commands."""
    result, block, before = [], None, ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            if block and block.steps:
                result.append(block)
            block = None if block else Block(number, before)
        elif block:
            block.add(line)
        before = line
    return result


# ---- running ----

def on_terminal(command):
    """Run it with its output on a terminal; (status, what was shown)."""
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    env = {**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8"}
    # A shell as somebody types into it: a pipe fails as its last command does.
    child = subprocess.Popen(["timeout", str(LIMIT), "bash", "-c", command], stdin=subprocess.DEVNULL, stdout=slave, stderr=slave, env=env,
                             cwd=Path.home())
    os.close(slave)
    shown = b""
    try:
        while piece := os.read(master, 65536):
            shown += piece
    except OSError:  # EIO: nobody has the other side any more
        pass
    os.close(master)
    return child.wait(), shown.decode("utf-8", "replace")


def settled(shown):
    """The lines that are left on the terminal, with their colours: a progress line was erased."""
    lines = [line.rsplit("\r\x1b[K", 1)[-1].rsplit("\x1b[J", 1)[-1].rsplit("\r", 1)[-1] for line in shown.replace("\r\n", "\n").split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def loose(line):
    """A line without colours, spaces and figures."""
    return " ".join(NUMBER.sub("#", ESCAPES.sub("", line)).split())


def missing(expected, got):
    """The first expected line that isn't there where it should be, or None."""
    got, at, anywhere = [loose(line) for line in got if line.strip()], 0, False
    for line in filter(str.strip, expected):
        if line.strip() == "...":
            anywhere = True
            continue
        found = next((i for i in range(at, len(got)) if got[i] == loose(line)), None)
        if found is None or (found > at and not anywhere):
            return line
        at, anywhere = found + 1, False
    return None


def run(block):
    """A report of each command; what comes behind one that failed is run, too."""
    for command, expected in block.steps:
        begun = time.monotonic()
        status, shown = on_terminal(command)
        lines = settled(shown)
        report = {"command": command, "status": status, "seconds": round(time.monotonic() - begun, 2), "lines": lines}
        if block.checked:
            report["missing"] = missing(expected, lines)
        yield report


def check(block, reports):
    """Fail unless each command of the block was run, ended well, and printed what the document shows."""
    for report in reports:
        shown = "\n".join([f"$ {report['command']}", *report["lines"]])
        assert report["status"] == 0, f"status {report['status']}:\n{shown}"
        assert not report.get("missing"), f"the document shows {report['missing']!r}, but it is\n{shown}"
    assert len(reports) == len(block.steps)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=int, metavar="LINE")
    parser.add_argument("files", nargs="+", type=Path)
    options = parser.parse_args()
    for path in options.files:
        for block in blocks(path.read_text(encoding="utf-8")):
            if options.run is None:
                print(f"{path}:{block.line}: {len(block.steps)} commands" + (f", not run: {block.why}" if block.why else ""))
            elif options.run == block.line:
                json.dump(list(run(block)), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
