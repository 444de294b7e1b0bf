"""The list of VMs, and what of it is asked for. With the scripted VMM."""
import pytest

HOST = {"fake": True}


@pytest.fixture(scope="module", autouse=True)
def vms(host):
    host.create("web-1", memory=64, labels={"team": "red", "tier": "1"})
    host.create("web-2", memory=64, labels={"team": "blue"}, env={"SECRET": "x"})
    host.create("db", memory=64, labels={"team": "red", "odd": "a,b=c&d"})
    host.api.post("/v1/vms/db/kill").ok()


def names(api, query):
    return [vm["name"] for vm in api.get("/v1/vms" + query).ok()["vms"]]


@pytest.mark.parametrize("query, expected", [
    ("", ["web-1", "web-2", "db"]), ("?", ["web-1", "web-2", "db"]), ("?state=running", ["web-1", "web-2"]), ("?state=stopped", ["db"]),
    ("?state=stopped,failed,running", ["web-1", "web-2", "db"]), ("?state=creating", []), ("?name=web-*", ["web-1", "web-2"]),
    ("?name=%3F%3F", ["db"]), ("?label=team", ["web-1", "web-2", "db"]), ("?label=team=red", ["web-1", "db"]),
    ("?label=team=red&label=tier", ["web-1"]), ("?label=team=red&state=stopped&name=d*", ["db"]), ("?label=odd=a,b%3Dc%26d", ["db"]),
    ("?label=team=green", [])])
def test_filters(api, query, expected):
    for _ in range(2):  # what is kept of the whole list is not that of a part
        assert names(api, query) == expected
        assert names(api, "") == ["web-1", "web-2", "db"]


@pytest.mark.parametrize("query", ["state=", "state=asleep", "state=running&state=stopped", "state=running,", "name=", "name=a&name=b",
                                   "name=" + "*" * 129, "label=", "label==", "&".join(["label=a"] * 17), "lable=x", "filter=state=running",
                                   "state=%00", "label=%zz"])
def test_refused(api, query):
    """A filter that nobody looks at would show more than was asked for."""
    answer = api.get("/v1/vms?" + query)
    assert answer.status == 400 and answer.error["message"], answer


def test_only_here_a_field_comes_twice(api):
    answer = api.get("/v1/vms/db/logs?tail=1&tail=2")
    assert (answer.status, answer.code) == (400, "bad_request")


def test_client(host):
    assert host.fcm("ls", "-q", "--filter", "label=team=red").stdout == "web-1\ndb\n"
    assert host.fcm("ps", "-q").stdout == "web-1\nweb-2\n"
    assert host.fcm("ps", "-q", "--filter", "state=stopped").stdout == "db\n"
    assert host.fcm("ls", "-q", "--filter", "name=nobody").stdout == ""
