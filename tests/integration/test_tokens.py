"""Tokens that may only read, that end, that are revoked, that are for some VMs: what each may do on each route, and that nothing of
others' VMs shows. With the scripted VMM."""
import contextlib
import json
import re
import socket
import threading
import time

import pytest
from host import ROUTE_TABLE, wait_for
from test_events import parse

HOST = {"fake": True}
RED, BLUE = {"team": "red"}, {"team": "blue"}

# What a route needs besides a token, so that it is the token that is judged.
BODIES = {
    "/v1/vms": {"image": "tiny", "dry_run": True},
    "/v1/vms/{vm}/exec": {"cmd": ["true"]},
    "/v1/vms/{vm}/expose": {"port": 80},
    "/v1/vms/{vm}/publish": {"publish": ["9:9"]},
    "/v1/vms/{vm}/unpublish": {"publish": ["9"]},
    "/v1/vms/{vm}/ssh-keys": {"keys": []},
    "/v1/vms/{vm}/restore": {"snapshot": "shot"},
}
QUERIES = {f"/v1/image{end}": "?ref=tiny" for end in ("", "/history", "/export")}


def make(api, name, **rq):
    return api.post("/v1/tokens", {"name": name, **rq}).ok(201)


def unthrottled(call):
    """The answer that comes when the wrong tokens of the tests before are forgotten."""
    return wait_for("not throttled", lambda: (answer := call()).status != 429 and answer, 10, 0.2)


def ask(api, method, pattern, token, name="web"):
    """The row, asked of the VM or snapshot with that name."""
    path = pattern + QUERIES.get(pattern, "")
    path = path.replace("{snapshot}", "shot" if name == "web" else name).replace("{token}", "aaaaaaaa")
    path = re.sub(r"\{\w+\}", name, path)
    body = BODIES.get(pattern) if method in ("POST", "PUT") else None
    return unthrottled(lambda: api.call(method, path, body, token=token, tcp=True))


@pytest.fixture(scope="module", name="red_vm")
def fixture_red_vm(host):
    """`web` and its snapshot `shot`, of which blue and nobody else knows nothing."""
    vm = host.create("web", labels=RED, env={"SECRET": "swordfish"}, publish=["7700:80"])
    host.api.post("/v1/vms/web/snapshots", {"name": "shot"}).ok(201)
    yield vm
    host.api.delete("/v1/snapshots/shot").ok()
    host.api.delete("/v1/vms/web?force=1").ok()


@pytest.fixture(scope="module", name="tokens")
def fixture_tokens(host, red_vm):
    """One of each kind."""
    api, made = host.api, {"none": None}
    made["ended"] = make(api, "ended", expires_in=1)["token"]
    revoked = make(api, "revoked")
    api.delete(f"/v1/tokens/{revoked['id']}").ok()
    made["revoked"] = revoked["token"]
    made["read"] = make(api, "read", scope="read")["token"]
    made["blue"] = make(api, "blue", vms="team=blue")["token"]
    made["red"] = make(api, "red", vms="team=red")["token"]
    made["red-read"] = make(api, "red-read", vms="team=red", scope="read")["token"]
    assert red_vm
    time.sleep(1.1)
    return made


@pytest.mark.parametrize("kind", ["none", "ended", "revoked"])
@pytest.mark.parametrize("method, pattern, need, subject", ROUTE_TABLE, ids=lambda v: v)
def test_no_good_token(api, tokens, method, pattern, need, subject, kind):
    answer = ask(api, method, pattern, tokens[kind])
    assert subject
    if need == "NONE":
        assert answer.status == 200
        return
    assert (answer.status, answer.code) == (401, "unauthorized"), answer
    assert "web" not in answer.error["message"] and answer.headers["WWW-Authenticate"]


@pytest.mark.parametrize("kind", ["read", "red-read"])
@pytest.mark.parametrize("method, pattern, need, subject", ROUTE_TABLE, ids=lambda v: v)
def test_read_only(host, api, tokens, method, pattern, need, subject, kind):
    before = host.vm("web")
    answer = ask(api, method, pattern, tokens[kind])
    refused = need == "FULL" or (subject == "HOST" and kind == "red-read")
    assert (answer.status == 403) == refused, answer
    assert answer.status != 401 and b"swordfish" not in answer.body
    if refused:
        assert answer.code == "forbidden" and answer.error["hint"]
    assert host.vm("web")["state"] == before["state"] and host.vm("web")["boots"] == before["boots"]


