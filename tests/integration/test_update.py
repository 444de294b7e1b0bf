"""Rename and update: what changes at once, what waits for the next start, what is refused. With the scripted VMM."""
import json

import pytest
from host import DASHED, wait_for

HOST = {"fake": True, "caddyfile": "{\n\tlocal_certs\n}\n"}


def domain(name):
    return f"{name}.{DASHED}.sslip.io"


@pytest.fixture(scope="module", autouse=True)
def caddy(host):
    host.start_caddy()


@pytest.fixture(autouse=True)
def web(host):
    host.create("web", memory=96, restart="no", labels={"team": "red", "tier": "1"})
    yield host.vm("web")
    host.destroy_all()


def patch(api, body, name="web"):
    return api.call("PATCH", f"/v1/vms/{name}", body)


def on_disk(host, vm):
    return json.loads((host.state_dir / vm["id"] / "config.json").read_text())


def events(host):
    return [json.loads(line) for line in host.fcm("events", "--json").stdout.splitlines()]


def test_rename(host, api, web):
    done = patch(api, {"name": "www"}).ok()
    assert done["changed"] and (done["name"], done["id"], done["state"], done["vmm_pid"]) == ("www", web["id"], "running", web["vmm_pid"])
    assert api.get("/v1/vms/web").status == 404 and host.vm("www")["id"] == web["id"] == host.vm(web["id"])["id"]
    assert on_disk(host, web)["name"] == "www"
    last = events(host)[-1]
    assert (last["event"], last["name"], last["id"], last["message"]) == ("renamed", "www", web["id"], "it was 'web'")
    host.restart_daemon()
    assert host.vm("www")["state"] == "running"
    host.create("web", memory=64)
    assert patch(api, {"name": "www"}, "www").ok()["changed"] is False


def test_a_name_that_is_taken(host, api, web):
    other = host.create("other", memory=64)
    for name in ("other", other["id"], web["id"]):
        answer = patch(api, {"name": name, "labels": {"x": "y"}})
        assert (answer.status, answer.code, answer.error["field"]) == (409, "name_taken", "name"), answer
    assert host.vm("web")["labels"] == web["labels"]
    done = host.fcm("rename", "web", "other", check=False)
    assert done.returncode == 4 and done.stderr.startswith(f"fcm: cannot rename 'web': the name is taken ({other['id']}, running)\n     ")


def test_a_site_follows(host, api):
    """Its name was made of the VM's; so who gets that name next can have the site as well."""
    api.put("/v1/vms/web/expose", {"port": 80}).ok()
    done = host.fcm("rename", "web", "www", "--json")
    assert json.loads(done.stdout)["expose"]["domain"] == domain("www")
    site = (host.caddy_dir / f"fcm.d/{host.vm('www')['id']}.caddy").read_text()
    assert domain("www") in site and domain("web") not in site
    new = host.create("web", memory=64, expose=81)
    assert new["expose"]["domain"] == domain("web")
    # and where it can't have the other one, nothing is renamed
    api.put("/v1/vms/web/expose", {"port": 81, "domain": domain("third")}).ok()
    answer = patch(api, {"name": "third"}, "www")
    assert (answer.status, answer.code) == (409, "domain_taken")
    assert host.vm("www")["expose"]["domain"] == domain("www") and api.get("/v1/vms/third").status == 404
    assert domain("www") in (host.caddy_dir / f"fcm.d/{host.vm('www')['id']}.caddy").read_text()


def test_a_site_of_the_users_own_stays(host, api):
    api.put("/v1/vms/web/expose", {"port": 80, "domain": "shop.example.org"}).ok()
    assert patch(api, {"name": "www"}).ok()["expose"]["domain"] == "shop.example.org"


def test_a_port_knows_its_owners_new_name(host, api):
    api.post("/v1/vms/web/publish", {"publish": ["8080:80"]}).ok()
    patch(api, {"name": "www"}).ok()
    answer = api.post("/v1/vms", {"name": "late", "image": "tiny", "publish": ["8080:80"]})
    assert answer.status == 409 and "VM 'www'" in answer.error["message"]


