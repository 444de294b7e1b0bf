"""What goes to the daemon: bodies, queries, tokens."""
import fcntl
import json
import os
import pty
import pwd
import signal
import struct
import subprocess
import termios
import time
from urllib.parse import unquote

import fake_daemon
import pytest


def last(daemon):
    return daemon.seen[-1]


def test_create_says_only_what_the_user_said(fcm, daemon):
    assert fcm("create").status == 0
    assert last(daemon)["body"] == {}


def test_create(fcm, daemon, tmp_path):
    key = tmp_path / "id.pub"
    key.write_text("# mine\nssh-ed25519 AAAA me@laptop\n\n")
    done = fcm("create", "-m", "1.5g", "--cpu", "2", "--disk", "20g", "-e", "A=1", "--env", "B=x=y", "--label", "team=red",
               "--restart", "always", "--expose", "80", "--kernel", "k6", "--ssh-key", str(key), "tiny", "--name", "nova")
    assert (done.status, done.out) == (0, "nova\n")
    assert last(daemon)["body"] == {
        "memory": 1536, "cpus": 2, "disk": 20480, "env": {"A": "1", "B": "x=y"}, "labels": {"team": "red"}, "restart": "always",
        "expose": 80, "kernel": "k6", "ssh_keys": ["ssh-ed25519 AAAA me@laptop"], "image": "tiny", "name": "nova"}


def test_kill(fcm, daemon):
    for argv, body, words in ((["kill", "web"], None, ""), (["kill", "-s", "hup", "web"], {"signal": 1}, ""), (["kill", "--signal", "SIGRTMIN+3", "web"], {"signal": 37}, "")):
        done = fcm(*argv)
        assert (done.status, done.out, done.err) == (0, "web\n", words) and last(daemon)["body"] == body
    assert "signal 10 sent" in fcm.on_terminal("kill", "-s", "usr1", "web").out
    assert fcm("kill", "-s", "nope", "web").err.startswith("fcm: --signal: 'nope' is not a signal")


def test_what_the_image_names(fcm, daemon):
    """A port behind --expose is its own; without one it is the image's."""
    for argv, body in ((["--expose", "80", "img"], {"expose": 80}), (["--expose=80", "img"], {"expose": 80}), (["img", "--expose"], {"expose_image": True}),
                       (["--expose", "img"], {"expose_image": True}), (["img", "--expose", "80", "--hostname", "db.lan"], {"expose": 80, "hostname": "db.lan"}),
                       (["-P", "--expose", "--no-healthcheck", "img"], {"publish_all": True, "expose_image": True, "health": {"disable": True}}),
                       (["--health-interval", "1m", "img"], {"health": {"interval": 60}})):
        assert fcm("create", *argv).status == 0
        assert last(daemon)["body"] == {"image": "img"} | body, argv


def test_environment(fcm, daemon, tmp_path):
    """What stands on the command line counts more than a file; a name alone is a variable of our own, if it is set."""
    file = tmp_path / "env"
    file.write_text("# comment\n\nA=file\nB=x y\r\nOWN\nNOT_SET\n")
    fcm("create", "-e", "A=1", "--env-file", str(file), "-e", "C", env={"OWN": "mine", "C": "=c"})
    assert last(daemon)["body"] == {"env": {"A": "1", "B": "x y", "OWN": "mine", "C": "=c"}}
    done = fcm("create", "-e", "1=x")
    assert done.status == 2 and done.err.startswith("fcm: --env: '1' is no name"), done.err
    file.write_text("A B=1\n")
    assert f"--env-file {file}: env: 'A B' is no name" in fcm("create", "--env-file", str(file)).err


def test_create_sends_the_key_of_fcm_ssh(fcm, daemon):
    (fcm.home / ".ssh").mkdir()
    (fcm.home / ".ssh/fcm_ed25519.pub").write_text("ssh-ed25519 BBBB fcm\n")
    fcm("create")
    assert last(daemon)["body"] == {"ssh_keys": ["ssh-ed25519 BBBB fcm"]}


def test_private_key_is_not_sent(fcm, daemon, tmp_path):
    key = tmp_path / "id"
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    done = fcm("create", "--ssh-key", str(key))
    assert done.status == 2 and f"{key}.pub" in done.err and not daemon.seen


@pytest.mark.parametrize("argv,path", [
    (["destroy", "web"], "/v1/vms/web"), (["rm", "-f", "web"], "/v1/vms/web?force=1"),
    (["destroy", "-f", "--dry-run", "web"], "/v1/vms/web?force=1&dry_run=1"), (["logs", "web"], "/v1/vms/web/logs"),
    (["logs", "-f", "--tail", "5", "web"], "/v1/vms/web/logs?tail=5&follow=1"),
    (["logs", "-t", "--since", "2026-01-01T00:00:00Z", "web"], "/v1/vms/web/logs?since=2026-01-01T00%3A00%3A00Z&timestamps=1"),
    (["events"], "/v1/events"), (["events", "-f", "--since", "5m", "--filter", "vm=a/b", "--filter", "event=failed"],
                                  "/v1/events?follow=1&since=5m&vm=a%2Fb&event=failed"),
    (["port", "web"], "/v1/vms/web"), (["publish", "web", "80"], "/v1/vms/web/publish"), (["unpublish", "web", "80"], "/v1/vms/web/unpublish"),
    (["wait", "idle", "--state", "stopped"], "/v1/vms/idle/wait?state=stopped&timeout=30"),
    (["wait", "still", "--state", "paused"], "/v1/vms/still/wait?state=paused&timeout=30"), (["pause", "web"], "/v1/vms/web/pause"),
    (["unpause", "web"], "/v1/vms/web/resume"), (["suspend", "web"], "/v1/vms/web/suspend"), (["snapshots"], "/v1/snapshots"),
    (["snapshot", "delete", "a/b"], "/v1/snapshots/a%2Fb"), (["restore", "web", "warm"], "/v1/vms/web/restore"),
    (["clone", "warm"], "/v1/snapshots/warm/clone"), (["clone", "web"], "/v1/vms/web/clone"), (["clone", "zzzz0002"], "/v1/vms/zzzz0002/clone"),
    (["clone", "--snapshot", "still"], "/v1/snapshots/still/clone"), (["run", "--snapshot", "warm"], "/v1/snapshots/warm/clone"),
    (["image", "inspect", "ghcr.io/a/b:1"], "/v1/image?ref=ghcr.io%2Fa%2Fb%3A1"), (["rmi", "mine:1"], "/v1/image?ref=mine%3A1"),
    (["image", "rm", "x&ref=y"], "/v1/image?ref=x%26ref%3Dy"),
    (["inspect", "a/../b%00"], "/v1/vms/a%2F..%2Fb%2500"), (["ls", "-a"], "/v1/vms"), (["ps", "-a"], "/v1/vms"),
    (["ps"], "/v1/vms?state=running,paused"), (["ps", "--filter", "name=a*"], "/v1/vms?name=a%2A&state=running,paused"),
    (["ps", "-f", "state=failed,stopped"], "/v1/vms?state=failed%2Cstopped"),
    (["ls", "--filter", "label=a=b&c", "--filter", "label=d"], "/v1/vms?label=a%3Db%26c&label=d"),
])
def test_paths(fcm, daemon, argv, path):
    fcm(*argv)
    assert last(daemon)["path"] == path


