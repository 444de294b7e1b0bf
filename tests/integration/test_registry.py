"""Registries that want to know who asks, over TLS, behind mirrors; and pulls as the API shows them. Nothing of it needs a guest."""
import base64
import contextlib
import hashlib
import io
import json
import os
import socket
import tarfile
import time

import pytest
from host import UPLINK, USER, USER_ID, wait_for
from registry import IDENTITY, PASSWORD, Registry, TokenServer, certificate

PLAIN, BASIC, BEARER, TOKENS, MIRROR, HANGING, TLS = (f"127.0.0.1:{port}" for port in range(5000, 5007))
TLS = "registry.test:5006"
HOST = {"fake": True, "config": f"insecure_registries = {PLAIN} {BASIC} {BEARER} {TOKENS} {MIRROR} {HANGING}\n"
                                f"registry_mirrors = {PLAIN}=http://{MIRROR}\n"}
HOME = f"/home/{USER}"
AUTH = f"{HOME}/.config/containers/auth.json"


def tar(name, data):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


LAYERS = [tar(f"file{i}", os.urandom(40000)) for i in range(4)]
CONFIG = {"Entrypoint": ["/file0"]}


@pytest.fixture(scope="module")
def registries(host, tmp_path_factory):
    """By their addresses: all have the same images, but for the mirror, which is down and empty."""
    path = tmp_path_factory.mktemp("registries")
    host.run("sh", "-c", f"echo {UPLINK} registry.test >>/etc/hosts")
    tls = certificate(path, "registry.test")
    tokens = TokenServer(host, path, 5003)
    plain = Registry(host, path / "plain", PLAIN)
    plain.fill("app:1", LAYERS[:2], CONFIG)
    plain.fill("team/app:1", LAYERS[1:3], CONFIG)
    plain.fill("big:1", LAYERS, CONFIG)
    made = {
        PLAIN: plain,
        BASIC: Registry.with_passwords(host, path / "basic", BASIC, blobs=plain),
        BEARER: Registry.with_tokens(host, path / "bearer", BEARER, tokens, blobs=plain),
        TLS: Registry.with_passwords(host, path / "tls", f"{UPLINK}:5006", blobs=plain, tls=tls),
        MIRROR: Registry(host, path / "mirror", MIRROR),
    }
    made[MIRROR].stop()
    made["cert"], made["tokens"] = tls[0], tokens
    host.add_user_token()
    yield made
    tokens.close()


@pytest.fixture(autouse=True)
def clean(host, registries):
    """Nobody is logged in, and no image is here."""
    host.run("rm", "-rf", f"{HOME}/.config", f"{HOME}/.docker", "/usr/local/bin/docker-credential-test", f"{HOME}/helper")
    yield
    host.destroy_all()
    for image in host.api.get("/v1/images").ok()["images"]:
        if image["kind"] == "image" and ":" in image["name"]:
            host.api.delete(f"/v1/image?ref={image['digest']}")


def fcm(host, *argv, check=True, **kwargs):
    return host.fcm(*argv, user=USER, check=check, **kwargs)


def login(host, address, password=PASSWORD, **kwargs):
    return fcm(host, "login", "-u", "ann", "--password-stdin", address, input=password + "\n", **kwargs)


def write(host, path, value, mode=0o600):
    """As that user would."""
    text = value if isinstance(value, str) else json.dumps(value)
    host.run("sh", "-c", f'mkdir -p "$(dirname {path})" && cat >{path} && chmod {mode:o} {path}', input=text)
    host.run("chown", "-R", f"{USER_ID}:{USER_ID}", HOME)


def auth(user, password):
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def refused(done, status, *words):
    assert done.returncode == status and done.stdout == "" and all(word in done.stderr for word in words), done


# ---- passwords, tokens ----

@pytest.mark.parametrize("address", [BASIC, BEARER])
def test_login(host, registries, address):
    refused(fcm(host, "pull", f"{address}/app:1", check=False), 5, f"{address} wants credentials", f"fcm login {address}")
    refused(login(host, address, "wrong", check=False), 5, f"{address} doesn't take these credentials")
    assert host.run("ls", AUTH, check=False).returncode != 0  # nothing is kept of what is wrong
    assert login(host, address).stdout == address + "\n"
    assert host.run("stat", "-c", "%a %U", AUTH).stdout == f"600 {USER}\n"
    assert json.loads(host.run("cat", AUTH).stdout) == {"auths": {address: auth("ann", PASSWORD)}}
    assert fcm(host, "pull", f"{address}/app:1").stdout == registries[PLAIN].ids["app:1"] + "\n"
    assert fcm(host, "logout", address).stdout == address + "\n"
    refused(fcm(host, "logout", address, check=False), 3, f"nobody is logged in to {address}")
    refused(fcm(host, "pull", f"{address}/big:1", check=False), 5, f"{address} wants credentials")
    assert PASSWORD not in host.log_path.read_text()


