"""Hostile values for every field of every route. The daemon says no, names the field, and lives."""
import itertools
import json
import re

import pytest
from host import ROUTES

HOST = {"fake": True}

NAMES = ["", "-", "-web", "web-", "Web", "we b", "web\n", "web\0", "../x", "..", ".", "/etc/shadow", "a/b", "a.b", "ü",
         "10-0-0-1", "a" * 64, "$(id)", "`id`", "{", "}", "web;x", "'web'", '"', "\u202eweb", "x" * (1 << 20), "*", "%2f"]
NUMBERS = [0, -1, -2147483648, 2**31, 2**32, 2**63, 2**64, 10**30, 1e99, 1.5, "1", "", True, [], {}]
PATHS = ["/etc/shadow", "/proc/self/environ", "../../x", "/dev/sda", "..", "a/../../b", "a\0b", "a" * 5000]
KEYS = ["", "not a key", "ssh-ed25519", "ssh-ed25519 AAAA\nssh-rsa AAAA", 'command="id" ssh-ed25519 AAAA', "x" * 100000]


def refused(answer, statuses=(400,)):
    assert answer.status in statuses, answer
    assert answer.code and answer.error["message"]
    return answer


@pytest.fixture(autouse=True)
def lives(host):
    pid = host.daemon.pid
    yield
    assert host.daemon.poll() is None and host.daemon.pid == pid, host.log_tail()
    made = host.api.get("/v1/vms").ok()["vms"]
    host.destroy_all()
    assert made == []


@pytest.mark.parametrize("name", NAMES, ids=lambda n: ascii(n)[:20])
def test_names(api, name):
    answer = refused(api.post("/v1/vms", {"name": name}), (400, 413)) if name else None
    if answer is not None and answer.status == 400 and len(name) < 100:
        assert answer.error["field"] == "name"


@pytest.mark.parametrize("field, value", itertools.product(("cpus", "memory", "disk", "expose"), NUMBERS), ids=repr)
def test_numbers(api, field, value):
    if field == "expose" and value == 0:
        pytest.skip("0 is how one says: not exposed")
    answer = refused(api.post("/v1/vms", {"name": "victim", field: value}))
    assert answer.error["field"] == field or answer.code == "bad_json"


@pytest.mark.parametrize("field, value", itertools.product(("image", "kernel"), PATHS), ids=lambda v: ascii(v)[:20])
def test_assets(api, field, value):
    refused(api.post("/v1/vms", {"name": "victim", field: value}))


def test_absent_assets(api):
    assert refused(api.post("/v1/vms", {"image": "nosuch"}), (404,)).code == "no_image"
    assert refused(api.post("/v1/vms", {"kernel": "nosuch", "image": "tiny"}), (404,)).code == "no_kernel"


@pytest.mark.parametrize("method, pattern", ROUTES, ids=lambda v: v)
def test_no_route_has_that_in_its_query(api, method, pattern):
    answer = refused(api.call(method, re.sub(r"\{\w+\}", "web", pattern) + "?nosuch=1"))
    assert (answer.code, answer.error["field"]) == ("bad_request", "nosuch"), answer


@pytest.mark.parametrize("value", ["banana", "", "TRUE", "2"])
def test_a_flag_is_one(api, value):
    """It would be a pity if ?dry_run=True destroyed something."""
    answer = refused(api.delete(f"/v1/vms/web?dry_run={value}"))
    assert (answer.code, answer.error["field"]) == ("bad_request", "dry_run") and "dry_run=1" in answer.error["hint"], answer


@pytest.mark.parametrize("key", KEYS, ids=lambda k: ascii(k)[:20])
def test_ssh_keys(api, key):
    refused(api.post("/v1/vms", {"name": "victim", "ssh_keys": [key]}), (400, 413))


@pytest.mark.parametrize("env", [{"": "x"}, {"A=B": "x"}, {"A\n": "x"}, {"A": "x\0y"}, {"A": 1}, ["A=b"], "A=b",
                                 {f"K{i}": "v" for i in range(200)}], ids=lambda e: ascii(e)[:20])
def test_env(api, env):
    refused(api.post("/v1/vms", {"name": "victim", "env": env}))