def test_image_verbs(fcm, daemon):
    assert fcm("image", "tag", "base", "mine:1").out == "mine:1\n"
    assert last(daemon)["body"] == {"image": "base", "tag": "mine:1"}
    assert fcm("image", "prune").out == "1 image\n"
    assert last(daemon)["body"] == {"all": False}
    assert fcm("image", "prune", "-a").out == "2 images\n"
    assert last(daemon)["body"] == {"all": True}
    done = fcm("rmi", "used", "mine:1")
    assert done.status == 4 and done.out == "mine:1\n" and "1 VM: web" in done.err


@pytest.mark.parametrize("argv, body", [
    (["snapshot", "create", "web"], {}), (["snapshot", "create", "--live", "web"], {}), (["snapshot", "create", "web", "v1"], {"name": "v1"}),
    (["snapshot", "create", "--stop", "--name", "v1", "--note", "so it was", "--disk-only", "web"],
     {"name": "v1", "note": "so it was", "stop": True, "disk_only": True}),
    (["restore", "web", "warm"], {"snapshot": "warm"}), (["restore", "web", "warm", "--disk-only"], {"snapshot": "warm", "disk_only": True}),
    (["clone", "warm"], {}), (["clone", "--name", "web2", "--snapshot", "warm", "--publish", "9090:80"], {"name": "web2", "publish": ["9090:80"]}),
    (["clone", "web", "-n", "3", "-p", "80", "-p", "53/udp", "--expose", "80", "--disk-only", "--wait-ready", "tcp=80"],
     {"count": 3, "publish": ["80", "53/udp"], "expose": 80, "disk_only": True, "ready": {"mode": "tcp", "port": 80}}),
    (["create", "--snapshot", "warm"], {}), (["run", "--rm", "-d", "--snapshot", "warm"], {"auto_remove": True}), (["run", "-d", "--snapshot", "warm", "--name", "w", "-p", "80", "--expose", "80", "--wait-ready", "ssh",
      "--ready-timeout", "9"], {"name": "w", "publish": ["80"], "expose": 80, "ready": {"mode": "ssh", "timeout": 9}}),
    (["create", "--save-snapshot", "lukewarm"], {"save_snapshot": "lukewarm"}),
    (["run", "-d", "--save-snapshot", "lukewarm", "tiny"], {"save_snapshot": "lukewarm", "image": "tiny", "restart": "no"})])
def test_snapshots(fcm, daemon, argv, body):
    done = fcm(*argv)
    assert done.status == 0 and done.err == "" and last(daemon)["method"] == "POST"
    assert last(daemon)["body"] == body


@pytest.mark.parametrize("argv, image, args", [
    (["--image", "tiny", "uname", "-a"], "tiny", ["uname", "-a"]), (["--image", "tiny"], "tiny", None), (["tiny", "uname", "-a"], "tiny", ["uname", "-a"])])
def test_image_as_an_option(fcm, daemon, argv, image, args):
    """Then every word is the command's."""
    assert fcm("run", "-d", *argv).status == 0
    body = last(daemon)["body"]
    assert (body["image"], body["restart"], body.get("main", {}).get("args")) == (image, "no", args)


@pytest.mark.parametrize("argv, words", [
    (["create", "--image", "tiny", "base"], "said twice"), (["run", "--rm", "--restart", "always", "tiny"], "--rm goes with"),
    (["start", "web", "--ready-timeout", "9"], "go with --wait-ready"), (["clone", "web", "--ready-interval", "2"], "go with --wait-ready"),
    (["run", "-d", "--snapshot", "warm", "--ready-timeout", "9"], "go with --wait-ready")])
def test_what_does_not_go_together(fcm, daemon, argv, words):
    done = fcm(*argv)
    assert done.status == (125 if argv[0] == "run" else 2) and words in done.err, done


def test_an_image_of_ours_is_not_somebody_elses(fcm, daemon):
    """docker.io has a debian, too, which isn't the one that README speaks of."""
    done = fcm("create", "--image", "debian")
    assert done.status == 3 and "fcm image build debian" in done.err and last(daemon)["path"] == "/v1/vms"


@pytest.mark.parametrize("argv", [["run", "--rm", "-d"], ["run", "--rm", "-d", "tiny"]])
def test_rm_needs_no_policy(fcm, daemon, argv):
    assert fcm(*argv).status == 0
    assert (last(daemon)["body"]["auto_remove"], last(daemon)["body"]["restart"]) == (True, "no")


@pytest.mark.parametrize("argv, option", [
    (["-i"], "interactive"), (["--expose"], "expose"), (["-P"], "publish-all"), (["--restart", "no"], "restart"), (["-v", "/x"], "volume"), (["-e", "A=1"], "env"),
    (["--env-file", "/dev/null"], "env-file"), (["--health-cmd", "true"], "health-cmd"), (["--pull", "always"], "pull"), (["--kernel", "k"], "kernel"),
    (["--dry-run"], "dry-run"), (["--label", "a=b"], "label"), (["--tmpfs", "/x"], "tmpfs"), (["--image", "tiny"], "image")])
