"""What docs/openapi.yaml has of many routes at once, provoked at each of them: bad bodies, names of nothing, VMs that are busy, keys that
are used twice; and that its examples are what it says."""
import concurrent.futures
import contextlib
import os
import re
import signal

import pytest
from host import wait_for
from oci import change, docker_archive
from openapi import Contract, bodies

HOST = {"fake": True, "config": "boot_seconds = 2\n"}
CONTRACT = Contract()
BODIES = [pytest.param(*row, id=" ".join(row[:2])) for row in bodies(CONTRACT)]
ABOUT_ONE = [route for route in CONTRACT.operations if re.search(r"\{(vm|snapshot|volume)\}", route)]
JSON = {"Content-Type": "application/json"}


def example_of(route):
    """The body that the document shows, or None."""
    return CONTRACT.operations[route].get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")


def ask(api, route, name, **kwargs):
    """The documented example of a route, about `name`; without what its query needs."""
    method, pattern = route.split(" ")
    return api.call(method, re.sub(r"\{\w+\}", name, pattern), example_of(route), **kwargs)


@pytest.fixture(autouse=True)
def nobody(host):
    yield
    host.remove_all()


# ---- the document itself ----

def examples():
    for name, schema in CONTRACT.document["components"]["schemas"].items():
        if "example" in schema:
            yield pytest.param(schema, schema["example"], id=name)
    for name, example in CONTRACT.document["components"]["examples"].items():
        yield pytest.param(CONTRACT.document["components"]["schemas"]["Error"], example["value"], id=name)
    for method, pattern, schema in bodies(CONTRACT):
        yield pytest.param(schema, example_of(f"{method} {pattern}"), id=f"{method} {pattern}")


@pytest.mark.parametrize("schema, example", examples())
def test_examples_are_what_their_schema_says(schema, example):
    CONTRACT.validator(schema).validate(example)


def test_the_document_is_not_served(api):
    """A page of it would be for browsers, which are refused."""
    for path in ("/docs", "/openapi.yaml", "/v1/openapi.yaml"):
        assert api.get(path).code == "no_route"
        assert api.get(path, headers={"Sec-Fetch-Site": "none"}).code == "forbidden"


# ---- bodies ----

@pytest.mark.parametrize("method, pattern, schema", BODIES)
def test_bad_bodies(api, method, pattern, schema):
    """Refused before anybody looks whether there is such a VM."""
    path = re.sub(r"\{\w+\}", "nosuch", pattern)
    assert api.call(method, path, b"{", headers=JSON).code == "bad_json"
    answer = api.call(method, path, {"nosuch": 1})
    assert (answer.code, answer.error["field"]) == ("unknown_field", "nosuch")
    assert api.call(method, path, b"{}", headers={"Content-Type": "text/plain"}).code == "unsupported_media_type"
    field = next(iter(schema["properties"]))
    answer = api.call(method, path, {field: [[1]]})
    assert (answer.code, answer.error["field"]) == ("invalid", field)


@pytest.mark.parametrize("route", ABOUT_ONE)
def test_names_of_nothing(api, route):
    """The examples are good bodies: what is wrong is that there is no such thing."""
    answer = ask(api, route, "nosuch")
    assert (answer.status, answer.code) == (404, "not_found"), answer


# ---- busy ----