def test_tokens_are_for_what_is_pulled(host, registries):
    login(host, BEARER)
    registries["tokens"].asked.clear()
    fcm(host, "pull", f"{BEARER}/team/app:1")
    assert registries["tokens"].asked and all(q["scope"] == ["repository:team/app:pull"] for q in registries["tokens"].asked)


@pytest.mark.parametrize("argv", [["create", "--wait-ready", "none"], ["run", "-d", "--wait-ready", "none"]])
def test_create_and_run_have_them_too(host, registries, argv):
    refused(fcm(host, *argv, f"{BASIC}/app:1", check=False), 125 if argv[0] == "run" else 5, "wants credentials")
    login(host, BASIC)
    name = fcm(host, *argv, f"{BASIC}/app:1").stdout.strip()
    assert host.vm(name)["image_id"] == registries[PLAIN].ids["app:1"]


def test_debug_shows_no_password(host):
    done = login(host, BASIC, env={"FCM_DEBUG": "1"})
    assert "/v1/registries/check" in done.stderr and PASSWORD not in done.stderr
    done = fcm(host, "pull", f"{BASIC}/app:1", env={"FCM_DEBUG": "1"})
    assert '"user":"ann","password":"***"' in done.stderr and PASSWORD not in done.stderr


def test_registries_that_are_none(host):
    refused(login(host, "registry", check=False), 2, "'registry' is no registry")
    refused(login(host, "127.0.0.1:7777", check=False), 5, "address that isn't allowed")
    begun = time.monotonic()
    refused(login(host, "nowhere.invalid", check=False), 6, "nowhere.invalid can't be asked: ")
    assert time.monotonic() - begun < 10
    refused(login(host, "127.0.0.1:5003", check=False), 5)
    refused(fcm(host, "login", BASIC, check=False), 2, "stdin isn't a terminal", "--password-stdin")
    refused(fcm(host, "login", "--password-stdin", BASIC, check=False, input="x"), 2, "goes with -u")
    refused(login(host, BASIC, "", check=False), 2, "password is empty")
    refused(login(host, BASIC, "x" * 4096, check=False), 2, "no password of at most 4095 bytes")


# ---- where docker, podman and skopeo keep them ----

def test_skopeo_finds_what_fcm_keeps(host):
    argv = ["skopeo", "inspect", "--tls-verify=false", f"docker://{BASIC}/app:1"]
    assert host.run(*argv, user=USER, check=False).returncode != 0
    login(host, BASIC)
    assert json.loads(host.run(*argv, user=USER).stdout)["Name"] == f"{BASIC}/app"


def test_fcm_finds_what_skopeo_keeps(host):
    file = {"REGISTRY_AUTH_FILE": f"{HOME}/mine.json"}
    host.run("skopeo", "login", "--tls-verify=false", "-u", "ann", "-p", PASSWORD, BASIC, user=USER, env=file)
    refused(fcm(host, "pull", f"{BASIC}/app:1", check=False), 5, "wants credentials")
    fcm(host, "pull", f"{BASIC}/app:1", env=file)
    fcm(host, "logout", BASIC, env=file)
    assert host.run("skopeo", "login", "--get-login", BASIC, user=USER, env=file, check=False).returncode != 0


def test_a_path_has_its_own(host):
    write(host, f"{HOME}/.docker/config.json", {"auths": {f"{BASIC}/team/app": auth("ann", PASSWORD), BASIC: auth("ann", "old")}, "detachKeys": "ctrl-x"})
    fcm(host, "pull", f"{BASIC}/team/app:1")
    refused(fcm(host, "pull", f"{BASIC}/app:1", check=False), 5, "doesn't take these")
    fcm(host, "logout", BASIC)
    kept = json.loads(host.run("cat", f"{HOME}/.docker/config.json").stdout)
    assert kept == {"auths": {f"{BASIC}/team/app": auth("ann", PASSWORD)}, "detachKeys": "ctrl-x"}
    login(host, f"{BASIC}/team")
    assert json.loads(host.run("cat", AUTH).stdout)["auths"].keys() == {f"{BASIC}/team"}


