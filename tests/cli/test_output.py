"""What is printed, word for word: stdout is data, hints and progress are for terminals."""
import json
import re

import fake_daemon
import pytest

COMMANDS = ["create", "run", "ls", "ps", "inspect", "exec", "attach", "cp", "ssh", "ssh-config", "proxy", "stop", "start", "restart", "kill", "pause", "resume", "suspend",
            "snapshot", "restore", "clone", "destroy", "rename", "update",
            "logs", "stats", "events", "console", "expose", "unexpose", "publish", "unpublish", "port", "wait", "build", "image", "images", "pull", "login", "logout", "rmi", "volume", "system", "assets", "api", "token", "connect", "context", "info", "doctor", "bench",
            "daemon", "version", "help"]


def test_help(fcm, golden):
    done = fcm("--help")
    assert (done.status, done.err) == (0, "")
    golden("help", done.out)
    listed = re.findall(r"^  ([a-z-]+)  ", done.out.split("options of every")[0], re.M)
    assert listed == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of(fcm, golden, command):
    done = fcm(command, "--help")
    assert (done.status, done.err) == (0, "")
    assert done.out == fcm("help", command).out
    golden(f"help-{command}", done.out)
    assert max(len(line) for line in done.out.splitlines()) <= 80


@pytest.mark.parametrize("alias,name", [("list", "ls"), ("rm", "destroy"), ("preflight", "doctor"), ("setup", "doctor"),
                                        ("download-assets", "assets"), ("unpause", "resume"), ("snapshots", "snapshot")])
def test_aliases(fcm, alias, name):
    assert fcm(alias, "--help").out == fcm(name, "--help").out


def test_no_command(fcm):
    done = fcm()
    assert (done.status, done.out) == (2, "") and "usage:" in done.err


@pytest.mark.parametrize("argv", [("--version",), ("version",)])
def test_version(fcm, argv):
    done = fcm(*argv, env={"FCM_URL": "http://127.0.0.1:1"})
    assert done.status == 0 and re.fullmatch(r"fcm \d+\.\d+\.\d+\n", done.out)


@pytest.mark.parametrize("name,argv", [
    ("ls", ["ls"]), ("ls-wide", ["ls", "-o", "wide"]), ("ls-columns", ["-o", "id,mem,state", "ls"]),
    ("ls-no-headings", ["ls", "--no-headings"]), ("ls-quiet", ["ls", "-q"]), ("ps", ["ps"]), ("ps-all", ["ps", "-aq"]),
    ("ls-json", ["ls", "--json"]), ("ps-filter", ["ps", "--filter", "state=failed,stopped"]), ("inspect", ["inspect", "web"]), ("images", ["images"]), ("image-ls", ["image", "ls"]),
    ("image-history", ["image", "history", "base"]), ("image-history-quiet", ["image", "history", "-q", "base"]), ("system-df", ["system", "df"]),
    ("system-df-json", ["system", "df", "--json"]),
    ("stats", ["stats"]), ("stats-wide", ["stats", "-o", "wide", "web", "idle"]), ("stats-json", ["stats", "--json"]),
    ("snapshot-ls", ["snapshot", "ls"]), ("snapshot-tree", ["snapshot", "ls", "--tree"]), ("snapshot-of", ["snapshot", "list", "asleep", "-o", "wide"]),
    ("snapshot-quiet", ["snapshots", "-q"]), ("snapshot-inspect", ["snapshot", "show", "idle-1"]), ("snapshot-json", ["snapshot", "rm", "warm", "--json"]),
    ("token-ls", ["token", "ls", "-o", "id,name,scope,vms,expires"]), ("token-quiet", ["token", "list", "-q"]),
    ("token-revoke", ["token", "revoke", "abcd1234"]), ("logs", ["logs", "web"]), ("create-dry-run", ["create", "--dry-run"]),
    ("destroy-dry-run", ["destroy", "--dry-run", "web"]), ("destroy-json", ["destroy", "--json", "web"]),
])
def test_pipe(fcm, golden, name, argv):
    done = fcm(*argv)
    assert (done.status, done.err) == (0, "")
    golden(f"pipe-{name}", done.out)


@pytest.mark.parametrize("name,argv", [("events", ["events"]), ("events-json", ["events", "--json"])])
def test_events(fcm, golden, name, argv):
    done = fcm(*argv)
    assert (done.status, done.err) == (0, "fcm: some events are gone: more happened than is kept\n")
    golden(f"pipe-{name}", done.out)