@pytest.mark.parametrize("method, pattern, need, subject", ROUTE_TABLE, ids=lambda v: v)
def test_anothers(host, api, tokens, red_vm, method, pattern, need, subject):
    """To blue there is no `web`: each answer is the one that it would get of a name that nobody has."""
    answer = ask(api, method, pattern, tokens["blue"])
    assert need and red_vm["id"].encode() not in answer.body
    if subject == "HOST":
        assert (answer.status, answer.code) == (403, "forbidden"), answer
    elif subject in ("VM", "SNAPSHOT"):
        assert answer.status == 404, answer
        nobody = ask(api, method, pattern, tokens["blue"], "qqqqq").error
        mine = {k: re.sub("'(web|shot)'", "'qqqqq'", v) for k, v in answer.error.items()}
        del mine["request_id"], nobody["request_id"]
        assert mine == nobody
    else:
        assert answer.status not in (401, 403), answer
        assert subject == "NONE" or b"web" not in answer.body
    assert host.vm("web")["state"] == "running"


def test_ids_are_hidden_too(api, tokens, red_vm):
    for text in (red_vm["id"], red_vm["id"][:4]):
        assert api.get(f"/v1/vms/{text}", token=tokens["red"], tcp=True).ok()["name"] == "web"
        assert api.get(f"/v1/vms/{text}", token=tokens["blue"], tcp=True).code == "not_found"
    shot = api.get("/v1/snapshots/shot", token=tokens["red"], tcp=True).ok()
    assert api.get(f"/v1/snapshots/{shot['id']}", token=tokens["blue"], tcp=True).code == "not_found"


def test_env_is_for_full_ones(api, tokens):
    path = "/v1/vms/web?show=env"
    assert api.get(path, token=tokens["red"], tcp=True).ok()["env"] == {"SECRET": "swordfish"}
    answer = api.get(path, token=tokens["read"], tcp=True)
    assert (answer.status, answer.error["field"]) == (403, "show") and b"swordfish" not in answer.body


def test_lists_are_filtered(api, tokens):
    def seen(token):
        def get(path):
            return api.get(path, token=tokens[token], tcp=True)
        return (get("/v1").ok()["vms"]["total"], len(get("/v1/vms").ok()["vms"]), len(get("/v1/vms?state=running").ok()["vms"]),
                len(get("/v1/stats").ok()["vms"]), len(get("/v1/snapshots").ok()["snapshots"]),
                get("/v1/image?ref=tiny").ok()["vms"], get("/v1/image?ref=tiny").ok()["snapshots"],
                sum(i["used_by"] for i in get("/v1/images").ok()["images"]), get("/metrics").body.count(b"fcm_vm_threads{"), len(parse(get("/v1/events?vm=web").body.decode())) > 0)
    assert seen("red") == seen("read") == (1, 1, 1, 1, 1, ["web"], ["shot"], 3, 1, True)  # tiny, base, which is the same, and the kernel
    assert seen("blue") == (0, 0, 0, 0, 0, [], [], 0, 0, False)


@pytest.fixture(name="blue")
def fixture_blue(host, tokens):
    """Calls with the token that is bound to blue."""
    yield lambda method, path, body=None, **kwargs: host.api.call(method, path, body, token=tokens["blue"], tcp=True, **kwargs)
    for vm in host.api.get("/v1/vms?label=team=blue").ok()["vms"]:
        host.api.delete(f"/v1/vms/{vm['id']}?force=1").ok()


