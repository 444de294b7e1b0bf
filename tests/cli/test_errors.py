"""Two lines, cause and what to do, and the exit status of common/core/errors.def."""
import fake_daemon
import pytest

CASES = [
    ("usage-command", ["craete"], 2), ("usage-nonsense", ["zzzzzzzz"], 2), ("usage-option", ["create", "--cpuss", "1"], 2),
    ("usage-option-value", ["ls", "--fliter=a"], 2), ("usage-option-far", ["create", "--sdfghjk"], 2), ("usage-option-first", ["--jsno", "ls"], 2),
    ("usage-letter", ["ls", "-z"], 2), ("usage-value", ["create", "--name"], 2), ("usage-flag", ["create", "--dry-run=1"], 2),
    ("usage-missing", ["inspect"], 2), ("usage-many", ["logs", "a", "b"], 2), ("usage-column", ["ls", "-o", "name,nope"], 2),
    ("usage-near", ["mv", "a", "b"], 2), ("usage-cp", ["cp", "a", "b"], 2), ("usage-empty", ["stop", ""], 2), ("usage-empty-option", ["create", "--name", ""], 2),
    ("usage-ssh", ["ssh", "web", "-L", "80:localhost:80"], 2), ("usage-key", ["create", "--ssh-key", "/nowhere"], 2),
    ("usage-image", ["image", "build", "nope"], 2), ("usage-image-none", ["image", "build"], 2),
    ("usage-image-verb", ["image", "melt"], 2), ("usage-image-tag", ["image", "tag", "a"], 2),
    ("usage-image-import", ["image", "import"], 2), ("usage-system", ["system", "prune"], 2), ("usage-build", ["build", "--image-name", "x"], 125), ("usage-image-option", ["image", "tag", "--name", "x", "a", "b"], 2), ("usage-token", ["token", "destroy"], 2),
    ("usage-token-scope", ["token", "create", "--scope", "all"], 2),
    ("usage-token-expires", ["token", "create", "--expires", "soon"], 2), ("usage-token-option", ["token", "ls", "--vms", "a=b"], 2),
    ("no-token-to-revoke", ["token", "revoke", "nobody00"], 3),
    ("usage-url", ["--url", "ftp://x", "ls"], 2), ("usage-port", ["proxy", "web", "0"], 2),
    ("usage-update", ["update", "web"], 2), ("usage-rename", ["rename", "web"], 2), ("bad-rename", ["rename", "web", "Www"], 2),
    ("bad-update", ["update", "web", "--restart", "maybe"], 2), ("taken-rename", ["rename", "web", "idle"], 4),
    ("usage-filter", ["ls", "--filter", "web"], 2), ("bad-filter", ["ls", "--filter", "colour=red"], 2),
    ("bench-rounds", ["bench", "-n", "0"], 2), ("bench-many", ["bench", "--rounds", "101"], 2), ("bench-image", ["bench", "missing"], 3),
    ("usage-api", ["api", "LIST", "/v1/vms"], 2), ("usage-api-path", ["api", "GET", "v1/vms"], 2),
    ("usage-api-data", ["api", "POST", "/v1/vms", "-d", "@/nowhere"], 2), ("api", ["api", "GET", "/v1/nothing"], 3),
    ("range-cpus", ["create", "--cpus", "99"], 2), ("range-cpus-word", ["create", "--cpus", "two"], 2),
    ("range-mem", ["create", "--memory", "1k"], 2), ("range-expose", ["create", "--expose", "70000"], 2),
    ("bad-name", ["create", "--name", "Web!"], 2), ("bad-restart", ["create", "--restart", "maybe"], 2),
    ("bad-state", ["wait", "web", "--state", "asleep"], 2), ("bad-label", ["create", "--label", "novalue"], 2),
    ("usage-bind", ["create", "-v", "/srv:/srv"], 2),
    ("not-found", ["inspect", "nope"], 3), ("no-image", ["create", "missing"], 3),
    ("private", ["pull", "reg.test/private"], 5), ("login", ["login", "-u", "ann", "reg.test"], 2), ("login-place", ["login", "reg"], 2),
    ("login-colon", ["login", "-u", "a:b", "--password-stdin", "reg.test"], 2), ("logout", ["logout", "reg.test"], 3),
    ("taken", ["create", "--name", "web"], 4), ("busy", ["stop", "busy"], 4), ("forbidden", ["kill", "forbidden"], 5),
    ("full", ["create", "--name", "full"], 7), ("slow", ["start", "slow"], 8), ("wait", ["wait", "idle", "--timeout", "1"], 8),
    ("usage-snapshot-verb", ["snapshot", "melt"], 2), ("usage-snapshot-create", ["snapshot", "create"], 2), ("usage-snapshot-ls", ["snapshot", "ls", "a", "b"], 2),
    ("usage-snapshot-option", ["snapshot", "rm", "--note", "x", "warm"], 2), ("usage-volume-option", ["volume", "ls", "--size", "1g"], 2),
    ("usage-snapshot-names", ["snapshot", "create", "--name", "a", "web", "b"], 2), ("usage-live-stop", ["snapshot", "create", "--live", "--stop", "web"], 2), ("snapshot-name", ["snapshot", "create", "web", "A b"], 2),
    ("snapshot-taken", ["snapshot", "create", "--name", "warm", "web"], 4), ("snapshot-absent", ["snapshot", "inspect", "nope"], 3),
    ("snapshot-held", ["snapshot", "rm", "hot"], 4), ("usage-snapshot-export", ["snapshot", "export"], 2), ("usage-snapshot-import", ["snapshot", "import", "a", "b"], 2),
    ("snapshot-import-absent", ["snapshot", "import", "/nonexistent"], 2), ("snapshot-import-dir", ["snapshot", "import", "/"], 2), ("snapshot-volume", ["snapshot", "export", "cold"], 4), ("snapshot-no-vm", ["snapshot", "create", "nope"], 3),
    ("restore-other", ["restore", "idle", "warm"], 4), ("restore-absent", ["restore", "web", "nope"], 3), ("pause-stopped", ["pause", "idle"], 4),
    ("clone-none", ["clone"], 2), ("clone-both", ["clone", "web", "--snapshot", "warm"], 2), ("clone-absent", ["clone", "nope"], 3),
    ("clone-ambiguous", ["clone", "still"], 2), ("clone-count", ["clone", "warm", "-n", "0"], 2), ("clone-many", ["clone", "warm", "-n", "1000"], 2),
    ("save-taken", ["create", "--name", "nova", "--save-snapshot", "warm"], 4), ("save-map", ["create", "--save-snapshot", "x", "--map", "/etc:/srv"], 2),
    ("snapshot-image", ["create", "--snapshot", "warm", "nginx"], 2), ("snapshot-cpus", ["create", "--snapshot", "warm", "--cpu", "2"], 2),
    ("snapshot-memory", ["create", "--snapshot", "warm", "-m", "1g"], 2), ("snapshot-key", ["create", "--snapshot", "warm", "--ssh-key", "/x"], 2),
    ("snapshot-save", ["create", "--snapshot", "warm", "--save-snapshot", "x"], 2),
    ("internal", ["destroy", "broken"], 1), ("guest", ["start", "noguest"], 1), ("proxy-answer", ["inspect", "html"], 6),
]


