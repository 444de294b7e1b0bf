"""The rows of a bench's table: each is fcm's figure against the bare thing's, with a goal that is met or missed."""
import os
import statistics
import sys
import time

ROWS = []


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


def table():
    head = ("what", "fcm", "bare", "ratio", "goal", "verdict")
    widths = [max(len(r[i]) for r in [head, *ROWS]) for i in range(len(head))]
    for line in [head, *ROWS]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