def test_a_bound_token_makes_vms_of_its_own(host, blue):
    vm = blue("POST", "/v1/vms", {"name": "mine", "image": "tiny", "labels": {"role": "db"}}).ok(201)
    assert vm["labels"] == {"role": "db", "team": "blue"}
    assert [v["name"] for v in blue("GET", "/v1/vms").ok()["vms"]] == ["mine"] and len(host.api.get("/v1/vms").ok()["vms"]) == 2
    answer = blue("POST", "/v1/vms", {"name": "other", "image": "tiny", "labels": RED})
    assert (answer.code, answer.error["field"]) == ("forbidden", "labels")
    answer = blue("POST", "/v1/vms", {"name": "other", "image": "tiny", "volumes": ["data:/data"]})
    assert (answer.code, answer.error["field"]) == ("forbidden", "volumes")
    assert [v["name"] for v in host.api.get("/v1/vms").ok()["vms"]] == ["web", "mine"]
    # the label stays, and others are as they like
    for change in ({"labels": RED}, {"remove_labels": ["team"]}):
        answer = blue("PATCH", "/v1/vms/mine", change)
        assert (answer.code, answer.error["field"]) == ("forbidden", "labels")
    assert blue("PATCH", "/v1/vms/mine", {"labels": {"role": "web", **BLUE}, "name": "own"}).ok()["labels"] == {"role": "web", **BLUE}
    # what is made of it is theirs as well
    blue("POST", "/v1/vms/own/snapshots", {"name": "blues"}).ok(201)
    assert blue("POST", "/v1/snapshots/blues/clone", {"name": "twin"}).ok(201)["vms"][0]["labels"] == {"role": "web", **BLUE}
    assert blue("POST", "/v1/vms/own/restore", {"snapshot": "shot"}).code == "not_found"
    blue("DELETE", "/v1/snapshots/blues").ok()


def test_conflicts_name_nobody(api, blue, red_vm):
    """That a name or a port is taken has to be said, but by whom only to those who see that VM."""
    blue("POST", "/v1/vms", {"name": "mine", "image": "tiny"}).ok(201)
    answers = [blue("POST", "/v1/vms", {"name": "web", "image": "tiny"}), blue("PATCH", "/v1/vms/mine", {"name": "web"}),
               blue("POST", "/v1/vms/mine/publish", {"publish": ["7700:80"]})]
    assert [a.code for a in answers] == ["name_taken", "name_taken", "port_taken"]
    assert all(red_vm["id"] not in str(a.error) for a in answers) and "web" not in str(answers[2].error)
    answers = [api.post("/v1/vms", {"name": "web", "image": "tiny"}), api.post("/v1/vms/mine/publish", {"publish": ["7700:80"]})]
    assert red_vm["id"] in answers[0].error["message"] and "VM 'web'" in answers[1].error["message"]


def test_events_of_those_that_are_gone(host, api, tokens, blue):
    """Each sees the events of VMs that were its own, also when they are gone and the daemon is another."""
    last = max((number for number, _, _ in parse(api.get("/v1/events").body.decode())), default=0)
    blue("POST", "/v1/vms", {"name": "brief", "image": "tiny"}).ok(201)
    blue("DELETE", "/v1/vms/brief?force=1").ok()

    def seen(token):
        return [(e["event"], e.get("labels")) for _, _, e in parse(api.get(f"/v1/events?after={last}", token=token, tcp=True).body.decode())
                if e["name"] == "brief"]
    mine = seen(tokens["blue"])
    assert [e for e, _ in mine] == ["creating", "starting", "running", "destroying", "destroyed"]
    assert all(labels == BLUE for _, labels in mine) and seen(tokens["red"]) == [] and seen(tokens["read"]) == mine
    host.restart_daemon()
    assert seen(tokens["blue"]) == mine and seen(tokens["red"]) == []


def test_keys_are_each_tokens_own(api, tokens, blue):
    """One token's Idempotency-Key gives nobody else the answer."""
    def create(token):
        return api.call("POST", "/v1/vms", {"image": "tiny", "labels": BLUE}, token=token, tcp=True, headers={"Idempotency-Key": "k1"}).ok(201)
    mine, again, theirs = create(tokens["blue"]), create(tokens["blue"]), create(api.token)
    assert mine["id"] == again["id"] != theirs["id"] and blue("GET", f"/v1/vms/{theirs['id']}").status == 200


def test_who_may_make_tokens(api, tokens):
    assert {api.post("/v1/tokens", {"name": "x"}, token=tokens[k], tcp=True).status for k in ("read", "red", "blue", "red-read")} == {403}
    full = make(api, "full", expires_in=3600)
    # one that ends makes none that lasts longer
    for rq in ({}, {"expires_in": 7200}):
        answer = api.post("/v1/tokens", {"name": "x", **rq}, token=full["token"], tcp=True)
        assert (answer.code, answer.error["field"]) == ("forbidden", "expires_in")
    made = api.post("/v1/tokens", {"name": "x", "expires_in": 60}, token=full["token"], tcp=True).ok(201)
    shown = {t["id"]: t for t in api.get("/v1/tokens").ok()["tokens"]}
    assert shown[made["id"]] == {k: v for k, v in made.items() if k != "token"} and "hash" not in str(shown)
    for token in (made, full):
        assert api.delete(f"/v1/tokens/{token['id']}").ok()["id"] == token["id"]
    assert api.delete(f"/v1/tokens/{made['id']}").code == "not_found"