@pytest.mark.parametrize("name,argv,status", CASES, ids=[c[0] for c in CASES])
def test_error(fcm, golden, name, argv, status):
    done = fcm(*argv)
    assert (done.status, done.out) == (status, "")
    lines = done.err.replace(fcm.daemon.url, "URL").splitlines()
    assert lines[0].startswith("fcm: ") and len(lines) <= 2 and all(line.startswith("     ") for line in lines[1:])
    golden(f"error-{name}", "\n".join(lines) + "\n")


def test_no_daemon(fcm):
    done = fcm("ls", env={"FCM_URL": "http://127.0.0.1:1"})
    assert done.status == 6
    assert done.err == ("fcm: no daemon at http://127.0.0.1:1 (connection refused)\n"
                        "     start it: sudo systemctl start fcmd   or in the foreground: sudo fcm daemon\n")


def test_no_daemon_elsewhere(fcm):
    done = fcm("ls", env={"FCM_URL": "https://nowhere.invalid", "FCM_TOKEN": fake_daemon.TOKEN})
    assert done.status == 6 and done.err.endswith("     is the URL right, and does fcmd run there?\n")


def test_token_file(fcm):
    done = fcm("--token-file", "/dev/null", "ls")
    assert (done.status, done.err) == (5, "fcm: no token can be read from /dev/null: not a file\n"
                                       "     name a file of yours that holds one\n")


