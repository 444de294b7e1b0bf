"""Commands in a guest, by fcm exec and by ssh: runs in the bench's host (run.py), prints JSON of seconds.

    inside.py VM ADDRESS KEY ROUNDS PARALLEL
"""
import json
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor


def timed(call):
    begun = time.monotonic()
    call()
    return time.monotonic() - begun


def run(*argv):
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def main(vm, address, key, rounds, parallel):
    with tempfile.TemporaryDirectory() as folder:
        # Straight to the guest, without the daemon's tunnel: that is what ssh itself takes.
        ssh = ("ssh", "-F", "none", "-i", key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
               "-o", "LogLevel=ERROR", "-o", f"ControlPath={folder}/mux")
        guest = f"root@{address}"
        ways = {"exec": ("fcm", "exec", vm, "true"), "ssh": (*ssh, "-S", "none", guest, "true"), "mux": (*ssh, guest, "true")}
        run(*ssh, "-MNf", guest)
        times = {name: [] for name in ways}
        for number in range(rounds + 1):
            for name, argv in ways.items():
                taken = timed(lambda argv=argv: run(*argv))
                if number:
                    times[name].append(taken)
        run(*ssh, "-O", "exit", guest)
    result = {name: statistics.median(taken) for name, taken in times.items()}
    with ThreadPoolExecutor(parallel) as pool:
        result["parallel"] = timed(lambda: list(pool.map(lambda _: run(*ways["exec"]), range(parallel))))
    result["serial"] = timed(lambda: [run(*ways["exec"]) for _ in range(parallel)])
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
