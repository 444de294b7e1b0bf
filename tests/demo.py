#!/usr/bin/python3
"""The main job, shown: `./bootstrap demo` calls this after building.

Everything runs in a host of its own (tests/host.py): network and mount namespaces with the shipped binaries, a real
Caddy, an ordinary user. What is printed after a $ is what was run, and below it is what came out.
"""
import argparse
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from host import DASHED, UPLINK, USER, Failed, Host, wait_for  # noqa: E402

DOMAIN = f"web.{DASHED}.sslip.io"
COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def paint(code, text):
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


class Show:
    """Prints steps, each with its time."""

    def __init__(self, host):
        self.host, self.begun = host, time.monotonic()

    def note(self, text):
        print(paint("2", f"\n# {text}"), flush=True)

    def step(self, line, run):
        """Print a command line, run it, print what came out and how long it took."""
        print(paint("1", f"$ {line}"), flush=True)
        begun = time.monotonic()
        done = run()
        for output in (done.stdout, done.stderr):
            if output.strip():
                print(output.rstrip(), flush=True)
        print(paint("36", f"  {time.monotonic() - begun:.2f} s"), flush=True)
        return done.stdout

    def fcm(self, *argv):
        line = "fcm " + shlex.join(argv)
        return self.step(line, lambda: self.host.fcm(*argv, user=USER))


def prepare(host, show):
    show.note("A host of its own: network and mount namespaces, nothing of yours is touched")
    host.start_caddy()
    host.start_daemon()
    show.step("sudo fcm daemon &", lambda: host.fcm("version", user=USER))
    show.step(f"sudo fcm token create --for {USER}", lambda: host.fcm("token", "create", "--for", USER))
    host.add_assets("kernel", "base")
    show.note("Which VMM runs machines here, and why")
    show.fcm("info")


def life(host, show):
    show.note("One command: a machine with its own kernel, an address, a shell and an HTTPS name")
    show.fcm("create", "--name", "web", "--expose", "8000")
    show.fcm("ls")
    show.fcm("ssh", "web", "--", "uname -a")
    show.fcm("ssh", "web", "--", "ruby -v; python3 -V")

    show.note("Its site, fetched from another machine, through Caddy, verified with Caddy's own authority")
    host.caddy_ca()
    wait_for("the certificate", lambda: host.fetch(f"https://{DOMAIN}/", check=False).returncode == 0, 30)
    show.step(f"curl --cacert ca.crt --resolve {DOMAIN}:443:{UPLINK} https://{DOMAIN}/",
              lambda: host.fetch(f"https://{DOMAIN}/"))

    show.note("Stop and start: data and address stay")
    before = host.vm("web")
    show.fcm("ssh", "web", "--", "echo still here >/root/note")
    show.fcm("stop", "web")
    show.fcm("start", "web")
    note = show.fcm("ssh", "web", "--", "cat /root/note")
    after = host.vm("web")
    if note != "still here\n" or after["ip"] != before["ip"] or after["boot_id"] == before["boot_id"]:
        raise Failed(f"the machine isn't what it was: {before} {after}")


def end(host, show, before):
    show.note("Destroyed: nothing is left")
    show.fcm("destroy", "web")
    host.check_residue(before)
    print(paint("32", f"residue.py: {len(before)} facts about links, routes, rules, sysctls, processes, cgroups and files, "
                      "the same before and after"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--assets", type=Path, required=True)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ["FCM_ASSETS"] = str(options.assets.resolve())
    work = Path(tempfile.mkdtemp(prefix="demo-", dir=options.build.resolve()))
    host = None
    try:
        host = Host(work / "host", options.build.resolve(), caddyfile="{\n\tlocal_certs\n}\n")
        show = Show(host)
        prepare(host, show)
        before = host.residue()
        life(host, show)
        end(host, show, before)
        print(paint("1;32", f"\nDone in {time.monotonic() - show.begun:.0f} s. Yours: sudo ./bootstrap install"))
        return 0
    except Failed as failure:
        print(f"\ndemo: {failure}\n\nThe daemon's log ends:\n{host.log_tail() if host else ''}", file=sys.stderr)
        return 1
    finally:
        if host:
            host.close()
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