def test_wrong_token(fcm):
    done = fcm("ls", env={"FCM_TOKEN": "fcm_wrong"})
    assert done.status == 5 and done.err.startswith("fcm: the token is wrong\n     unset FCM_TOKEN, or ask root: ")


def test_several_names(fcm):
    done = fcm("stop", "web", "nope", "busy", "idle")
    assert (done.status, done.out) == (4, "web\nidle\n")
    assert [line for line in done.err.splitlines() if line.startswith("fcm:")] == [
        "fcm: there is no VM 'nope'", "fcm: cannot stop 'busy': stop is in progress", "fcm: 'idle' is already stopped"]


def test_force_silences_not_found(fcm):
    done = fcm("destroy", "-f", "nope")
    assert (done.status, done.out, done.err) == (0, "", "")


def test_doctor_fails_when_a_check_does(fcm):
    assert fcm("doctor").status == 1


def test_exec_has_a_status_of_its_own(fcm):
    """125 is ours: the command's may be any other."""
    for argv in (["exec", "nope", "true"], ["exec", "web"], ["exec", "--nope", "web", "true"], ["exec", "-dt", "web", "true"],
                 ["exec", "--json", "-i", "web", "true"], ["exec", "-it", "web", "true"], ["exec", "-w", "x", "web", "true"],
                 ["exec", "-d", "--timeout", "1", "web", "true"], ["exec", "-e", "1=x", "web", "true"],
                 ["exec", "--timeout", "x", "web", "true"], ["exec", "web", b"\xff"], ["exec", "web", ""]):
        done = fcm(*argv)
        assert (done.status, done.out) == (125, ""), argv
        assert done.err.startswith("fcm: "), argv
    done = fcm("exec", "web", "true", env={"FCM_URL": "http://127.0.0.1:1"})
    assert done.status == 125 and done.err.startswith("fcm: no daemon at ")


def test_every_command_without_a_daemon(fcm):
    env = {"FCM_URL": "http://127.0.0.1:1"}
    for argv in (["create"], ["ls"], ["ps"], ["inspect", "x"], ["ssh", "x"], ["proxy", "x", "22"], ["stop", "x"], ["start", "x"],
                 ["restart", "x"], ["kill", "x"], ["destroy", "x"], ["rename", "x", "y"], ["update", "x", "--cpus", "1"], ["logs", "x"], ["events"], ["console", "x"], ["expose", "x", "80"], ["unexpose", "x"],
                 ["publish", "x", "80"], ["unpublish", "x", "80"], ["port", "x"], ["pull", "x"],
                 ["wait", "x"], ["pause", "x"], ["resume", "x"], ["suspend", "x"], ["snapshot", "create", "x"], ["snapshots"], ["snapshot", "inspect", "x"],
                 ["snapshot", "rm", "x"], ["snapshot", "export", "x"], ["snapshot", "import", "/etc/hosts"], ["restore", "x", "y"], ["clone", "x"], ["clone", "--snapshot", "x"], ["create", "--snapshot", "x"], ["images"], ["image", "build", "tiny"], ["rmi", "x"], ["image", "tag", "x", "y"], ["image", "prune"], ["image", "import", "x"],
                 ["image", "history", "x"], ["image", "export", "x"], ["system", "df"],
                 ["image", "inspect", "x"], ["token", "create"], ["token", "ls"], ["token", "revoke", "x"], ["info"], ["api", "GET", "/v1"]):
        done = fcm(*argv, env=env)
        assert (done.status, done.out) == (6, ""), argv
        assert done.err.startswith("fcm: no daemon at http://127.0.0.1:1 (connection refused)\n"), argv