HELPER = f"""#!/bin/sh
echo "$1 $(cat)" >>{HOME}/helper
case $1 in
get) [ -s {HOME}/secret ] && cat {HOME}/secret || {{ echo credentials not found in native keychain; exit 1; }} ;;
store) tail -n 1 {HOME}/helper | cut -d' ' -f2- >{HOME}/secret ;;
erase) : >{HOME}/secret ;;
esac
"""


@pytest.mark.parametrize("config", [{"credHelpers": {BASIC: "test"}}, {"auths": {BASIC: {}}, "credsStore": "test"}])
def test_helper(host, config):
    write(host, f"{HOME}/.docker/config.json", config)
    write(host, "/usr/local/bin/docker-credential-test", HELPER, 0o755)
    write(host, f"{HOME}/secret", "")
    file = {"REGISTRY_AUTH_FILE": f"{HOME}/.docker/config.json"}
    refused(fcm(host, "pull", f"{BASIC}/app:1", check=False), 5, "wants credentials")
    login(host, BASIC, env=file)
    assert json.loads(host.run("cat", f"{HOME}/secret").stdout) == {"ServerURL": BASIC, "Username": "ann", "Secret": PASSWORD}
    assert PASSWORD not in host.run("cat", f"{HOME}/.docker/config.json").stdout
    fcm(host, "pull", f"{BASIC}/app:1")
    fcm(host, "logout", BASIC)
    refused(fcm(host, "pull", f"{BASIC}/big:1", check=False), 5, "wants credentials")
    heard = host.run("cat", f"{HOME}/helper").stdout.splitlines()
    assert [line.split()[0] for line in heard] == ["get", "store", "get", "erase", "get"]
    assert {line for line in heard if "get" in line} == {f"get {BASIC}"}


@pytest.mark.parametrize("where", ["file", "helper"])
def test_identity_token(host, registries, where):
    """What docker login keeps of registries that give one: it is shown to their token server, and to nobody else."""
    def keep(token):
        if where == "file":
            write(host, AUTH, {"auths": {BEARER: {"identitytoken": token}, BASIC: {"identitytoken": token}}})
        else:
            write(host, f"{HOME}/.docker/config.json", {"credsStore": "test"})
            write(host, "/usr/local/bin/docker-credential-test", HELPER, 0o755)
            write(host, f"{HOME}/secret", json.dumps({"Username": "<token>", "Secret": token}))
    keep(IDENTITY)
    fcm(host, "pull", f"{BEARER}/app:1")
    assert registries["tokens"].asked[-1]["scope"] == ["repository:app:pull"]
    refused(fcm(host, "pull", f"{BASIC}/team/app:1", check=False), 5, "doesn't take these")
    keep("another")
    refused(fcm(host, "pull", f"{BEARER}/big:1", check=False), 5, "doesn't take these")


@pytest.mark.parametrize("text, words", [
    ("{", "bad JSON"), ("[]", None), ('{"credsStore":"nope"}', "docker-credential-nope"), ('{"credsStore":"../x"}', "can't be one"),
    (json.dumps({"auths": {PLAIN: {"auth": "!"}}}), "base64")])
def test_what_cant_be_used_keeps_nothing_from_coming(host, registries, text, words):
    write(host, AUTH, text)
    done = fcm(host, "pull", f"{PLAIN}/app:1")
    assert done.stdout == registries[PLAIN].ids["app:1"] + "\n"
    assert words is None or f"fcm: pull {PLAIN}/app:1 without credentials: {AUTH}: " in done.stderr and words in done.stderr, done.stderr


# ---- TLS ----

def test_tls(host, registries):
    refused(login(host, TLS, check=False), 6, f"{TLS} can't be asked: SSL")
    host.run("sh", "-c", f"cat {registries['cert']} >>/etc/ssl/certs/ca-certificates.crt")
    refused(login(host, TLS, "wrong", check=False), 5, "doesn't take these credentials")
    login(host, TLS)
    assert fcm(host, "pull", f"{TLS}/app:1").stdout == registries[PLAIN].ids["app:1"] + "\n"


# ---- mirrors ----