def test_a_clone_takes_no_more(fcm, daemon, argv, option):
    """Refused by the name that help shows, before anything is asked for."""
    done = fcm("run", "--snapshot", "warm", *argv)
    assert done.status == 125 and f"--{option} doesn't go with --snapshot," in done.err and not daemon.seen


def test_a_prefix_of_an_id_is_no_name(fcm, daemon):
    """What only begins an id gives way to a snapshot of that name."""
    fake_daemon.SNAPSHOTS["8i5a"] = fake_daemon.snapshot("8i5a", "snap0008")
    fake_daemon.VMS["8i5a"] = fake_daemon.VMS["web"]
    try:
        assert fcm("clone", "8i5a").status == 0 and last(daemon)["path"] == "/v1/snapshots/8i5a/clone"
    finally:
        del fake_daemon.SNAPSHOTS["8i5a"], fake_daemon.VMS["8i5a"]


def test_image_import(fcm, daemon, tmp_path):
    (tmp_path / "x.tar").write_bytes(b"x" * 1000)
    assert fcm("image", "import", str(tmp_path / "x.tar")).out == "mine:1\n"
    assert (last(daemon)["path"], last(daemon)["body"]) == ("/v1/images/import", {"bytes": 1000})
    fcm("image", "import", "--name", "a/b:1", "--cmd", "x y", "--cmd", "z", "-e", "A=b", "-w", "/srv", "-u", "web", "--entrypoint", "e", str(tmp_path / "x.tar"))
    path, query = last(daemon)["path"].split("?", 1)
    query = dict(part.split("=", 1) for part in query.split("&"))
    assert unquote(query["name"]) == "a/b:1" and json.loads(unquote(query["config"])) == {
        "Cmd": ["x y", "z"], "Entrypoint": ["e"], "Env": ["A=b"], "WorkingDir": "/srv", "User": "web"}


def test_image_export(fcm, daemon, tmp_path):
    """A file is there whole or not at all."""
    done = fcm("image", "export", "a/b:1")
    assert (done.status, done.out, done.err) == (0, "archive" * 1000, "") and last(daemon)["path"] == "/v1/image/export?ref=a%2Fb%3A1"
    file = tmp_path / "out/x.tar"
    file.parent.mkdir()
    done = fcm("image", "export", "--raw", "-o", str(file), "base")
    assert (done.status, done.out, file.read_text()) == (0, "", "archive" * 1000) and last(daemon)["path"] == "/v1/image/export?ref=base&raw=1"
    assert file.stat().st_mode & 0o777 == 0o644
    done = fcm("image", "export", "-o", str(file), "raw")
    assert done.status == 4 and "--raw gives that" in done.err and file.read_text() == "archive" * 1000
    assert fcm("image", "export", "-o", str(tmp_path / "no/x"), "base").status == 1
    done = fcm.shell("image export base >/dev/full")
    assert done.status == 7 and "No space" in done.err
    assert [x.name for x in file.parent.iterdir()] == ["x.tar"]


def test_snapshot_import(fcm, daemon, tmp_path):
    path = tmp_path / "x.fcm"
    path.write_bytes(b"x" * 1000)
    assert fcm("snapshot", "import", str(path)).out == "moved\n"
    assert (last(daemon)["path"], last(daemon)["body"]) == ("/v1/snapshots/import", {"bytes": 1000})
    assert fcm.shell(f"snapshot import --name v-1 <{path}").out == "v-1\n" and last(daemon)["path"] == "/v1/snapshots/import?name=v-1"
    assert fcm.shell(f"snapshot import - <{path}").out == "moved\n"
    seen = len(daemon.seen)
    done = fcm("snapshot", "import", str(tmp_path / "nothing"))
    assert done.status == 2 and "there is no" in done.err
    done = fcm("snapshot", "import", str(tmp_path))
    assert done.status != 0 and "POST" not in [x["method"] for x in daemon.seen[seen:]]


def test_snapshot_export(fcm, daemon, tmp_path):
    """As an image's: a file is there whole or not at all."""
    done = fcm("snapshot", "export", "warm")
    assert (done.status, done.out, done.err) == (0, "archive" * 1000, "") and last(daemon)["path"] == "/v1/snapshots/warm/export"
    file = tmp_path / "out/x.fcm"
    file.parent.mkdir()
    done = fcm("snapshot", "export", "-o", str(file), "warm")
    assert (done.status, done.out, file.read_text()) == (0, "", "archive" * 1000) and file.stat().st_mode & 0o777 == 0o600
    done = fcm("snapshot", "export", "-o", str(file), "cold")
    assert done.status == 4 and "'data'" in done.err and file.read_text() == "archive" * 1000
    assert fcm.shell("snapshot export warm >/dev/full").status == 7
    assert [x.name for x in file.parent.iterdir()] == ["x.fcm"]


def test_update(fcm, daemon):
    done = fcm("update", "--cpu", "2", "-m", "1g", "--restart", "no", "--label", "a=b=c", "--label", "d=", "--label-rm", "e", "web", "idle")
    assert (done.status, done.out, done.err) == (0, "web\nidle\n", "")
    assert [(s["method"], s["path"]) for s in daemon.seen] == [("PATCH", "/v1/vms/web"), ("PATCH", "/v1/vms/idle")]
    assert last(daemon)["body"] == {"cpus": 2, "memory": 1024, "restart": "no", "labels": {"a": "b=c", "d": ""}, "remove_labels": ["e"]}
    assert fcm("rename", "web", "www").out == "www\n"
    assert last(daemon)["body"] == {"name": "www"}