@pytest.mark.parametrize("body", [
    b"{", b"[]", b"null", b"1", b'"x"', b'{"name": "a", "name": "b"}', b"{\"name\": \"a\"}x", b"\xff\xfe",
    b'{"name": "\\u0000"}', b'{"name": "\\ud800"}', b"[" * 60_000, b'{"a":' * 10_000, b'{"cpus": 1e999}', b'{"cpus": NaN}',
    b'{"cpus": ' + b"9" * 10_000 + b"}", b'{"nmae": "x"}'], ids=lambda b: ascii(b)[:30])
def test_json(api, body):
    refused(api.post("/v1/vms", body, headers={"Content-Type": "application/json"}))


def test_unknown_field_is_named(api):
    answer = refused(api.post("/v1/vms", {"brigde": 1}))
    assert answer.code == "unknown_field" and "brigde" in answer.error["message"] + answer.error["field"]


def test_media_type(api):
    refused(api.post("/v1/vms", b"{}", headers={"Content-Type": "text/plain"}), (415,))


def test_too_large(api):
    refused(api.post("/v1/vms", b"x" * 200_000, headers={"Content-Type": "application/json"}), (413,))


@pytest.mark.parametrize("vm", ["nosuch", "%2e%2e", "..%2f..%2fetc%2fshadow", "a%00b", "%2f", "a" * 5000, "-", "*", "%ff",
                                "abc"], ids=lambda v: v[:20])
@pytest.mark.parametrize("method, pattern", [r for r in ROUTES if "{vm}" in r[1]], ids=str)
def test_vm_in_the_path(api, method, pattern, vm):
    refused(api.call(method, pattern.replace("{vm}", vm)), (400, 404, 414, 431))


@pytest.mark.parametrize("name", ["..", "%2e%2e", "a%2fb", "A", "-a", "a" * 64, "a%00"], ids=ascii)
def test_kernel_in_the_path(api, name):
    refused(api.put(f"/v1/kernels/{name}", b"x", headers={"Content-Type": "application/x-tar"}), (400, 404))


@pytest.mark.parametrize("snapshot", ["nosuch", "%2e%2e", "..%2f..%2fetc%2fshadow", "a%00b", "%2f", "a" * 5000, "-", ".", "*", "%ff"],
                         ids=lambda v: v[:20])
@pytest.mark.parametrize("method, pattern", [r for r in ROUTES if "{snapshot}" in r[1]], ids=str)
def test_snapshot_in_the_path(api, method, pattern, snapshot):
    refused(api.call(method, pattern.replace("{snapshot}", snapshot)), (400, 404, 414, 431))


@pytest.mark.parametrize("name", ["../x", "..", ".", "A", "-a", "a b", "a/b", "x\n", "ü", "a" * 64, 1, True, [], {}], ids=ascii)
def test_save_snapshot(api, name):
    refused(api.post("/v1/vms", {"name": "victim", "save_snapshot": name}))


@pytest.mark.parametrize("field, values", [
    ("name", [None, "", "A", "../x", "a b", "a\n", "x@sha256:" + "0" * 64, "a" * 600, 1, [], {}]),
    ("from", ["", "A", "../x", "nosuch", "a" * 600, 1, []]), ("script", [None, "x" * (1 << 20) + "x", "a\0b", 1, [], {}]),
    ("env", [{"": "x"}, {"A=B": "x"}, {"A": 1}, "A=b"]), ("cpus", [0, 99, "2"]), ("memory", [0, -1, 2**40, "x"]), ("disk", [0, 2**40]), ("restart", ["no"])], ids=str)
def test_build(api, field, values):
    for value in values:
        body = {"name": "victim", "script": "true"} | {field: value}
        answer = refused(api.post("/v1/images/build", {k: v for k, v in body.items() if v is not None}), (400, 404, 413))
        assert field in answer.error["message"] + answer.error.get("field", "") or answer.code == "no_image", (value, answer.error)
    assert api.get("/v1/vms").ok()["vms"] == []