def test_mirror(host, registries):
    """Down: the registry is asked. Up: all comes from there. With wrong bytes: what is wrong comes from the registry."""
    plain, mirror = registries[PLAIN], registries[MIRROR]
    done = fcm(host, "pull", f"{PLAIN}/app:1")
    assert done.stdout == plain.ids["app:1"] + "\n"
    assert f"fcm: pull {PLAIN}/app:1: mirror http://{MIRROR}: " in done.stderr and f"mirror http://{MIRROR}" in host.log_tail()

    mirror.start()
    mirror.fill("big:1", LAYERS, CONFIG)
    asked = plain.asked(), mirror.asked()
    done = fcm(host, "pull", f"{PLAIN}/big:1")
    assert done.stdout == plain.ids["big:1"] + "\n" and "mirror" not in done.stderr
    assert plain.asked() == asked[0] and mirror.asked() > asked[1]
    host.api.delete(f"/v1/image?ref={plain.ids['big:1']}").ok()

    host.api.delete(f"/v1/image?ref={plain.ids['app:1']}").ok()
    manifest = host.run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{MIRROR}/big:1").stdout
    blob = json.loads(manifest)["layers"][3]["digest"].removeprefix("sha256:")
    data = mirror.blob(blob).read_bytes()
    mirror.blob(blob).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    done = fcm(host, "pull", f"{PLAIN}/big:1")
    assert done.stdout == plain.ids["big:1"] + "\n" and f"mirror http://{MIRROR}: layer {blob[:12]}" in done.stderr, done.stderr
    kept = {p.name.removesuffix(".tar"): hashlib.sha256(p.read_bytes()).hexdigest() for p in (host.state_dir / "layers").iterdir()}
    assert len(kept) == 4 and all(name == digest for name, digest in kept.items())
    mirror.stop()


# ---- how it is told ----

def ndjson(text):
    return [json.loads(line) for line in text.splitlines()]


def test_progress(host, registries):
    answer = host.api.post("/v1/images/pull", {"image": f"{PLAIN}/big:1"}, headers={"Accept": "application/x-ndjson"})
    assert answer.status == 200 and answer.headers["Content-Type"] == "application/x-ndjson"
    lines = ndjson(answer.body.decode())
    assert lines[-1]["result"]["digest"] == registries[PLAIN].ids["big:1"]
    assert [line["step"] for line in lines if line.get("status") == "begin"] == ["making", "pull", "merge", "keep"]
    layers = [line for line in lines if line.get("event") == "layer"]
    ids = [line["id"] for line in layers if line["status"] == "waiting"]
    assert len(set(ids)) == 4
    for name in ids:
        mine = [line for line in layers if line["id"] == name]
        assert [line["status"] for line in mine][-1] == "extracted" and mine[-1]["current"] == mine[-1]["total"] > 40000
    failed = host.api.post("/v1/images/pull", {"image": f"{PLAIN}/nope"}, headers={"Accept": "application/x-ndjson"})
    assert failed.status == 200 and ndjson(failed.body.decode())[-1]["error"]["code"] == "no_image"


def test_lines_where_no_terminal_is(host, registries):
    done = fcm(host, "pull", f"{PLAIN}/app:1")
    lines = [line for line in done.stderr.splitlines() if not line.startswith("fcm: ")]
    assert len(lines) == 2 and all(line[12:] == ": extracted, 51 kB" for line in lines), lines
    done = fcm(host, "pull", f"{PLAIN}/team/app:1")
    assert sorted(line[12:] for line in done.stderr.splitlines() if not line.startswith("fcm: ")) == [": exists, 41 kB", ": extracted, 51 kB"]
    assert fcm(host, "pull", "-q", f"{PLAIN}/big:1").stderr == ""


# ---- who goes away ----

@contextlib.contextmanager
def hanging(host):
    """A registry that takes connections and says nothing."""
    listener = host.ns.inside(lambda: socket.create_server(("127.0.0.1", 5005)))
    with listener:
        yield listener