def test_api(fcm, daemon, tmp_path):
    done = fcm("api", "get", "/v1/vms/web?show=env")
    assert done.status == 0 and json.loads(done.out)["name"] == "web" and last(daemon)["path"] == "/v1/vms/web?show=env"
    assert last(daemon)["authorization"] == f"Bearer {fake_daemon.TOKEN}"
    for data, stdin in (('{"labels": {"a": "b"}}', b""), ("-", b' \n{"labels": {"a": "b"}}'), (f"@{tmp_path}/body", b"")):
        (tmp_path / "body").write_text('{"labels": {"a": "b"}}')
        assert fcm("api", "PATCH", "/v1/vms/idle", "-d", data, input=stdin).status == 0
        assert last(daemon)["method"] == "PATCH" and last(daemon)["body"] == {"labels": {"a": "b"}}


@pytest.mark.parametrize("size", [0, 1, 16384, 1_000_000])
def test_api_sends_an_archive(fcm, daemon, tmp_path, size):
    (tmp_path / "tar").write_bytes(b"x" * size)
    for data, stdin in ((f"@{tmp_path}/tar", b""), ("-", b"x" * size)):
        fcm("api", "PUT", "/v1/vms/web/ssh-keys", "-d", data, input=stdin)
        assert last(daemon)["body"] == ({"bytes": size} if size else None)


def test_api_shows_the_head(fcm):
    done = fcm("api", "-i", "DELETE", "/v1/vms/idle/expose")
    head, body = done.out.split("\r\n\r\n")
    assert done.status == 0 and head.startswith("HTTP/1.1 200 ") and "X-Request-Id: req-1" in head and json.loads(body)["changed"] is False
    done = fcm("api", "-i", "GET", "/v1/vms/nope")
    assert done.status == 3 and done.out.startswith("HTTP/1.1 404 ") and '"not_found"' in done.out and done.err.startswith("fcm: there is no VM 'nope'\n")


def test_api_on_a_terminal(fcm):
    """What a guest printed stays harmless there, and a pipe gets every byte."""
    assert fcm("api", "GET", "/v1/vms/web/logs").out.encode() == fake_daemon.CONSOLE.encode()
    shown = fcm.on_terminal("api", "GET", "/v1/vms/web/logs").out
    assert "\x1b" not in shown and "caf\u00e9" in shown and shown.endswith("login: \n")


def test_api_of_a_full_disk(fcm):
    done = fcm.shell("api GET /v1/vms >/dev/full")
    assert done.status == 1 and "No space left" in done.err


def test_stop_time(fcm, daemon):
    fcm("stop", "--time", "3", "web")
    assert last(daemon)["body"] == {"time": 3}
    fcm("stop", "web")
    assert last(daemon)["body"] == {}


def test_exec(fcm, daemon):
    done = fcm("exec", "-e", "A=1", "--env", "B=x=y\nz", "-w", "/srv", "-u", "www:www", "--timeout", "9", "web", "ls", "-e", "",
               input=b"not for it")
    assert (done.status, done.out, done.err) == (5, "ls -e \n", "")
    assert last(daemon)["path"] == "/v1/vms/web/exec" and last(daemon)["body"] == {
        "cmd": ["ls", "-e", ""], "env": {"A": "1", "B": "x=y\nz"}, "workdir": "/srv", "user": "www:www", "timeout": 9}


def test_exec_stdin(fcm):
    done = fcm("exec", "-i", "web", "--", "cat", input=b"abc" * 50000)
    assert (done.status, done.out, done.err) == (5, "cat\n", "ABC" * 50000)


def test_exec_plain(fcm, daemon):
    done = fcm("exec", "-d", "web", "true")
    assert (done.status, done.out) == (0, "4711\n") and last(daemon)["body"] == {"cmd": ["true"], "detach": True}
    done = fcm("exec", "--json", "web", "true")
    assert done.status == 3 and json.loads(done.out) == {"exit": 3, "stdout": "out\n", "stderr": ""}


@pytest.mark.parametrize("cmd, out, words", [
    ("die", "one\n", "fcm: the daemon went away, and the command with it\n"),
    ("error", "", "fcm: it took ?[31mtoo long\n     wait\n"), ("rubbish", "", "fcm: the daemon sent what makes no sense\n")])
def test_exec_fails_in_the_middle(fcm, cmd, out, words):
    done = fcm("exec", "web", cmd)
    assert (done.status, done.out) == (125, out) and done.err.startswith(words)