class TestOneVm:
    """Hostile values for what is asked of a VM that exists."""

    @pytest.fixture(autouse=True, scope="class")
    @staticmethod
    def vm(host):
        host.create("web")
        yield
        host.api.delete("/v1/vms/web?force=1").ok()

    @pytest.fixture(autouse=True)
    def lives(self, host):
        yield
        assert host.daemon.poll() is None, host.log_tail()
        assert host.vm("web")["state"] == "running"

    @pytest.mark.parametrize("port", [0, -1, 65536, 2**32, "80", 1.5, [], None], ids=repr)
    def test_expose_port(self, api, port):
        refused(api.put("/v1/vms/web/expose", {"port": port}))

    @pytest.mark.parametrize("domain", ["x", "a..b", "-a.org", "a.org {", "a.org\nimport /etc/shadow", "*.org", "a" * 300 + ".org",
                                        "http://a.org", "a.org/path", "ü.org", "10.0.0.1:80"], ids=lambda d: ascii(d)[:20])
    def test_expose_domain(self, api, domain):
        refused(api.put("/v1/vms/web/expose", {"port": 80, "domain": domain}))

    @pytest.mark.parametrize("time", [-1, 2**31, 2**64, "1", 1e99, {}], ids=repr)
    @pytest.mark.parametrize("verb", ["stop", "restart"])
    def test_stop_time(self, api, verb, time):
        refused(api.post(f"/v1/vms/web/{verb}", {"time": time}))

    @pytest.mark.parametrize("query", ["port=0", "port=-1", "port=65536", "port=x", "port=", "", "port=22&port=23x"])
    def test_tunnel_port(self, api, query):
        answer = api.get(f"/v1/vms/web/tunnel?{query}", headers={"Connection": "Upgrade", "Upgrade": "fcm-tunnel"})
        assert answer.status in (400, 502, 504, 500) and answer.code

    @pytest.mark.parametrize("field, values", [
        ("cmd", [[], [""], "true", None, [1], ["a\0b"], ["x"] * 2000, ["x" * 40_000]]),
        ("env", [["A=b"], {"": "x"}, {"A=B": "x"}, {"1A": "x"}, {"A": 1}, {"A": "x" * 40_000}, {f"K{i}": "v" for i in range(200)}]),
        ("workdir", ["", "srv", "../x", 1, "/" + "a" * 5000]), ("user", ["", "a\nb", "x" * 65, 1, "\x1b"]),
        ("timeout", [-1, 2**31, "1", 1.5]), ("rows", [-1, 1001, "24"]), ("cols", [-1, 1001, []]), ("input", [1, "x" * ((1 << 20) + 1)]),
        ("tty", [1, "yes", True]), ("stdin", ["", True]), ("detach", ["x", 0]), ("argv", [[]])], ids=lambda v: v if isinstance(v, str) else "")
    def test_exec(self, api, field, values):
        for value in values:
            answer = refused(api.post("/v1/vms/web/exec", {"cmd": ["echo"], field: value}), (400, 413))
            assert field in answer.error["message"] or answer.status == 413 or answer.code == "bad_json", (value, answer)

    @pytest.mark.parametrize("body", [{"input": "x"}, {"detach": True}], ids=repr)
    def test_exec_without_a_meaning_on_a_stream(self, api, body):
        headers = {"Connection": "Upgrade", "Upgrade": "fcm-stream"}
        answer = refused(api.post("/v1/vms/web/exec", {"cmd": ["echo"], **body}, headers=headers))
        assert answer.error["field"] in body

    def test_exec_detached(self, api):
        for more in ({"input": "x"}, {"timeout": 1}):
            assert refused(api.post("/v1/vms/web/exec", {"cmd": ["echo"], "detach": True, **more})).error["field"] in more

    @pytest.mark.parametrize("query", ["state=nosuch", "state=", "timeout=-1", "timeout=x", "timeout=99999999999999999999"])
    def test_wait(self, api, query):
        refused(api.get(f"/v1/vms/web/wait?{query}"))

    @pytest.mark.parametrize("tail", ["-1", "x", "99999999999999999999"])
    def test_tail(self, api, tail):
        refused(api.get(f"/v1/vms/web/logs?tail={tail}"))

    @pytest.mark.parametrize("key", KEYS, ids=lambda k: ascii(k)[:20])
    def test_more_keys(self, api, key):
        refused(api.put("/v1/vms/web/ssh-keys", {"keys": [key]}), (400, 413))

    @pytest.mark.parametrize("field, values", [
        ("name", ["../x", "..", ".", ".x", "A", "-a", "a b", "a/b", "x\n", "x\0", "ü", "a" * 64, 1, True, [], {}]),
        ("note", ["a\nb", "a\tb", "\x1b[31m", "\u202ex", "x" * 256, 1, [], {}]), ("disk_only", [1, "yes", [], {}]), ("stop", [0, "no", []]),
        ("live", [True]), ("nmae", ["x"])])
    def test_snapshot(self, api, field, values):
        for value in values:
            answer = refused(api.post("/v1/vms/web/snapshots", {field: value}))
            assert answer.error.get("field") == field or answer.code == "bad_json", (value, answer)
        assert api.get("/v1/snapshots").ok()["snapshots"] == []

    @pytest.mark.parametrize("field, values", [
        ("name", [n for n in NAMES if n and len(n) < 100] + [1, [], {}]), ("count", [n for n in NUMBERS if n != ""] + [65]),
        ("publish", ["80", ["0:0"], ["65536:80"], ["80/icmp"], ["x"], [1], ["80"] * 65, {}]), ("expose", [n for n in NUMBERS if n != 0]),
        ("disk_only", [1, "yes", []]), ("auto_remove", [1, "yes"]), ("ready", ["ssh", 1, [], {"mode": "nosuch"}, {"mode": "tcp"}, {"mode": "http", "url": "https://x"}]),
        ("cpus", [2]), ("memory", [512]), ("image", ["tiny"]), ("env", [{}]), ("snapshot", ["x"])], ids=lambda v: v if isinstance(v, str) else "")
    def test_clone(self, api, field, values):
        """By either route; nothing is made, not even the snapshot of the moment."""
        for value in values:
            answer = refused(api.post("/v1/vms/web/clone", {field: value}))
            assert (answer.error.get("field") or "").startswith(field) or answer.code == "bad_json", (value, answer)

    @pytest.mark.parametrize("body", [{}, {"snapshot": ""}, {"snapshot": None}, {"snapshot": 1}, {"snapshot": "../x"}, {"snapshot": "a" * 64},
                                      {"snapshot": "x\0"}, {"snapshot": "x", "disk_only": 1}, {"snapshot": "x", "stop": True}], ids=ascii)
    def test_restore(self, api, body):
        refused(api.post("/v1/vms/web/restore", body))

    def test_destroy_takes_no_prefix(self, host, api):
        vm = host.vm("web")
        refused(api.delete(f"/v1/vms/{vm['id'][:5]}"), (404,))