def test_the_first_token_stays(host, api):
    first = next(t for t in api.get("/v1/tokens").ok()["tokens"] if t["name"] == "root")
    answer = api.delete(f"/v1/tokens/{first['id']}")
    assert (answer.status, answer.code) == (409, "wrong_state") and api.get("/v1", tcp=True).status == 200
    assert (host.state_dir / ".token").exists()


@contextlib.contextmanager
def stream(api, token):
    """A follower of events; a list of what it had when it ended."""
    ended = []

    def read():
        with contextlib.closing(api.connect(True, 30)) as sock:
            sock.sendall(f"GET /v1/events?follow=1 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
            data = b""
            with contextlib.suppress(socket.timeout, ConnectionError):
                while chunk := sock.recv(65536):
                    data += chunk
                ended.append(data)
    thread = threading.Thread(target=read)
    thread.start()
    yield ended
    thread.join()


def test_streams_end_with_their_token(api):
    revoked, short, other = make(api, "revoked"), make(api, "short", expires_in=3), make(api, "other")
    with stream(api, revoked["token"]) as one, stream(api, short["token"]) as two, stream(api, other["token"]) as three:
        time.sleep(1)
        assert (one, two, three) == ([], [], [])
        api.delete(f"/v1/tokens/{revoked['id']}").ok()
        wait_for("its stream has ended", lambda: one, 5)
        assert b" 200 " in one[0] and two == three == []
        wait_for("the short one's as well", lambda: two, 10)
        assert three == []
        api.delete(f"/v1/tokens/{other['id']}").ok()


def audited(host, since):
    return [json.loads(m) for m in re.findall(r'msg=("audit: .*")$', host.log_path.read_text()[since:], re.M)]


def test_each_change_has_a_line(host, api, tokens, blue):
    """Who, what, how it ended: of what was done, what failed and what was refused; and of reading none."""
    since = len(host.log_path.read_text())
    blue("POST", "/v1/vms", {"name": "mine", "image": "tiny"}).ok(201)
    blue("POST", "/v1/vms/mine/stop", headers={"Accept": "application/x-ndjson"})
    blue("GET", "/v1/vms/mine").ok()
    blue("POST", "/v1/vms/web/start")
    blue("POST", "/v1/park")
    ask(api, "DELETE", "/v1/vms/{vm}", tokens["read"])
    api.delete("/v1/vms/mine").ok()
    lines = [re.sub(r" [0-9a-z]{8} ", " ID ", re.sub(r", request \w+$", "", line)) for line in audited(host, since)]
    assert lines == [
        "audit: blue ID POST /v1/vms (mine): 201 done",
        "audit: blue ID POST /v1/vms/mine/stop (mine): 200 done",
        "audit: blue ID POST /v1/vms/web/start: 404 not_found",
        "audit: blue ID POST /v1/park: 403 forbidden",
        "audit: read ID DELETE /v1/vms/web: 403 forbidden",
        "audit: unix DELETE /v1/vms/mine (mine): 200 done",
    ]


@pytest.mark.parametrize("change, field", [
    ({"name": ""}, "name"), ({"name": "a\nb"}, "name"), ({"name": "a" * 64}, "name"), ({"scope": "all"}, "scope"), ({"scope": 1}, "scope"),
    ({"vms": "team"}, "vms"), ({"vms": "=red"}, "vms"), ({"vms": "Team=red"}, "vms"), ({"vms": "team=a\nb"}, "vms"), ({"vms": "t=" + "v" * 200}, "vms"),
    ({"vms": RED}, "vms"), ({"expires_in": 0}, "expires_in"), ({"expires_in": -1}, "expires_in"), ({"expires_in": "30d"}, "expires_in"),
    ({"expires_in": 1 << 40}, "expires_in"), ({"owner": "x"}, "owner")])
def test_bad_tokens(api, change, field):
    before = len(api.get("/v1/tokens").ok()["tokens"])
    answer = api.post("/v1/tokens", {"name": "x", **change})
    assert answer.status == 400 and (answer.error.get("field") or answer.error["message"]).startswith(field), answer
    assert len(api.get("/v1/tokens").ok()["tokens"]) == before