@pytest.mark.parametrize("cmd, status", [("die", 125), ("true", 143)])
def test_exec_puts_the_terminal_back(fcm, cmd, status):
    """Raw while it runs: what is typed arrives as it is, ^C and all."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
    before = termios.tcgetattr(slave)
    child = subprocess.Popen([fcm.binary, "exec", "-it", "web", cmd], env=fcm.env, stdin=slave, stdout=slave, stderr=slave)
    if cmd == "true":
        for _ in range(500):
            if not termios.tcgetattr(slave)[3] & termios.ICANON:
                break
            time.sleep(0.01)
        os.write(master, b"\x03")
        while not (frames := [s for s in fcm.daemon.seen if isinstance(s, tuple)]):
            time.sleep(0.01)
        assert frames[0][1] == b"\x03"
        child.terminate()
    assert child.wait(10) == status
    assert termios.tcgetattr(slave) == before
    body = next(s for s in fcm.daemon.seen if isinstance(s, dict))["body"]
    assert body == {"cmd": [cmd], "tty": True, "stdin": True, "rows": 33, "cols": 99}
    os.close(master)
    os.close(slave)


def watch(fcm, *argv, command="stats"):
    """`fcm stats --watch` with all three on a terminal: (child, master, slave, how the slave was)."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 4, 80, 0, 0))
    before = termios.tcgetattr(slave)
    child = subprocess.Popen([fcm.binary, command, "--watch", *argv], env=fcm.env | {"NO_COLOR": "1"}, stdin=slave, stdout=slave,
                             stderr=slave, start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
    return child, master, slave, before


def read_until(master, word, shown=b""):
    while word not in shown:
        shown += os.read(master, 65536)
    return shown


@pytest.mark.parametrize("key, status", [(b"q", 0), (b"\x03", -signal.SIGINT), (b"\x1a xq", 0)])
def test_stats_watched(fcm, key, status):
    """Drawn again in its place, in a screen of its own that is gone afterwards."""
    child, master, slave, before = watch(fcm)
    shown = read_until(master, b"50.0%")
    assert shown.startswith(b"\x1b[?1049h\x1b[?25l") and shown.count(b"\x1b[H") == 2 and b"idle" not in shown
    assert b"\n" not in shown.replace(b"\r\n", b"")
    os.write(master, key)
    assert child.wait(10) == status
    assert read_until(master, b"\x1b[?1049l", shown).endswith(b"\x1b[?25h\x1b[?1049l")
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def test_stats_watched_are_cut_to_the_screen(fcm):
    child, master, slave, before = watch(fcm, *["web"] * 9)
    shown = read_until(master, b"\x1b[J")
    assert shown.count(b"web") == 3 and shown.count(b"\r\n") == 3
    child.terminate()
    assert child.wait(10) == -signal.SIGTERM and termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def test_stats_watched_in_vain(fcm, daemon):
    child, master, slave, before = watch(fcm)
    read_until(master, b"web")
    daemon.need_token = True
    fake_daemon.TOKEN, kept = "another", fake_daemon.TOKEN
    try:
        assert child.wait(10) == 5 and termios.tcgetattr(slave) == before
    finally:
        fake_daemon.TOKEN = kept
    os.close(master)
    os.close(slave)


def test_stats_on_a_pipe(fcm):
    """One sample after another, with one heading; as JSON a line each."""
    for argv in (["stats", "--watch", "web"], ["stats", "--watch", "--json", "web"]):
        with subprocess.Popen([fcm.binary, *argv], env=fcm.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as child:
            lines = [child.stdout.readline() for _ in range(2)]
            lines.append(child.stdout.readline() if "--json" not in argv else "")
            child.terminate()
        if "--json" not in argv:
            assert lines[0].startswith("NAME") and lines[1].split()[:2] == lines[2].split()[:2] == ["web", "50.0%"]
        else:
            assert [[vm["cpu_percent"] for vm in json.loads(line)] for line in lines[:2]] == [["50.0"]] * 2


def test_ls_watched(fcm, daemon):
    child, master, slave, before = watch(fcm, "-i", "1", "--filter", "state=running", command="ls")
    shown = read_until(master, b"web")
    while shown.count(b"\x1b[H") < 2:
        shown += os.read(master, 65536)
    assert b"idle" not in shown and daemon.samples >= 2 and daemon.seen[-1]["path"] == "/v1/vms?state=running"
    os.write(master, b"q")
    assert child.wait(10) == 0 and termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)
    with subprocess.Popen([fcm.binary, "ps", "-qw", "-i1"], env=fcm.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as child:
        assert [child.stdout.readline() for _ in range(4)] == ["web\n", "still\n"] * 2
        child.terminate()


def test_stats_of_nobody(fcm):
    done = fcm("stats", "nope")
    assert (done.status, done.out) == (3, "") and "nope" in done.err
    done = fcm("stats", "-o", "nope")
    assert (done.status, done.out) == (2, "") and "columns: name,id,state" in done.err
    assert fcm("stats", "-i", "0").status == 2


def test_expose(fcm, daemon):
    assert fcm("expose", "idle").out == "https://idle.64-34-93-45.sslip.io\n"
    assert last(daemon)["body"] == {"port": 8000}
    fcm("expose", "web", "3000", "--domain", "www.example.com")
    assert last(daemon)["body"] == {"port": 3000, "domain": "www.example.com"}


# ---- credentials for registries ----

def auth_file(fcm):
    return fcm.home / "run/containers/auth.json"


ANN = "YW5uOnNlY3JldA=="  # ann:secret


def test_login(fcm, daemon):
    done = fcm("login", "-u", "ann", "--password-stdin", "https://reg.test/", input=b"wrong\n")
    assert done.status == 5 and done.err == "fcm: reg.test doesn't take these credentials\n" and not auth_file(fcm).exists()
    for ending in (b"", b"\n", b"\r\n"):
        done = fcm("login", "-u", "ann", "--password-stdin", "reg.test", input=b"secret" + ending)
        assert (done.status, done.out, done.err) == (0, "reg.test\n", "")
        assert last(daemon)["path"] == "/v1/registries/check"
        assert last(daemon)["body"] == {"registry": "reg.test", "user": "ann", "password": "secret"}
    assert json.loads(auth_file(fcm).read_text()) == {"auths": {"reg.test": {"auth": ANN}}}
    assert auth_file(fcm).stat().st_mode & 0o777 == 0o600
    fcm("pull", "reg.test/private")
    assert last(daemon)["body"] == {"image": "reg.test/private", "user": "ann", "password": "secret"}
    fcm("pull", "other.test/x", "--platform", "linux/amd64")
    assert last(daemon)["body"] == {"image": "other.test/x", "platform": "linux/amd64"}
    assert fcm("create", "reg.test/private").out == "misty-comet\n"
    assert [s["body"].get("password") for s in daemon.seen if s["path"] == "/v1/images/pull"] == ["secret", None]  # it was here
    assert fcm("run", "-d", "reg.test/private-too").out == "misty-comet\n"
    assert [s["body"] for s in daemon.seen if s["path"] == "/v1/images/pull"][-1]["password"] == "secret"
    done = fcm("logout", "--json", "reg.test")
    assert json.loads(done.out) == {"files": [str(auth_file(fcm))], "registry": "reg.test"}
    assert json.loads(auth_file(fcm).read_text()) == {"auths": {}}


@pytest.mark.parametrize("place, key, registry", [
    ("docker.io", "https://index.docker.io/v1/", "docker.io"), ("index.docker.io", "https://index.docker.io/v1/", "docker.io"),
    ("registry-1.docker.io", "https://index.docker.io/v1/", "docker.io"), ("docker.io/me", "docker.io/me", "docker.io"),
    ("reg.test:5000/team/app", "reg.test:5000/team/app", "reg.test:5000")])
def test_login_places(fcm, daemon, place, key, registry):
    assert fcm("login", "-u", "ann", "--password-stdin", place, input=b"secret").status == 0
    assert last(daemon)["body"]["registry"] == registry
    assert list(json.loads(auth_file(fcm).read_text())["auths"]) == [key]
    assert fcm("logout", place).status == 0


@pytest.mark.parametrize("place", ["", "reg", "localhost", "a b.c", "reg.test/UP", "reg.test//x", "reg.test/x:1", "-u.x", "reg.test:99999", "x" * 300 + ".y"])
def test_login_nowhere(fcm, daemon, place):
    done = fcm("login", "-u", "ann", "--password-stdin", "--", place, input=b"secret")
    assert done.status == 2 and not daemon.seen and not auth_file(fcm).exists()


def typed(fcm, *argv, answers=(), sig=None):
    """`fcm` with all three on a terminal, where each answer is typed when its prompt is there: (status, what was shown)."""
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    child = subprocess.Popen([fcm.binary, *argv], env=fcm.env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    shown = b""
    for prompt, answer in answers:
        shown = read_until(master, prompt, shown)
        while prompt == b"Password: " and termios.tcgetattr(slave)[3] & termios.ECHO:
            time.sleep(0.01)
        os.write(master, answer)
    if sig:
        child.send_signal(sig)
    status = child.wait(10)
    assert termios.tcgetattr(slave) == before
    os.close(slave)
    try:
        while piece := os.read(master, 65536):
            shown += piece
    except OSError:
        pass
    os.close(master)
    return status, shown.decode().replace("\r\n", "\n")


def test_login_asks(fcm, daemon):
    status, shown = typed(fcm, "login", "reg.test", answers=[(b"Username: ", b"ann\n"), (b"Password: ", b"secret\n")])
    assert status == 0 and shown == f"Username: ann\nPassword: \nreg.test      ann is logged in; {auth_file(fcm)} has it\n"
    assert last(daemon)["body"] == {"registry": "reg.test", "user": "ann", "password": "secret"}
    status, shown = typed(fcm, "login", "-u", "ann", "reg.test", answers=[(b"Password: ", b"\x04")])
    assert status == 1 and shown == "Password: \nfcm: login: nothing was typed\n"
    status, shown = typed(fcm, "login", "-u", "ann", "reg.test", answers=[(b"Password: ", b"sec")], sig=signal.SIGINT)
    assert status == -signal.SIGINT and shown == "Password: \n"


def test_what_cant_be_used_is_said(fcm, daemon):
    auth_file(fcm).parent.mkdir(parents=True)
    auth_file(fcm).write_text(json.dumps({"auths": {"reg.test": {"auth": "YW5uOv8="}}}))
    done = fcm("pull", "-q", "reg.test/app")
    assert done.status == 0 and done.err == "fcm: pull reg.test/app without credentials: user and password must be UTF-8\n"
    assert last(daemon)["body"] == {"image": "reg.test/app"}


def test_debug_hides_passwords(fcm):
    done = fcm("login", "-u", "ann", "--password-stdin", "reg.test", input=b"secret", env={"FCM_DEBUG": "1"})
    assert '"password":"***"' in done.err and "secret" not in done.err
    done = fcm("pull", "reg.test/app", env={"FCM_DEBUG": "1"})
    assert '"user":"ann","password":"***"' in done.err and "secret" not in done.err and '"event": "layer"' in done.err


# ---- the token ----

def test_token_of_the_home(fcm, daemon):
    assert fcm("ls").status == 0
    assert last(daemon)["authorization"] == f"Bearer {fake_daemon.TOKEN}"


def test_token_order(fcm, daemon, tmp_path):
    named = tmp_path / "named"
    named.write_text("from-file\n")
    named.chmod(0o600)
    fcm("ls", "--token-file", str(named), env={"FCM_TOKEN": "from-env"})
    assert last(daemon)["authorization"] == "Bearer from-file"
    fcm("ls", env={"FCM_TOKEN": "from-env"})
    assert last(daemon)["authorization"] == "Bearer from-env"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_token_that_others_can_read(fcm, daemon, mode):
    fcm.write_token(fake_daemon.TOKEN, mode)
    done = fcm("ls")
    assert done.status == 5 and f"chmod 600 {fcm.token_file}" in done.err and not daemon.seen


@pytest.mark.parametrize("text", ["", "\n", "two words\n", "a\rb\n"])
def test_token_that_is_none(fcm, daemon, text):
    fcm.write_token(text)
    assert fcm("ls").status == 5 and not daemon.seen


def test_no_token(fcm, daemon):
    fcm.token_file.unlink()
    if os.access("/var/lib/firecracker/.token", os.R_OK):
        pytest.skip("this machine has a daemon's token, which is readable")
    done = fcm("ls")
    assert done.status == 5 and done.err.startswith(f"fcm: no token for {daemon.url}\n     ask root: sudo fcm token create --for ")


def test_token_never_in_the_clear(fcm):
    done = fcm("ls", env={"FCM_URL": "http://192.0.2.1:7777", "FCM_TOKEN": "secret"})
    assert done.status == 5 and "plain http" in done.err


@pytest.mark.parametrize("url", ["http://192.0.2.1:7777", "https://192.0.2.1"])
def test_token_of_the_home_stays_here(fcm, url):
    done = fcm("ls", env={"FCM_URL": url})
    assert done.status == 5 and f"no token for {url}" in done.err


def test_unix_socket_needs_no_token(fcm, tmp_path):
    server = fake_daemon.start(tmp_path / "fcmd.sock")
    assert fcm("ls", "-q", "--url", server.url).out == "".join(f"{name}\n" for name in fake_daemon.VMS)
    assert server.seen[-1]["authorization"] is None
    server.shutdown()


def test_debug_hides_tokens(fcm):
    done = fcm("token", "create", env={"FCM_DEBUG": "1"})
    assert "POST" in done.err and "201" in done.err and "Bearer ***" in done.err and "S" * 43 not in done.err
    assert done.out == fake_daemon.TOKEN + "\n"


def test_debug_shows_steps(fcm):
    assert '"step": "boot"' in fcm("start", "idle", env={"FCM_DEBUG": "1"}).err


def test_token_for_a_user(fcm, daemon):
    me = pwd.getpwuid(os.geteuid())
    if os.geteuid() != 0:
        pytest.skip("only root writes another user's token")
    done = fcm("token", "create", "--for", "nobody")
    assert done.status == 1 and fake_daemon.TOKEN not in done.out + done.err  # nobody has no home that it may write
    assert [x["method"] for x in daemon.seen[-2:]] == ["POST", "DELETE"] and daemon.seen[-1]["path"].startswith("/v1/tokens/"), "it is taken back"
    assert fcm("token", "create", "--for", "no-such-user").status == 3
    assert me.pw_uid == 0


# ---- streams ----

def test_proxy(fcm):
    done = fcm("proxy", "web", "80", input=b"some words" * 100000)
    assert done.status == 0 and done.out == "hello\n" + "SOME WORDS" * 100000


def test_proxy_refused(fcm):
    done = fcm("proxy", "web", "1", input=b"")
    assert done.status == 1 and done.err.startswith("fcm: nothing listens at port 1\n")


def test_console_of_a_script(fcm, daemon):
    done = fcm("console", "web", input=b"some words" * 100000)
    assert (done.status, done.out, done.err) == (0, "hello\n" + "SOME WORDS" * 100000, "")
    assert last(daemon)["path"] == "/v1/vms/web/console?input=now"


def test_console_read_only_of_a_script(fcm, daemon):
    """stdin isn't looked at, so its end is no reason to leave."""
    child = subprocess.Popen([fcm.binary, "console", "--read-only", "web"], env=fcm.env, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE)
    assert child.stdout.read(6) == b"hello\n"
    assert last(daemon)["path"] == "/v1/vms/web/console?input=no"
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(2.5)
    child.kill()
    child.communicate()


@pytest.fixture
def tls(fcm, tmp_path):
    """The fake daemon behind TLS, with a certificate of its own."""
    server = fake_daemon.start_tls(tmp_path)
    fcm.env |= {"FCM_URL": server.url, "FCM_TOKEN": fake_daemon.TOKEN, **server.trust}
    yield server
    server.shutdown()
    server.server_close()


def test_https(fcm, tls):
    assert fcm("ls", "-q").out == "".join(f"{name}\n" for name in fake_daemon.VMS)
    # without an end of input: TLS can't close one direction, so the fake's answer is the sign to end
    child = subprocess.Popen([fcm.binary, "proxy", "web", "80"], env=fcm.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdin.write(b"a" * 50000)
    child.stdin.flush()
    assert child.stdout.read(6 + 50000) == b"hello\n" + b"A" * 50000
    child.kill()
    child.communicate()


def test_https_that_is_not_trusted(fcm, tls):
    done = fcm("ls", env={"SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt"})
    assert (done.status, tls.seen) == (1, []) and "isn't trusted" in done.err and "SSL_CERT_FILE" in done.err


@pytest.fixture
def fake_ssh(tmp_path):
    """An ssh that prints its arguments and exits with 42."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    (bin_dir / "ssh").write_text('#!/bin/sh\nfor a in "$@"; do printf "%s\\n" "$a"; done\nexit 42\n')
    (bin_dir / "ssh").chmod(0o755)
    return {"PATH": f"{bin_dir}:{os.environ['PATH']}"}


def test_ssh(fcm, daemon, fake_ssh):
    done = fcm("ssh", "web", "--", "uname", "-a", env=fake_ssh)
    words = done.out.splitlines()
    assert done.status == 42 and words[-4:] == ["--", "web.fcm", "uname", "-a"]
    assert {"StrictHostKeyChecking yes", "HostKeyAlias fcm-8i5agfx2", "User root", "LogLevel ERROR"} <= set(words)
    assert f"ProxyCommand '{fcm.binary}' proxy 8i5agfx2 22" in words
    known = (fcm.home / ".cache/fcm/known_hosts").read_text()
    assert known == f"fcm-8i5agfx2,web.fcm {fake_daemon.HOST_KEY}\n"
    public = (fcm.home / ".ssh/fcm_ed25519.pub").read_text().strip()
    assert last(daemon)["body"] == {"keys": [public]}
    assert (fcm.home / ".ssh/fcm_ed25519").stat().st_mode & 0o777 == 0o600
    assert fcm("ssh", "web", "ls", "--json", env=fake_ssh).out.splitlines()[-2:] == ["ls", "--json"]
    assert (fcm.home / ".ssh/fcm_ed25519.pub").read_text().strip() == public


def test_ssh_passes_the_url_on(fcm, daemon, fake_ssh):
    done = fcm("--url", daemon.url, "ssh", "web", env=fake_ssh)
    assert f"ProxyCommand '{fcm.binary}' --url '{daemon.url}' proxy 8i5agfx2 22" in done.out.splitlines()


def test_ssh_to_one_that_is_stopped(fcm, fake_ssh):
    done = fcm("ssh", "idle", env=fake_ssh)
    assert (done.status, done.out, done.err) == (4, "", "fcm: 'idle' is stopped\n     fcm start idle\n")


@pytest.mark.parametrize("name, state, hint", [("still", "paused", "fcm resume still"), ("asleep", "suspended", "fcm start asleep")])
def test_ssh_to_one_that_stands_still(fcm, fake_ssh, name, state, hint):
    done = fcm("ssh", name, env=fake_ssh)
    assert (done.status, done.out, done.err) == (4, "", f"fcm: '{name}' is {state}\n     {hint}\n")


def test_ssh_config(fcm, tmp_path):
    printed = fcm("ssh-config").out
    assert printed.startswith("# fcm begin\nHost *.fcm\n") and f"'{fcm.binary}' proxy %n %p" in printed
    config = fcm.home / ".ssh/config"
    config.parent.mkdir()
    config.write_text("ServerAliveInterval 60\nHost other\n    User me\n")
    assert fcm("ssh-config", "--install").status == 0
    assert fcm("ssh-config", "--install").status == 0
    assert config.read_text() == printed + "ServerAliveInterval 60\nHost other\n    User me\n"
    shown = subprocess.run(["ssh", "-G", "-F", str(config), "web.fcm"], capture_output=True, text=True, check=True).stdout
    assert f"proxycommand '{fcm.binary}' proxy %n %p" in shown and "serveraliveinterval 60" in shown and "user root" in shown


def test_image_build(fcm, daemon, tmp_path):
    """The shipped script is found, and its tar is sent: here one of a small prefix."""
    prefix = tmp_path / "prefix"
    script = prefix / "share/fcm/images/tiny/build"
    script.parent.mkdir(parents=True)
    (prefix / "bin").mkdir()
    (prefix / "bin/fcm").write_bytes(open(fcm.binary, "rb").read())
    (prefix / "bin/fcm").chmod(0o755)
    script.write_text("#!/bin/sh\necho building; head -c 100000 /dev/zero >\"$1\"\n")
    script.chmod(0o755)
    fcm.binary = str(prefix / "bin/fcm")
    (tmp_path / "scratch").mkdir()
    done = fcm("image", "build", "tiny", env={"TMPDIR": str(tmp_path / "scratch")})
    assert (done.status, done.out, done.err) == (0, "tiny\n", "building\n")
    assert last(daemon)["path"] == "/v1/images/import?name=tiny" and last(daemon)["body"] == {"bytes": 100000}
    script.write_text("#!/bin/sh\necho no luck >&2; exit 3\n")
    done = fcm("image", "build", "tiny", env={"TMPDIR": str(tmp_path / "scratch")})
    assert done.status == 1 and done.out == "" and "no luck" in done.err
    assert not os.listdir(tmp_path / "scratch")


def test_build(fcm, daemon, tmp_path):
    """What the script prints goes to stderr, its status is the client's, and an image that isn't here is pulled."""
    path = tmp_path / "script"
    path.write_text("apt-get install x\n")
    done = fcm("build", "--image-name", "web:1", "--script-path", str(path), "--from", "debian", "-e", "A=b", "-m", "1g", "--cpus", "2", "--disk", "2g")
    assert (done.status, done.out) == (0, "web:1\n") and done.err.startswith("apt-get install x\n") and done.err.endswith("[1J\n")
    assert (last(daemon)["path"], last(daemon)["body"]) == ("/v1/images/build", {
        "name": "web:1", "from": "debian", "script": "apt-get install x\n", "env": {"A": "b"}, "memory": 1024, "cpus": 2, "disk": 2048})
    shown = fcm.on_terminal("build", "--image-name", "x", "--script-path", str(path)).out
    assert "apt-get install x" in shown and "\x1b[1J" not in shown and last(daemon)["body"] == {"name": "x", "script": "apt-get install x\n"}
    for status in (1, 3, 125, 255):
        path.write_text(str(status))
        done = fcm("build", "-q", "--image-name", "x", "--script-path", str(path))
        assert (done.status, done.out) == (status, "")
        assert done.err == f"fcm: build 'x': the script ended with status {status}; nothing is kept\n"
    path.write_text("true")
    assert fcm("build", "-q", "--image-name", "x", "--script-path", str(path), "--from", "reg.test/absent").status == 0
    assert [s["path"] for s in daemon.seen[-3:]] == ["/v1/images/build", "/v1/images/pull", "/v1/images/build"]


@pytest.mark.parametrize("script, why", [
    (None, "--script-path: there is no 'PATH'"), (b"", "--script-path: it is empty"), (b"#!/bin/sh\n\xff\xfe", "--script-path: it isn't text (UTF-8)"),
    (b"a\0b", "--script-path: it isn't text (UTF-8)"), (b"#" * (1 << 20) + b"#", "--script-path: it is longer than 1024 KiB")], ids=lambda x: ascii(x)[:12])
def test_build_of_no_script(fcm, daemon, tmp_path, script, why):
    path = tmp_path / "script"
    if script is not None:
        path.write_bytes(script)
    done = fcm("build", "--image-name", "x", "--script-path", str(path))
    assert (done.status, done.out) == (125, "") and f"fcm: {why.replace('PATH', str(path))}\n" in done.err and not daemon.seen


def test_json_of_a_plan(fcm):
    assert json.loads(fcm("create", "--dry-run", "--json").out) == {"plan": fake_daemon.PLAN}


@pytest.mark.parametrize("argv", [["create", "--dry-run", "missing"], ["create", "--dry-run", "--pull", "always", "missing"],
                                  ["run", "--dry-run", "missing"]])
def test_a_plan_pulls_nothing(fcm, daemon, argv):
    done = fcm(*argv)
    assert done.status == (125 if argv[0] == "run" else 3) and "fcm images lists them" in done.err
    assert [seen["path"] for seen in daemon.seen] == ["/v1/vms"]


@pytest.mark.parametrize("argv", [["destroy", "web", "--version"], ["ls", "--version"], ["run", "--version", "tiny"]])
def test_version_runs_no_command(fcm, daemon, argv):
    done = fcm(*argv)
    assert (done.status, done.out) == (0, fcm("version").out) and not daemon.seen


@pytest.mark.parametrize("name,words", [("nova", "--map: the VM is gone again: "), ("stuck", "--map: the VM 'stuck' stays, without its files: ")])
def test_map_that_fails_says_what_became_of_the_vm(fcm, daemon, tmp_path, name, words):
    (tmp_path / "site").mkdir()
    done = fcm("create", "--name", name, "--map", f"{tmp_path}/site:/srv")
    assert done.status != 0 and words in done.err
    assert (name in daemon.made) == (name == "stuck") == ("fcm destroy stuck" in done.err)


def test_map_that_is_interrupted_says_that_the_vm_stays(fcm, daemon, tmp_path):
    (tmp_path / "site").mkdir()
    daemon.goes_on.clear()
    child = subprocess.Popen([fcm.binary, "create", "--name", "nova", "--map", f"{tmp_path}/site:/srv"], env=fcm.env, stderr=subprocess.PIPE)
    for _ in range(1000):
        if any(seen["method"] == "PUT" for seen in daemon.seen):
            break
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=10)[1] == b"fcm: the VM stays, without its files: fcm destroy nova\n"
    daemon.goes_on.set()
    assert child.returncode == -signal.SIGINT


def test_token_for_a_user_is_of_no_other_host(fcm):
    me = pwd.getpwuid(os.geteuid()).pw_name
    done = fcm("token", "create", "--for", me, env={"FCM_URL": "https://192.0.2.1"})
    assert done.status == 2 and "is for the daemon of this host" in done.err