@contextlib.contextmanager
def stuck(host, name):
    """A VM whose VMM doesn't answer: what waits for it waits on."""
    pid = host.vm(name)["vmm_pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_busy(host, api):
    """Too many wait for the VM already; each route says so."""
    routes = [route for route in ABOUT_ONE if (409, "busy") in CONTRACT.documented(route) and "{vm}" in route and not route.endswith(("console", "kill"))]
    host.create("web")
    api.post("/v1/vms/web/snapshots", {"name": "warm"}).ok()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with stuck(host, "web"):
            pool.submit(api.post, "/v1/vms/web/pause")
            # whoever gives up waiting is still counted
            wait_for("many that wait", lambda: api.post("/v1/vms/web/resume", timeout=0.2).code == "busy", 10)
            wait_for("many that kill", lambda: api.post("/v1/vms/web/kill", timeout=0.2).code == "busy", 10)
            found = {route: ask(api, route, "web", timeout=5).code for route in routes}
    assert found == {route: "busy" for route in routes}


# ---- keys that are used twice ----

def test_keys(host, api):
    routes = [route for route in ABOUT_ONE + ["POST /v1/vms", "POST /v1/volumes"] if (422, "idempotency_key_reused") in CONTRACT.documented(route)]
    vm = host.create("web")
    api.post("/v1/vms/web/snapshots", {"name": "warm"}).ok()
    for number, route in enumerate(routes):
        path = route.split(" ")[1].replace("{vm}", vm["id"]).replace("{snapshot}", "warm")
        key = {"Idempotency-Key": f"key-{number}"}
        made = api.post(path, {"name": f"one-{number}", **({"image": "tiny"} if path == "/v1/vms" else {})}, headers=key).ok(201)
        again = api.post(path, {"name": f"two-{number}"}, headers=key)
        assert (again.status, again.code) == (422, "idempotency_key_reused"), (route, made)
    assert len(routes) == 4


# ---- what only some routes have ----

def test_start_of_what_is_too_large(host, api):
    host.create("web")
    api.post("/v1/vms/web/stop", {"time": 0}).ok()
    api.call("PATCH", "/v1/vms/web", {"memory": 1 << 20}).ok()
    assert api.post("/v1/vms/web/start").code == "insufficient_resources"
    api.post("/v1/vms/web/kill").ok()
    assert api.post("/v1/vms/web/restart").code == "insufficient_resources"


def begin(api, route, name):
    """Let a machine begin, by each route that does, in a VM of that name."""
    if route == "POST /v1/vms":
        return api.post("/v1/vms", {"image": "tiny", "name": name})
    api.post("/v1/vms", {"image": "tiny", "name": "web"}).ok()
    snapshot = api.post("/v1/vms/web/snapshots", {"name": "warm", "disk_only": True}).ok(201)
    body = {"vm_restore": {"snapshot": snapshot["id"], "disk_only": True}, "vm_clone": {"name": name, "disk_only": True},
            "snapshot_clone": {"name": name, "disk_only": True}}.get(CONTRACT.operations[route]["operationId"], None)
    if body is None or "name" not in body:
        api.call("PATCH", "/v1/vms/web", {"name": name}).ok()
    if route.endswith("/start"):
        api.post(f"/v1/vms/{name}/kill").ok()
    path = route.split(" ")[1].replace("{vm}", "web" if body and "name" in body else name).replace("{snapshot}", "warm")
    return api.post(path, body)


@pytest.mark.parametrize("fault, code", [("exit", "vmm"), ("agenterror", "guest"), ("deaf", "timeout")])
@pytest.mark.parametrize("route", ["POST /v1/vms", "POST /v1/vms/{vm}/start", "POST /v1/vms/{vm}/restart", "POST /v1/vms/{vm}/restore",
                                   "POST /v1/vms/{vm}/clone", "POST /v1/snapshots/{snapshot}/clone"])
def test_machines_that_do_not_begin(api, route, fault, code):
    answer = begin(api, route, f"fault-{fault}")
    assert answer.code == code, answer


def test_vmm_that_dies(host, api):
    """At each of its calls, until it lives long enough: the first that are behind its boot are those of pause, then of resume."""
    seen = set()
    for number in range(1, 40):
        name = f"fault-die{number}"
        if api.post("/v1/vms", {"image": "tiny", "name": name, "restart": "no"}).status != 201:
            continue
        paused = api.post(f"/v1/vms/{name}/pause")
        resumed = api.post(f"/v1/vms/{name}/resume") if paused.status == 200 else None
        seen |= {("pause", paused.code)} if resumed is None else {("resume", resumed.code)}
        if resumed is not None and resumed.status == 200:
            break
    assert {("pause", "vmm"), ("resume", "vmm"), ("resume", "")} <= seen


def test_what_needs_a_running_vm(host, api):
    host.create("web")
    upgrade = {"Connection": "Upgrade", "Upgrade": "fcm-stream"}
    assert api.get("/v1/vms/web/attach", headers=upgrade).code == "wrong_state"
    api.post("/v1/vms/web/stop", {"time": 0}).ok()
    assert api.get("/v1/vms/web/console", headers={"Connection": "Upgrade", "Upgrade": "fcm-console"}).code == "wrong_state"
    assert api.get("/v1/vms/web/wait?state=running&timeout=0").code == "timeout"


def test_create_with_a_domain_that_is_taken(host, api):
    host.create("web")
    domain = api.put("/v1/vms/web/expose", {"port": 80}).ok()["expose"]["domain"]
    api.put("/v1/vms/web/expose", {"port": 80, "domain": domain.replace("web.", "other.")}).ok()
    assert api.post("/v1/vms", {"name": "other", "image": "tiny", "expose": 80}).code == "domain_taken"


def test_agent_that_fails(host, api):
    """It does as it is told until it was part of a snapshot, which is told line by line."""
    host.create("fault-sagenterror", restart="no", main={"args": ["httpd"]})
    lines = api.post("/v1/vms/fault-sagenterror/snapshots", {}, headers={"Accept": "application/x-ndjson"})
    assert lines.status == 200 and b'{"result":' in lines.body.splitlines()[-1]
    assert api.post("/v1/vms/fault-sagenterror/kill", {"signal": "HUP"}).code == "guest"


def test_builds(host, api):
    """What a script makes is test_build_guest's; the scripted VMM's agent lets any fail that names its interpreter."""
    _, archive = docker_archive([change()], {}, ["layered:1"])
    made = api.post("/v1/images/import", archive, headers={"Content-Type": "application/octet-stream"}).ok(201)

    def build(**more):
        return api.post("/v1/images/build", {"name": "new", "script": "#!/bin/false", "from": "layered:1", **more}).code
    assert build() == "script_failed"
    assert build(**{"from": "tiny"}) == "wrong_state"
    assert build(**{"from": "nosuch"}) == "no_image"
    assert build(memory=1 << 20) == "insufficient_resources"
    api.delete(f"/v1/image?ref={made['digest']}").ok()


def test_images_that_arent_there(api):
    assert api.post("/v1/images/tag", {"image": "nosuch", "tag": "x"}).code == "no_image"
    assert api.delete("/v1/image").error["field"] == "ref"