@pytest.mark.parametrize("width", [80, 200])
def test_table_on_a_terminal(fcm, golden, width):
    done = fcm.on_terminal("ls", width=width, env={"NO_COLOR": "1"})
    golden(f"tty-ls-{width}", done.out)
    assert max(len(line) for line in done.out.splitlines()) <= width


@pytest.mark.parametrize("name,argv", [
    ("create", ["create", "--name", "nova", "--expose", "80"]), ("start", ["start", "idle", "web"]), ("stop", ["stop", "web"]),
    ("destroy", ["destroy", "web"]), ("expose", ["expose", "web"]), ("doctor", ["doctor"]), ("wait", ["wait", "web"]),
    ("restart", ["restart", "web"]), ("kill", ["kill", "web"]), ("unexpose", ["unexpose", "web"]),
    ("rename", ["rename", "web", "www"]), ("update", ["update", "-m", "1g", "web", "idle"]), ("update-same", ["update", "web", "--restart", "always"]),
    ("pause", ["pause", "web", "still"]), ("resume", ["unpause", "still", "web"]), ("suspend", ["suspend", "web", "still", "asleep"]),
    ("start-suspended", ["start", "asleep", "still"]), ("stop-suspended", ["stop", "asleep"]),
    ("snapshot-create", ["snapshot", "create", "web"]), ("snapshot-disk", ["snapshot", "create", "idle", "cold-1"]),
    ("snapshot-not-frozen", ["snapshot", "create", "still"]), ("snapshot-rm", ["snapshot", "rm", "warm", "snap0001"]),
    ("clone", ["clone", "warm", "-n", "2", "--name", "w", "-p", "80"]), ("restore", ["restore", "web", "warm"]),
    ("restore-disk", ["snapshot", "restore", "--disk-only", "web", "warm"]),
    ("create-saved", ["create", "--name", "nova", "--save-snapshot", "lukewarm"]), ("create-snapshot", ["create", "--snapshot", "warm"]),
    ("run-main", ["run", "-d", "--name", "nova", "-p", "8080:80", "-p", "9000:90", "tiny", "httpd"]),
    ("create-dry-run", ["create", "--dry-run"]), ("snapshot-stop", ["snapshot", "create", "--stop", "web"]), ("snapshot-import", ["snapshot", "import", "/etc/hostname"]),
    ("system-df", ["system", "df"]), ("image-history", ["image", "history", "base"]), ("image-history-raw", ["image", "history", "raw"]), ("image-export", ["image", "export", "base"]),
])
def test_terminal(fcm, golden, name, argv):
    done = fcm.on_terminal(*argv, width=200, env={"NO_COLOR": "1"})
    settled = re.sub(r"\r\x1b\[K[^\n]*\r\x1b\[K", "", done.out)
    golden(f"tty-{name}", settled)
    assert "\x1b" not in settled


@pytest.mark.parametrize("argv", [["ls"], ["images"], ["snapshots"], ["snapshots", "--tree"], ["image", "history", "base"]])
@pytest.mark.parametrize("width", [50, 64, 80])
def test_tables_fit(fcm, argv, width):
    table = fcm.on_terminal(*argv, width=width, env={"NO_COLOR": "1"}).out.split("\ncosmic-nova:")[0]
    assert max(len(line) for line in table.splitlines()) <= width


def test_quiet(fcm):
    assert fcm("info", "-q").out == "0.1.0\n"
    assert re.fullmatch(r"\d+(\.\d+)+\n", fcm("version", "-q").out)
    done = fcm("doctor", "-q")
    assert done.status == 1 and [line.split()[0] for line in done.out.splitlines() if line[0] != " "] == ["warn", "fail"]


@pytest.mark.parametrize("argv", [["info", "-o", "name"], ["stop", "web", "--no-headings"], ["create", "-o", "wide"]])
def test_no_table(fcm, daemon, argv):
    done = fcm(*argv)
    assert (done.status, done.out) == (2, "") and "prints no table" in done.err and not daemon.seen


def test_colours(fcm):
    assert "\x1b[32mrunning" in fcm.on_terminal("ls").out
    assert "\x1b" not in fcm.on_terminal("ls", env={"NO_COLOR": "1"}).out
    assert "\x1b" not in fcm("ls").out


def test_hints_are_for_terminals(fcm):
    for argv in (["create", "--name", "nova", "--expose", "80"], ["stop", "web"], ["destroy", "web"], ["expose", "web"]):
        done = fcm(*argv)
        assert done.err == "" and done.out.count("\n") == 1


def test_already(fcm):
    done = fcm("start", "web")
    assert (done.status, done.out, done.err) == (0, "web\n", "fcm: 'web' is already running\n")