def begin(host, image, word, headers=""):
    """A pull whose progress we read until `word` is there."""
    sock = host.api.connect(False, 10)
    body = json.dumps({"image": image}).encode()
    sock.sendall(b"POST /v1/images/pull HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: application/x-ndjson\r\n"
                 + f"{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    text = b""
    while word not in text:
        piece = sock.recv(65536)
        assert piece, text
        text += piece
    return sock


def jobs(host):
    done = host.run("ps", "-o", "args=", "--ppid", host.daemon.pid, check=False)
    return [line for line in done.stdout.splitlines() if "fcm-oci" in line]


IDLE = 15  # s: longer than a worker of the server stays that has nothing to do (daemon/http/worker.c)


def threads(host):
    return len(os.listdir(f"/proc/{host.daemon.pid}/task"))


def test_client_that_goes_away(host, registries):
    """It ends its pull, whether that is under way or waits for another one."""
    before = threads(host)
    with hanging(host):
        first = begin(host, f"{HANGING}/x", b'"pull"')
        wait_for("the job", lambda: len(jobs(host)) == 1, 5)
        alone = threads(host)
        second = begin(host, f"{PLAIN}/app:1", b'"wait"')
        assert threads(host) > alone
        second.close()
        wait_for("nobody waits", lambda: threads(host) <= alone, IDLE)
        assert len(jobs(host)) == 1
        third = begin(host, f"{PLAIN}/app:1", b'"wait"')
        first.close()
        text = b""
        while piece := third.recv(65536):
            text += piece
        assert b'"result"' in text
    wait_for("all threads are gone", lambda: threads(host) <= before, IDLE)
    assert jobs(host) == [] and [n for n in os.listdir(host.state_dir / "images") if n.startswith(".")] == []


def test_a_key_that_is_for_nothing(host, registries):
    """No answer of this route is kept for a repeat, so an Idempotency-Key lets nothing go on for it."""
    with hanging(host):
        sock = begin(host, f"{HANGING}/x", b'"pull"', "Idempotency-Key: k\r\n")
        wait_for("the job", lambda: len(jobs(host)) == 1, 5)
        sock.close()
        wait_for("the job has ended", lambda: jobs(host) == [], 10)


def test_two_of_one_image(host, registries):
    """The second finds all layers here."""
    with hanging(host):
        first = begin(host, f"{HANGING}/x", b'"pull"')
        both = [begin(host, f"{PLAIN}/big:1", b'"wait"') for _ in range(2)]
        first.close()
    told = []
    for sock in both:
        text = b""
        while piece := sock.recv(65536):
            text += piece
        assert b'"result"' in text
        told.append((text.count(b'"extracted"'), text.count(b'"exists"')))
    assert sorted(told) == [(0, 4), (4, 0)]


def test_daemon_that_stops_ends_it(host, registries):
    with hanging(host):
        sock = begin(host, f"{HANGING}/x", b'"pull"')
        begun = time.monotonic()
        host.restart_daemon()
        assert time.monotonic() - begun < 10
        sock.close()
    assert [n for n in os.listdir(host.state_dir / "images") if n.startswith(".")] == []


# ---- bodies ----

@pytest.mark.parametrize("path, body, field", [
    ("images/pull", {"image": f"{PLAIN}/app:1", "platform": "linux/arm64"}, "platform"), ("images/pull", {"image": "A"}, "image"), ("images/pull", {}, "image"),
    ("images/pull", {"image": "x", "user": "u" * 256}, "user"), ("images/pull", {"image": "x", "password": "u" * 4096}, "password"),
    ("registries/check", {}, "registry"), ("registries/check", {"registry": "a/b"}, "registry"), ("registries/check", {"registry": "localhost"}, "registry"),
    ("registries/check", {"registry": "a.b", "image": "x"}, "image"), ("registries/check", {"registry": "169.254.169.254:x"}, "registry")])
def test_bad_bodies(host, path, body, field):
    answer = host.api.post(f"/v1/{path}", body)
    assert answer.status == 400 and answer.error["field"] == field, answer


def test_check(host, registries):
    assert host.api.post("/v1/registries/check", {"registry": BASIC, "user": "ann", "password": PASSWORD}).ok() == {"registry": BASIC}
    assert host.api.post("/v1/registries/check", {"registry": BASIC}).code == "forbidden"
    assert host.api.post("/v1/registries/check", {"registry": "169.254.169.254"}).code == "forbidden"
    assert host.api.post("/v1/images/pull", {"image": f"{PLAIN}/nosuch:1"}).code == "no_image"
    refused(fcm(host, "pull", "--platform", "linux/arm64", f"{PLAIN}/app:1", check=False), 2, "platform: VMs are linux/amd64")
    fcm(host, "pull", "--platform", "linux/amd64", f"{PLAIN}/app:1")
