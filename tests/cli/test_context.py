"""fcm connect and fcm context: which daemon, with which token, and who can read it."""
import json
import os
import pty
import pwd
import re
import stat
import subprocess
import time

import fake_daemon
import pytest


@pytest.fixture
def user(fcm):
    """Somebody without FCM_URL, whose ~/.fcm-token is this host's and must not leave it."""
    fcm.env |= {"FCM_URL": "", "XDG_CONFIG_HOME": str(fcm.home / "xdg")}
    fcm.write_token("fcm_mine0000_" + "M" * 43 + "\n")
    fcm.contexts = fcm.home / "xdg/fcm/contexts"
    return fcm


@pytest.fixture
def other(tmp_path):
    """A second daemon, by TLS."""
    server = fake_daemon.start_tls(tmp_path)
    yield server
    server.shutdown()
    server.server_close()


def connect(user, daemon, *options, token=fake_daemon.TOKEN, **kwargs):
    return user("connect", daemon.url, *options, input=token.encode() + b"\n", **kwargs)


def sent(daemon):
    return daemon.seen[-1]["authorization"]


def test_connect_and_use(user, daemon, other):
    done = connect(user, daemon, "--name", "prod")
    assert (done.status, done.out, done.err) == (0, "prod\n", "")
    assert (daemon.seen[-1]["path"], sent(daemon)) == ("/v1", f"Bearer {fake_daemon.TOKEN}")
    file = user.contexts / "prod.json"
    assert json.loads(file.read_text()) == {"url": daemon.url, "token": fake_daemon.TOKEN}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(user.contexts.stat().st_mode) == 0o700
    assert user("ls", "-q").out.startswith("web\n") and sent(daemon) == f"Bearer {fake_daemon.TOKEN}"
    # another one, by its host's name; it is used from now on
    user.env |= other.trust
    assert connect(user, other).out == "127.0.0.1\n"
    assert user("ls", "-q").status == 0 and len(other.seen) == 2
    for env, options in (({}, ["--context", "prod"]), ({"FCM_CONTEXT": "prod"}, [])):
        count = len(daemon.seen)
        assert user(*options, "ls", env=env).status == 0 and len(daemon.seen) == count + 1
    assert user("context", "use", "prod").out == "prod\n"
    count = len(daemon.seen)
    assert user("ls").status == 0 and len(daemon.seen) == count + 1


def test_words_on_a_terminal(user, daemon, golden):
    def clean(shown):
        shown = re.sub(r"^local +(?:http|unix)\S+ ", "local HERE ", shown.replace(daemon.url, "URL"), flags=re.M)
        return re.sub(" +", " ", shown)

    token = user.home / "token"
    token.write_text(fake_daemon.TOKEN)
    token.chmod(0o600)
    text = ""
    for argv in (["connect", daemon.url, "--name", "prod", "--token-file", str(token)], ["context", "ls"], ["context", "use", "local"],
                 ["context", "use", "prod"], ["context", "rm", "prod"], ["context", "ls"]):
        done = user.on_terminal(*argv)
        assert done.status == 0, done.out
        text += "$ fcm " + " ".join(argv).replace(str(token), "FILE") + "\n" + done.out
    golden("tty-context", clean(text))