@pytest.mark.parametrize("name", ["", "x" * 100, "a\nb", 1, None], ids=lambda n: ascii(n)[:20])
def test_token_name(api, name):
    refused(api.post("/v1/tokens", {"name": name}))


@pytest.mark.parametrize("head", [
    b"GET /v1/vms HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"GET /v1/vms HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"GET /v1/vms HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
    b"GET /v1/vms HTTP/1.1\r\nHost: evil.example.org\r\n\r\n",
    b"GET /v1/vms HTTP/1.1\r\n\r\n",
    b"GET /v1/vms HTTP/1.1\nHost: localhost\n\n",
    b"GET /v1/vms HTTP/1.1\r\nHost : localhost\r\n\r\n",
    b"GET /v1/vms HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
    b"GET /v1/vms HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n",
    b"GET /v1/vms%00x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /v1%2fvms HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /v1/vms HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil\r\n\r\n",
    b"GET /v1/vms HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /v1/vms HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00", b"\0" * 1000, b"GET\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
    ids=lambda h: ascii(h[:60])[2:-1])
def test_raw_requests(api, head):
    """Sent with a good token where a request can carry one: it is still refused, or the connection is closed."""
    data = head.replace(b"\r\n\r\n", f"\r\nAuthorization: Bearer {api.token}\r\n\r\n".encode(), 1)
    answer = api.raw(data)
    assert not answer.startswith(b"HTTP/1.1 2"), answer[:300]


def test_errors_are_whole_objects(api):
    """Every error has a code, a message and the request's id, and is JSON."""
    answer = api.post("/v1/vms", {"name": "-"})
    assert answer.headers["Content-Type"].startswith("application/json")
    assert set(answer.error) >= {"code", "message", "request_id"}
    assert answer.error["request_id"] == answer.headers["X-Request-Id"]
    assert json.loads(answer.body)