def test_size_waits_for_the_next_start(host, api, web):
    done = patch(api, {"memory": 128, "cpus": 2}).ok()
    assert (done["memory"], done["cpus"], done["next"], done["changed"]) == (96, 1, {"cpus": 2, "memory": 128}, True)
    assert done["vmm_pid"] == web["vmm_pid"]
    host.restart_daemon()
    assert host.vm("web")["next"] == {"cpus": 2, "memory": 128} and on_disk(host, web)["memory"] == 96
    again = api.post("/v1/vms/web/restart", {"time": 1}).ok()
    assert (again["memory"], again["cpus"], again["next"]) == (128, 2, None)
    command = open(f"/proc/{again['vmm_pid']}/cmdline", encoding="utf-8").read().split("\0")
    assert "128M" in "".join(command) or "128" in command, command
    api.post("/v1/vms/web/kill").ok()
    done = patch(api, {"memory": 64}).ok()
    assert (done["memory"], done["next"]) == (64, None)
    assert api.post("/v1/vms/web/start").ok()["memory"] == 64


def test_what_a_size_takes_back(api):
    patch(api, {"memory": 128}).ok()
    assert patch(api, {"memory": 96}).ok()["next"] is None


def test_memory_that_the_host_lacks(host, api):
    """It is a wish until the next start, which is refused while the VM still runs."""
    patch(api, {"memory": 1 << 20}).ok()
    answer = api.post("/v1/vms/web/restart", {"time": 1})
    assert (answer.status, answer.code) == (409, "insufficient_resources")
    assert host.vm("web")["state"] == "running"
    patch(api, {"memory": 96}).ok()
    api.post("/v1/vms/web/restart", {"time": 1}).ok()


def test_labels_and_policy(host, api, web):
    done = patch(api, {"labels": {"tier": "2", "new": ""}, "remove_labels": ["team", "never"], "restart": "on-failure"}).ok()
    assert done["labels"] == {"tier": "2", "new": ""} and done["restart"] == "on-failure" and done["next"] is None
    kept = on_disk(host, web)
    assert kept["labels"] == done["labels"] and kept["restart"] == "on-failure"
    assert patch(api, {"labels": {"tier": "2"}}).ok()["changed"] is False
    done = host.fcm("update", "web", "--label", "a=b", "--label-rm", "tier", "--restart", "no")
    assert done.stdout == "web\n" and done.stderr == ""
    assert host.vm("web")["labels"] == {"new": "", "a": "b"} and host.vm("web")["restart"] == "no"


def test_no_more_restarts(host, api, web):
    """A VM that crashes again and again can be left in peace."""
    patch(api, {"restart": "always"}).ok()
    host.run("kill", "-9", host.vm("web")["vmm_pid"])
    host.wait_state("web", "failed")
    patch(api, {"restart": "no"}).ok()
    with pytest.raises(AssertionError):
        wait_for("it runs again", lambda: host.vm("web")["state"] == "running", 3)
    assert host.vm("web")["boots"] == web["boots"]


def test_one_that_goes_cannot_stay(host, api):
    host.create("once", memory=64, restart="no", auto_remove=True)
    answer = patch(api, {"restart": "always"}, "once")
    assert (answer.status, answer.error["field"]) == (400, "restart")
    patch(api, {"labels": {"a": "b"}}, "once").ok()


@pytest.mark.parametrize("body", [
    {"name": "-"}, {"name": "a b"}, {"name": 1}, {"name": "x" * 64}, {"cpus": 0}, {"cpus": 33}, {"cpus": "2"}, {"memory": 1}, {"memory": -1},
    {"memory": "64k"}, {"restart": "sometimes"}, {"restart": 1}, {"labels": {"A": "b"}}, {"labels": []}, {"labels": {"a": "x\ny"}},
    {"labels": {f"k{n}": "" for n in range(65)}}, {"remove_labels": "a"}, {"remove_labels": [1]}, {"remove_labels": ["x"] * 65}, {"image": "tiny"},
    {"disk": 64}], ids=lambda b: str(b)[:30])
def test_refused(host, api, web, body):
    answer = patch(api, body)
    assert answer.status == 400 and next(iter(body)) in answer.error["field"], answer
    assert host.vm("web") == web


def test_labels_that_do_not_fit_together(host, api, web):
    for n in range(2):
        last = patch(api, {"labels": {f"{n}-{k}": "x" * 250 for k in range(40)}})
    assert (last.status, last.error["field"]) == (400, "labels")
    assert len(host.vm("web")["labels"]) == 42


def test_nothing_to_change(host):
    done = host.fcm("update", "web", check=False)
    assert done.returncode == 2 and "say what to change" in done.stderr