def test_progress_is_for_terminals_and_for_what_lasts(fcm, daemon):
    assert "\r" not in fcm.on_terminal("start", "idle").out
    daemon.step_seconds = 0.4
    shown = fcm.on_terminal("start", "idle").out
    lines = shown.split("\r\x1b[K")
    assert lines[:2] == ["", "start idle"] and "start idle: the guest boots  1 s" in lines
    assert len(lines) == len(set(lines)) and lines[-1].startswith("idle ")
    assert fcm("start", "idle").err == ""
    assert "\r" not in fcm.on_terminal("start", "idle", env={"TERM": "dumb"}).out


def test_layers_have_a_bar_each(fcm, daemon):
    daemon.step_seconds = 0.5
    shown = fcm.on_terminal("pull", "reg.test/noted").out
    assert "\r\x1b[Kfcm: pull reg.test/noted: mirror https://m: it answered?[2J 503\n" in shown
    frames = re.split(r"\r\x1b\[(?:K|2A\x1b\[J)", shown.split("503\n")[1])
    plain = [re.sub(r"  \d s", "", frame) for frame in frames]
    head, layer = "pull reg.test/noted", "\n  aaaaaaaaaaaa  exists\n  bbbbbbbbbbbb  "
    wanted = [head + layer + "waiting", head + layer + "[=======       ]  50%  14 MB of 27 MB", head + layer + "unpacking", head + layer + "extracted",
              head + ": make its file system", "1f3a9c0d5e6f7788  398 MB\n"]
    assert list(dict.fromkeys(frame for frame in plain if frame in wanted)) == wanted, plain
    assert shown.count("\x1b[2A\x1b[J") >= 4  # each picture takes the one before away


def test_layers_that_fit(fcm, daemon):
    """Where there is no room for all lines those that are done give way."""
    daemon.step_seconds = 0.5
    shown = fcm.on_terminal("pull", "reg.test/app", rows=3).out
    assert "exists" not in shown and "\n  bbbbbbbbbbbb  [=======" in shown


def test_layers_are_lines_elsewhere(fcm):
    done = fcm("pull", "reg.test/app")
    assert (done.status, done.out) == (0, "1f3a9c0d5e6f7788\n")
    assert done.err == "aaaaaaaaaaaa: exists, 27 MB\nbbbbbbbbbbbb: extracted, 72 MB\n"
    assert fcm("pull", "-q", "reg.test/app").err == ""
    assert "aaaaaaaaaaaa" not in fcm.on_terminal("pull", "-q", "reg.test/app").out
    done = fcm("create", "reg.test/other")
    assert (done.status, done.out) == (0, "misty-comet\n") and done.err.startswith("aaaaaaaaaaaa: exists")


def test_closed_stdout_is_no_place_for_data(fcm):
    done = fcm.shell("ls -q >&-")
    assert (done.status, done.err) == (1, "fcm: write to stdout: Bad file descriptor\n")


def test_interrupt_clears_the_line(fcm, daemon):
    daemon.step_seconds = 5
    done = fcm.on_terminal("stop", "web", interrupt_after=0.5)
    assert done.status == -2
    assert done.out.endswith("\r\x1b[Kfcm: the daemon goes on with it; fcm ls shows how it ends\n")


@pytest.mark.parametrize("argv", [["ls", "--json"], ["ps", "--json"], ["inspect", "web"], ["images", "--json"], ["info", "--json"],
                                  ["doctor", "--json"], ["create", "--json"], ["stop", "--json", "web"],
                                  ["expose", "--json", "web"], ["wait", "--json", "web"], ["token", "create", "--json"], ["token", "ls", "--json"], ["token", "revoke", "--json", "abcd1234"],
                                  ["version", "--json"], ["create", "--dry-run", "--json"], ["snapshots", "--json"], ["snapshots", "--tree", "--json"],
                                  ["snapshot", "create", "--json", "web"], ["clone", "--json", "web"], ["restore", "--json", "web", "warm"]])
def test_json(fcm, argv):
    json.loads(fcm(*argv).out)


def test_guest_text(fcm):
    plain, raw = fcm("logs", "web"), fcm("logs", "--raw", "web")
    assert raw.out.encode() == fake_daemon.CONSOLE.encode() and "\x1b" not in plain.out and "\x07" not in plain.out
    assert "\x1b" not in fcm("stop", "evil").err and "\u202e" not in fcm("stop", "evil").err


def test_a_full_disk_is_a_failure(fcm, binary):
    import subprocess
    with open("/dev/full", "w") as full:
        done = subprocess.run([binary, "version"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and "No space left" in done.stderr