def test_token_is_asked_for_without_echo(user, daemon):
    master, slave = pty.openpty()
    child = subprocess.Popen([user.binary, "connect", daemon.url, "--name", "prod"], env=user.env, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    while b": " not in shown:
        shown += os.read(master, 1000)
    time.sleep(0.1)
    os.write(master, fake_daemon.TOKEN.encode() + b"\n")
    try:
        while piece := os.read(master, 1000):
            shown += piece
    except OSError:
        pass
    os.close(master)
    assert child.wait(10) == 0 and b"Token for " in shown and b"SSSS" not in shown
    assert json.loads((user.contexts / "prod.json").read_text())["token"] == fake_daemon.TOKEN


def test_renewed(user, daemon, other):
    """The same name and URL again is another token; another URL is refused, for scripts say the name."""
    connect(user, daemon, "--name", "prod")
    done = connect(user, daemon, "--name", "prod", token="fcm_wrong")
    assert done.status == 5 and "the token is wrong" in done.err
    assert user("ls").status == 0, "the good token was lost"
    assert connect(user, daemon, "--name", "prod").status == 0
    done = connect(user, other, "--name", "prod", env=other.trust)
    assert done.status == 4 and f"'prod' is {daemon.url} already" in done.err and not other.seen


def test_ls(user, daemon, tmp_path):
    rows = json.loads(user("context", "ls", "--json").out)
    assert [(r["name"], r["current"]) for r in rows] == [("local", True)]
    connect(user, daemon, "--name", "prod")
    assert user("context", "ls", "-q").out == "local\nprod\n"
    done = user("context", "ls", "--json")
    assert json.loads(done.out)[1] == {"name": "prod", "url": daemon.url, "current": True}
    assert "fcm_" not in done.out + user("context", "ls").out
    for env, name in (({"FCM_CONTEXT": "local"}, "local"), ({"FCM_URL": daemon.url}, None)):
        rows = json.loads(user("context", "ls", "--json", env=env).out)
        assert [r["name"] for r in rows if r["current"]] == ([name] if name else [])
    # what somebody else put there, or broke, is no reason to show none
    (user.contexts / "Not A Name.json").write_text("{}")
    (user.contexts / "broken.json").write_text("{")
    (user.contexts / "broken.json").chmod(0o600)
    assert user("context", "ls", "-q").out == "local\nbroken\nprod\n"
    assert user("--context", "broken", "ls").status == 2


def test_rm(user, daemon):
    connect(user, daemon, "--name", "prod")
    connect(user, daemon, "--name", "prod-2")
    done = user("context", "rm", "prod", "nope", "prod-2")
    assert (done.status, done.out) == (3, "prod\nprod-2\n") and "no context 'nope'" in done.err
    assert not list(user.contexts.iterdir()) and not (user.home / "xdg/fcm/context").exists()
    assert json.loads(user("context", "ls", "--json").out)[0]["current"]


def test_a_token_belongs_to_its_url(user, daemon, other):
    """FCM_TOKEN is for FCM_URL and this host: a context has its own. Without any, that of the context with the same URL goes."""
    connect(user, daemon, "--name", "prod")
    user("ls", env={"FCM_TOKEN": "fcm_other"})
    assert sent(daemon) == f"Bearer {fake_daemon.TOKEN}"
    named = user.home / "named"
    named.write_text("from-file\n")
    named.chmod(0o600)
    user("ls", "--token-file", str(named))
    assert sent(daemon) == "Bearer from-file"
    assert user("--url", daemon.url, "ls").status == 0 and sent(daemon) == f"Bearer {fake_daemon.TOKEN}"
    done = user("--url", other.url, "ls", env=other.trust)
    assert sent(other) == "Bearer fcm_mine0000_" + "M" * 43 and done.status == 5  # it is loopback
    done = user("--url", "https://192.0.2.1", "ls")
    assert done.status == 5 and "no token for https://192.0.2.1" in done.err


def test_never_in_the_clear(user, daemon):
    done = user("connect", "http://192.0.2.1:7777", input=b"secret\n")
    assert done.status == 5 and "plain http" in done.err and not user.contexts.exists()
    connect(user, daemon, "--name", "prod")
    file = user.contexts / "prod.json"
    file.write_text(json.dumps({"url": "http://192.0.2.1:7777", "token": "secret"}))
    for argv in (["ls"], ["--url", "http://192.0.2.1:7777", "ls"]):
        done = user(*argv)
        assert done.status == 5 and "plain http" in done.err


def test_a_file_that_others_can_read(user, daemon):
    connect(user, daemon, "--name", "prod")
    (user.contexts / "prod.json").chmod(0o640)
    count = len(daemon.seen)
    done = user("ls")
    assert done.status == 5 and "chmod 600" in done.err and len(daemon.seen) == count


def test_unix_socket(user, tmp_path):
    server = fake_daemon.start(tmp_path / "fcmd.sock")
    assert user("connect", server.url, "--name", "here").status == 0
    assert user("ls", "-q").status == 0 and sent(server) is None
    assert json.loads((user.contexts / "here.json").read_text()) == {"url": server.url}
    server.shutdown()


def test_home_without_xdg(user, daemon):
    user.env.pop("XDG_CONFIG_HOME")
    for relative in ("", "relative"):
        assert connect(user, daemon, "--name", "prod", env={"XDG_CONFIG_HOME": relative}).status == 0
        assert (user.home / ".config/fcm/contexts/prod.json").exists()


def test_ssh_goes_the_same_way(user, daemon):
    connect(user, daemon, "--name", "prod")
    user("context", "use", "local")
    assert " --context 'prod' proxy %n %p" in user("--context", "prod", "ssh-config").out
    assert "--context" not in user("ssh-config").out


def test_token_for_a_user_is_this_hosts(user, daemon):
    connect(user, daemon, "--name", "prod")
    count = len(daemon.seen)
    done = user("token", "create", "--for", pwd.getpwuid(os.geteuid()).pw_name)
    assert done.status == 2 and "--context local token create --for" in done.err and len(daemon.seen) == count


def test_the_environment_counts_more(user, daemon):
    connect(user, daemon, "--name", "prod")
    for name, value in (("FCM_CONTEXT", "local"), ("FCM_URL", daemon.url)):
        assert f"but {name} is set and counts more: {value}" in user.on_terminal("context", "use", "prod", env={name: value}).out


def test_info(user, daemon):
    connect(user, daemon, "--name", "prod")
    assert "\ncontext     prod\n" in user("info").out
    assert "context" not in user("info", "--url", daemon.url).out


BAD = [
    ("connect-url", ["connect", "prod"], 2), ("connect-none", ["connect"], 2), ("connect-name", ["connect", "URL", "--name", "No Name"], 2),
    ("connect-local", ["connect", "URL", "--name", "local"], 2), ("connect-socket", ["connect", "unix:///run/x.sock"], 2),
    ("connect-token", ["connect", "URL", "--name", "x"], 5), ("connect-long", ["connect", "URL", "--name", "x" * 64], 2),
    ("context-verb", ["context", "melt"], 2), ("context-none", ["context", "use", "nope"], 3), ("context-rm", ["context", "rm"], 2),
    ("context-use", ["context", "use", "a", "b"], 2), ("context-ls", ["context", "ls", "x"], 2), ("context-rm-local", ["context", "rm", "local"], 2),
    ("context-both", ["--context", "a", "--url", "URL", "ls"], 2), ("context-unknown", ["--context", "nope", "ls"], 3),
    ("context-path", ["--context", "../x", "ls"], 2), ("context-empty", ["--context", "", "ls"], 2),
]


@pytest.mark.parametrize("name,argv,status", BAD, ids=[b[0] for b in BAD])
def test_bad(user, daemon, golden, name, argv, status):
    done = user(*[daemon.url if a == "URL" else a for a in argv], input=b"")
    assert (done.status, done.out) == (status, "") and not user.contexts.exists() and not daemon.seen
    lines = done.err.replace(daemon.url, "URL").splitlines()
    assert lines[0].startswith("fcm: ") and len(lines) <= 2
    golden(f"error-{name}", "\n".join(lines) + "\n")


@pytest.mark.parametrize("text", [b"two words\n", b"a\0b\n", b"\x1b[A\n", b"x" * 600 + b"\n"])
def test_what_is_no_token(user, daemon, text):
    done = user("connect", daemon.url, "--name", "x", input=text)
    assert done.status in (2, 5) and not daemon.seen and not user.contexts.exists()


def test_not_fcmd(user, daemon, monkeypatch):
    monkeypatch.setattr(fake_daemon.Handler, "get_info", lambda self, body: self.answer(200, {"hello": 1}))
    done = connect(user, daemon, "--name", "x")
    assert done.status == 6 and "isn't fcmd" in done.err and not user.contexts.exists()


def test_current_context_that_is_gone(user, daemon):
    connect(user, daemon, "--name", "prod")
    (user.contexts / "prod.json").unlink()
    done = user("ls")
    assert done.status == 3 and "no context 'prod'" in done.err
    (user.home / "xdg/fcm/context").write_text("../../x\n")
    done = user("ls")
    assert done.status == 2 and "fcm context use local" in done.err
    assert user("context", "use", "local").status == 0
