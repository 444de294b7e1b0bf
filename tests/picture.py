#!/usr/bin/python3
"""Draws a terminal session as SVG, from what a test recorded:

    ./bootstrap host run tests/host/test_readme.py
    tests/picture.py build/test-work/host-bookworm-test_readme/README.md-LINE.json docs/session.svg

The report is of the block that begins in that line (tests/readme.py): commands, and what they printed on a terminal.
"""
import argparse
import json
import re
import sys
from html import escape
from pathlib import Path

WIDTH, HEIGHT, SIZE = 8.4, 20, 14  # of a character, of a line, of the font
LEFT, TOP = 20, 58
COLOURS = {"31": "#ff7b72", "32": "#7ee787", "33": "#f2cc60", "2": "#8b949e"}
TEXT, PROMPT, BACKGROUND, BAR = "#c9d1d9", "#58a6ff", "#0d1117", "#21262d"
DOTS = ("#ff5f56", "#ffbd2e", "#27c93f")
STYLE = re.compile(r"\x1b\[([0-9;]*)m")


def pieces(line):
    """(text, colour, bold) of a line with SGR sequences; other sequences are left out."""
    colour, bold = TEXT, False
    parts = STYLE.split(line)
    for i in range(0, len(parts), 2):
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", parts[i])
        if text:
            yield text, colour, bold
        for code in parts[i + 1].split(";") if i + 1 < len(parts) else ():
            bold = code == "1" or (bold and code not in ("", "0", "22"))
            colour = COLOURS.get(code, TEXT if code in ("", "0", "39") else colour)


def text_of(spans, row):
    """One line; each piece between wide gaps at its own column, whatever font there is."""
    out, column = [], 0
    for text, colour, bold in spans:
        weight = ' font-weight="bold"' if bold else ""
        for found in re.finditer(r"\S+(?: \S+)*", text):
            out.append(f'<tspan x="{LEFT + (column + found.start()) * WIDTH:g}" fill="{colour}"{weight} '
                       f'textLength="{len(found[0]) * WIDTH:g}">{escape(found[0])}</tspan>')
        column += len(text)
    return f'<text y="{TOP + row * HEIGHT}">{"".join(out)}</text>' if out else ""


def session(reports):
    """The lines of the terminal, each a list of spans."""
    for number, report in enumerate(reports):
        if number:
            yield []
        for i, line in enumerate(report["command"].split("\n")):
            yield [("> " if i else "$ ", PROMPT, True), (line, "#ffffff", True)]
        yield from (list(pieces(line)) for line in report["lines"])


def draw(reports):
    lines = list(session(reports))
    columns = max(sum(len(text) for text, _, _ in line) for line in lines)
    width, height = 2 * LEFT + columns * WIDTH, TOP + len(lines) * HEIGHT + 4
    dots = "".join(f'<circle cx="{LEFT + 20 * i}" cy="18" r="6" fill="{colour}"/>' for i, colour in enumerate(DOTS))
    body = "\n".join(filter(None, (text_of(line, row) for row, line in enumerate(lines))))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height}" width="{width:g}" height="{height}">\n'
            f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>\n'
            f'<path d="M0 36V8a8 8 0 0 1 8-8H{width - 8:g}a8 8 0 0 1 8 8V36z" fill="{BAR}"/>\n{dots}\n'
            f'<g font-family="ui-monospace, Menlo, Consolas, \'DejaVu Sans Mono\', monospace" font-size="{SIZE}">\n{body}\n</g>\n</svg>\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    options.picture.write_text(draw(json.loads(options.report.read_text(encoding="utf-8"))), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
