"""A daemon that never starts a VM: it answers the routes of docs/API.md from a table, so that the words and the exit
statuses of the client can be tested without a host. VM names choose the answer: see ERRORS and VMS."""
import json
import socket
import ssl
import subprocess
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

RES, DATA, END = 3, 5, 7  # frames of fcm-stream: common/core/frame.h
TOKEN = "fcm_abcd1234_" + "S" * 43
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHCPJHdIYBUzxSWnMXQ6MgUF7/EH4Y0YqHxnGkQmyUEk"


def vm(name, id, **more):
    return {
        "id": id, "name": name, "ip": "172.16.0.50", "state": "running", "expose": None, "schema": 1,
        "desired": "running", "cpus": 1, "memory": 512, "disk": 8192, "image": "base", "kernel": "default",
        "restart": "unless-stopped", "env": {}, "labels": {}, "ssh_keys": [], "reason": None,
        "created": "2020-01-01T00:00:00Z", "started": "2020-01-01T00:00:02Z", "vmm": "qemu", "accel": "tcg",
        "vmm_reason": "no usable KVM: 1000000 rounds took 600 ms", "uid": 1879048242, "vmm_pid": 4711, "mac": "02:fc:ac:10:00:32",
        "boot_id": "0b6e3d9c-5f0e-4a8e-9f30-2b8a9d1b6f11", "host_key": HOST_KEY, "boots": 1, "disk_used": 4308992,
    } | more


def stats(one, sample):
    """The sample-th sample of a VM: each is a second after the one before, and half a CPU busier."""
    if one["state"] not in ("running", "paused"):
        known = dict.fromkeys(("pid", "threads", "up_ms", "at_us", "cpu_us", "rss", "pss", "disk_read", "disk_written",
                               "net_received", "net_sent"))
        guest = dict.fromkeys(("memory", "available", "load", "disk", "disk_used"))
    else:
        known = {"pid": one["vmm_pid"], "threads": 5, "up_ms": 125000, "at_us": 10**6 * sample, "cpu_us": 10**9 + 500000 * sample,
                 "rss": 104857600, "pss": 81000000, "disk_read": 4308992, "disk_written": 8192, "net_received": 123456, "net_sent": 0}
        guest = {"memory": 512000000, "available": 448000000, "load": "0.12", "disk": 8589934592, "disk_used": 4194304}
    if one["state"] == "paused":
        guest = dict.fromkeys(guest)
    return {k: one[k] for k in ("id", "name", "state", "cpus", "memory")} | known | {"guest": guest}


def token(name, scope, vms, expires=None):
    return {"id": {"root": "rrrr1234", "ci": "cccc1234"}.get(name, "abcd1234"), "name": name, "scope": scope, "vms": vms,
            "created": "2020-01-01T00:00:00Z", "expires": expires}


def expose(name, port=8000, status="active", **more):
    domain = f"{name}.64-34-93-45.sslip.io"
    return {"port": port, "domain": domain, "url": f"https://{domain}", "status": status} | more


VMS = {
    "web": vm("web", "8i5agfx2", expose=expose("web")),
    "cosmic-nova": vm("cosmic-nova", "q0w9e8r7", ip="172.16.0.51", state="failed", started=None, vmm_pid=0,
                      memory=2048, reason={"code": "guest", "step": "boot", "time": "2020-01-01T00:00:43Z",
                                           "message": "the guest panicked 41 s after boot"}),
    "idle": vm("idle", "zzzz0001", ip="172.16.0.52", state="stopped", desired="stopped", started=None, vmm_pid=0),
    "still": vm("still", "zzzz0002", ip="172.16.0.53", state="paused"),
    "asleep": vm("asleep", "zzzz0003", ip="172.16.0.54", state="suspended", desired="stopped", started=None, vmm_pid=0),
}


def snapshot(name, id, of="web", **more):
    return {"schema": 1, "id": id, "name": name, "note": "", "created": "2020-01-01T00:00:00Z", "parent": "", "memory": True, "frozen": True,
            "pause_ms": 48, "vmm": "qemu", "vmm_version": "7.2.22", "accel": "tcg", "cpu": "", "cpu_flags": "", "vm": VMS.get(of, VMS["web"]),
            "files": [{"name": "disk", "size": 8589934592, "mtime_ns": 1, "sum": "0" * 64}], "on_disk": 61000000} | more


SNAPSHOTS = {s["name"]: s for s in [
    snapshot("fresh", "snap0001", note="before anything was installed, so that there is a way back to it"),
    snapshot("warm", "snap0002", parent="snap0001", note="nginx runs"), snapshot("idle-1", "snap0003", "idle", memory=False, on_disk=5000000),
    snapshot("hot", "snap0004", parent="snap0002"), snapshot("cold", "snap0005", parent="snap0001", memory=False, on_disk=4000000),
    snapshot("orphan", "snap0006", "asleep", parent="gone0000"), snapshot("still", "snap0007", "still", frozen=False)]}

# name of a VM -> status, code, message and more of the error that every request about it gets
ERRORS = {
    "broken": (500, "internal", "something is inconsistent", {}),
    "noguest": (500, "guest", "the guest said nothing for 60 s", {"step": "boot"}),
    "busy": (409, "busy", "stop is in progress", {}),
    "forbidden": (403, "forbidden", "this token may not do that", {}),
    "full": (507, "no_space", "4 MB are free in /var/lib/firecracker", {}),
    "slow": (504, "timeout", "it was still starting after 30 s", {}),
    "evil": (500, "guest", "the guest said \x1b[31mred\x07", {"hint": "\u202ereversed"}),
    "html": (502, None, None, {}),
}

PLAN = ["tap      TUNSETIFF tap_8i5agfx2", "nft      add element inet fcm vms { tap_8i5agfx2 }"]
EVENTS = "".join(f"id: {e['seq']}\nevent: {e['event']}\ndata: {json.dumps(e)}\n\n" for e in [
    {"seq": 7, "time": "2026-01-01T00:00:00Z", "event": "running", "id": "abcd1234", "name": "web"},
    {"seq": 8, "time": "2026-01-01T00:00:09Z", "event": "failed", "id": "abcd1234", "name": "web", "code": "crashed",
     "message": "the VMM was killed by signal 9\x1b[2J"}]).replace("id: 8", ":\n\nevent: gone\ndata: {\"oldest\":8}\n\nid: 8")
CONSOLE = "[    0.00] Linux\r\n\x1b[1;32mok\x1b[0m \x1b]0;title\x07caf\u00e9 \x9b31m\x07\r\nlogin: "


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def log_request_of(self, body):
        self.server.seen.append({"method": self.command, "path": self.path, "body": body,
                                 "authorization": self.headers.get("Authorization")})

    def answer(self, status, value, kind="application/json"):
        data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Request-Id", "req-1")
        self.end_headers()
        self.wfile.write(data)

    def send_archive(self, kind):
        """Its second half comes when server.goes_on is set."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", "7000")
        self.end_headers()
        self.wfile.write(b"archive" * 500)
        self.server.goes_on.wait(30)
        self.wfile.write(b"archive" * 500)

    def fail(self, status, code, message, more=None):
        if code is None:
            return self.answer(status, "<html>bad gateway</html>", "text/html")
        error = {"code": code, "message": message, "request_id": "req-1"} | (more or {})
        return self.answer(status, {"error": error})

    def result(self, status, value, steps=None, error=None):
        """The end of an operation, streamed when the client asked for that."""
        if "x-ndjson" not in self.headers.get("Accept", ""):
            return self.answer(status, value)
        steps = steps or [{"event": "step", "step": s, "status": p, "ms": 1} for s in ("disk", "boot") for p in ("begin", "done")]
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Connection", "close")
        self.end_headers()
        for line in steps + [{"error": error} if error else {"result": value}]:
            self.wfile.write(json.dumps(line).encode() + b"\n")
            time.sleep(self.server.step_seconds)
        self.close_connection = True

    def read_chunks(self):
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def read_body(self):
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        data = b"".join(self.read_chunks()) if chunked else self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Type") == "application/json":
            return json.loads(data or b"{}")
        return {"bytes": len(data)} if data else None

    def route(self):
        url = urlsplit(self.path)
        query = {k: v[0] for k, v in parse_qs(url.query).items()}
        body = self.read_body()
        self.log_request_of(body)
        authorization = self.headers.get("Authorization")
        if self.server.need_token and authorization != f"Bearer {TOKEN}":
            return self.fail(401, "unauthorized", "the token is wrong", {"hint": "ask root: sudo fcm token create --for USER"})
        parts = url.path.strip("/").split("/")
        if parts[:2] == ["v1", "vms"] and len(parts) > 2:
            return self.vm_route(parts[2], parts[3] if len(parts) > 3 else "", query, body)
        if (self.command, parts[:2]) == ("DELETE", ["v1", "tokens"]):
            return self.revoke_token(parts[2])
        if parts[:2] == ["v1", "snapshots"]:
            return self.snapshot_route(parts[2:], body)
        handler = {
            ("GET", "/v1"): self.get_info, ("GET", "/v1/doctor"): self.get_doctor, ("GET", "/v1/vms"): self.get_vms,
            ("POST", "/v1/vms"): self.create, ("GET", "/v1/images"): self.get_images,
            ("POST", "/v1/tokens"): self.create_token, ("GET", "/v1/tokens"): self.get_tokens,
            ("GET", "/v1/stats"): self.get_all_stats, ("GET", "/v1/volumes"): self.get_volumes,
            ("GET", "/v1/events"): self.get_events, ("GET", "/v1/image"): self.get_image, ("DELETE", "/v1/image"): self.delete_image,
            ("POST", "/v1/images/pull"): self.pull_image, ("POST", "/v1/registries/check"): self.check_registry,
            ("POST", "/v1/images/tag"): self.tag_image, ("POST", "/v1/images/prune"): self.prune_images,
            ("POST", "/v1/images/import"): self.import_image, ("POST", "/v1/images/build"): self.build_image,
            ("GET", "/v1/image/history"): self.get_history, ("GET", "/v1/image/export"): self.export_image, ("GET", "/v1/system/df"): self.get_df,
        }.get((self.command, url.path))
        if handler:
            return handler(body)
        if self.command == "PUT" and parts[1] in ("images", "kernels"):
            return self.answer(201, {"name": parts[2], "kind": parts[1][:-1], "tag": "12", "on_disk": body["bytes"]})
        return self.fail(404, "no_route", f"there is no {url.path}")

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = route

    def get_info(self, body):
        return self.answer(200, {
            "version": "0.1.0", "api": "v1", "extensions": [], "vmm": {
                "driver": "qemu", "version": "7.2.22", "accel": "tcg", "reason": "no usable KVM"},
            "defaults": {"cpus": 1, "memory": 512, "disk": 8192, "image": "base", "restart": "unless-stopped"},
            "pool": "172.16.0.0/24", "public_ip": "64.34.93.45", "state_dir": "/var/lib/firecracker",
            "vms": {"total": 3, "running": 1}})

    def get_doctor(self, body):
        return self.answer(200, {"checks": [
            {"name": "kvm", "status": "ok", "message": "/dev/kvm runs guests", "fix": ""},
            {"name": "docker", "status": "warn", "message": "FORWARD policy is DROP: VMs have no internet",
             "fix": "iptables -I DOCKER-USER -m devgroup --src-group 252 -j ACCEPT"},
            {"name": "pool", "status": "fail", "message": "172.16.0.0/24 overlaps eth0",
             "fix": "pool = 172.29.0.0/24 in /etc/fcm/fcmd.conf"}]})

    def get_vms(self, body):
        self.server.samples += 1
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        if bad := set(query) - {"state", "name", "label"}:
            return self.fail(400, "invalid", f"there is no filter '{bad.pop()}': state, name or label", {"field": "filter"})
        states = query.get("state", [""])[0].split(",")
        return self.answer(200, {"vms": [vm for vm in VMS.values() if states == [""] or vm["state"] in states]})

    def count_sample(self):
        self.server.samples += 1
        return self.server.samples

    def get_all_stats(self, body):
        sample = self.count_sample()
        return self.answer(200, {"vms": [stats(one, sample) for one in VMS.values()]})

    def get_stats(self, one, query, body):
        return self.answer(200, stats(one, self.count_sample()))

    def get_events(self, body):
        return self.answer(200, EVENTS, "text/event-stream")

    def get_images(self, body):
        return self.answer(200, {"images": [
            {"name": "base", "kind": "image", "tag": "latest", "version": "12", "digest": "sha256:1f3a9c0d5e6f7788", "size": 412000000,
             "on_disk": 398000000, "used_by": 2, "created": "2020-01-01T00:00:00Z"},
            {"name": "default", "kind": "kernel", "tag": "6.1.0-42-cloud-amd64", "digest": "sha256:aabbccddeeff0011",
             "size": 61000000, "on_disk": 61000000, "used_by": 3, "created": "2020-01-01T00:00:00Z"}]})

    def get_volumes(self, body):
        return self.answer(200, {"volumes": [{"name": "data", "size": 64, "on_disk": 4096, "vm": "", "used_by": [], "created": "2020-01-01T00:00:00Z"}]})

    def get_image(self, body):
        return self.answer(200, {"name": "base", "names": ["localhost/base:latest"], "vms": ["web"]})

    def delete_image(self, body):
        if "used" in self.path:
            return self.fail(409, "wrong_state", "image 'used' is the disk's lower layer of 1 VM: web",
                             {"hint": "destroy the VMs first, or give the image another name: fcm image tag"})
        return self.answer(200, {"untagged": ["localhost/mine:1"], "removed": ["1f3a9c0d5e6f7788"], "bytes": 398000000})

    def tag_image(self, body):
        return self.answer(200, {"name": "base", "digest": "1f3a9c0d5e6f7788", "added": "localhost/" + body["tag"]})

    def get_history(self, body):
        if "raw" in self.path:
            return self.answer(200, {"history": []})
        step = {"created": "2020-01-01T00:00:00Z", "created_by": "", "comment": "", "layer": None, "size": 0}
        return self.answer(200, {"history": [
            step | {"created_by": 'CMD ["/x"]'}, step | {"created_by": "RUN apt-get update &&\n\tapt-get install -y --no-install-recommends build-essential ca-certificates curl git", "layer": "aabbccddeeff0011", "size": 4300000},
            step | {"layer": "1f3a9c0d5e6f7788", "size": 412000000, "created": None}]})

    def export_image(self, body):
        if "raw" in self.path and "raw=1" not in self.path:
            return self.fail(409, "wrong_state", "image 1f3a9c0d5e6f has no layers: it came as a file system",
                             {"hint": "fcm image export --raw gives that"})
        return self.send_archive("application/x-tar")

    def get_df(self, body):
        rows = [("images", 3, 1, 812000000, 400000000), ("layers", 2, 2, 412000000, 0), ("vms", 3, 1, 12000000, 8000000), ("volumes", 0, 0, 0, 0)]
        return self.answer(200, {"df": [dict(zip(("type", "count", "active", "size", "reclaimable"), r)) for r in rows], "free": 79000000000})

    def import_image(self, body):
        name = parse_qs(urlsplit(self.path).query).get("name", ["mine"])[0]
        return self.answer(201, {"name": name, "tag": "1", "digest": "1f3a9c0d5e6f7788", "on_disk": body["bytes"], "added": [f"localhost/{name}:1"]})

    def prune_images(self, body):
        return self.answer(200, {"untagged": [], "removed": ["1f3a9c0d5e6f7788"] * (2 if body["all"] else 1), "bytes": 5000000})

    def pull_image(self, body):
        """Two layers, of which one is there; "private" wants a password, "noted" has something to say."""
        if "private" in body["image"] and body.get("password") != "secret":
            return self.fail(403, "forbidden", "reg.test wants credentials", {"hint": "fcm login reg.test"})
        if body["image"] == "missing":
            return self.fail(404, "no_image", "docker.io has no such image", {"hint": "look at its name and tag"})
        self.server.pulled.add(body["image"])

        def layer(name, status, current, total=27000000):
            return {"event": "layer", "id": name * 6, "status": status, "current": current, "total": total}

        note = [{"event": "note", "message": "mirror https://m: it answered\x1b[2J 503"}] if "noted" in body["image"] else []
        return self.result(200, {"name": body["image"], "digest": "1f3a9c0d5e6f7788", "on_disk": 398000000}, [
            {"event": "step", "step": "pull", "status": "begin", "ms": 0}, *note, layer("aa", "waiting", 0), layer("bb", "waiting", 0),
            layer("aa", "exists", 27000000), layer("bb", "downloading", 13500000), layer("bb", "downloading", 27000000),
            layer("bb", "extracted", 72000000, 72000000), {"event": "step", "step": "merge", "status": "begin", "ms": 0}])

    def build_image(self, body):
        """It prints its script; one that is a number ends with that status."""
        if body.get("from") == "reg.test/absent" and body["from"] not in self.server.pulled:
            return self.fail(404, "no_image", "there is no image 'reg.test/absent'")
        status = int(body["script"]) if body["script"].strip().isdigit() else 0
        steps = [{"event": "step", "step": "boot", "status": "begin", "ms": 0}, {"event": "step", "step": "script", "status": "begin", "ms": 0},
                 {"event": "output", "stream": "stdout", "data": body["script"]}, {"event": "output", "stream": "stderr", "data_base64": "G1sxSgo="},
                 {"event": "exit", "exit": status}, {"event": "step", "step": "pack", "status": "begin", "ms": 0}]
        failed = {"code": "script_failed", "message": f"build '{body['name']}': the script ended with status {status}; nothing is kept"}
        return self.result(201, {"name": body["name"], "digest": "1f3a9c0d5e6f7788", "on_disk": 398000000}, steps[:-1] if status else steps,
                           failed if status else None)

    def check_registry(self, body):
        if body["password"] != "secret":
            return self.fail(403, "forbidden", f"{body['registry']} doesn't take these credentials")
        return self.answer(200, {"registry": body["registry"]})

    def create_token(self, body):
        return self.answer(201, {**token(body["name"], body.get("scope", "full"), body.get("vms")), "token": TOKEN})

    def get_tokens(self, _body):
        self.answer(200, {"tokens": [token("root", "full", None), token("ada", "full", "owner=ada"), token("ci", "read", None, "2020-02-01T00:00:00Z")]})

    def revoke_token(self, token_id):
        if token_id != "abcd1234":
            return self.fail(404, "not_found", f"there is no token with the id '{token_id}'", {"hint": "fcm token ls shows what there is"})
        return self.answer(200, token("ada", "full", "owner=ada"))

    def create(self, body):
        name = body.get("name", "misty-comet")
        if name in ERRORS:
            return self.fail(*ERRORS[name])
        if name in VMS:
            return self.fail(409, "name_taken", f"the name is taken ({VMS[name]['id']}, {VMS[name]['state']})", {"field": "name"})
        if body.get("image") in ("missing", "debian") or "/" in body.get("image", "") and body["image"] not in self.server.pulled:
            return self.fail(404, "no_image", "there is no image 'missing'", {"hint": "fcm images lists them; make one: fcm image build base"})
        if body.get("dry_run"):
            return self.answer(200, {"plan": PLAN})
        if body.get("save_snapshot") in SNAPSHOTS:
            return self.fail(409, "name_taken", "there is a snapshot 'warm' already", {
                "field": "save_snapshot", "hint": "choose another name, or fcm snapshot rm warm"})
        made = vm(name, "n3wn3wn3", took_ms=2400, main=body.get("main"),
                  publish=[f"0.0.0.0:{port}/tcp" for port in body.get("publish", [])])
        if name.startswith("bench-") or body.get("hold"):
            self.server.made[name] = made
        if body.get("save_snapshot"):
            made["saved"] = snapshot(body["save_snapshot"], "n3wn3wn3")
        if body.get("expose"):
            made["expose"] = expose(name, body["expose"], "pending", reason="certificate pending")
        return self.result(201, made)

    def vm_route(self, name, rest, query, body):
        if name in ERRORS:
            return self.fail(*ERRORS[name])
        one = VMS.get(name) or self.server.made.get(name) or next((v for v in VMS.values() if v["id"] == name), None)
        if one is None:
            return self.fail(404, "not_found", f"there is no VM '{name}'", {"hint": "fcm ls shows what there is"})
        method = getattr(self, f"{self.command.lower()}_{rest or 'vm'}".replace("-", "_"))
        return method(one, query, body)

    def get_vm(self, one, query, body):
        return self.answer(200, one)

    def delete_vm(self, one, query, body):
        if query.get("dry_run"):
            return self.answer(200, {"plan": PLAN})
        if one["name"] == "stuck":
            return self.fail(409, "busy", "stop is in progress")
        self.server.made.pop(one["name"], None)
        return self.result(200, {"id": one["id"], "name": one["name"], "left": [], "took_ms": 31, "removed": {
            "tap": "tap_" + one["id"], "nft_elements": 4, "sites": 1, "bytes": 312000000}})

    def patch_vm(self, one, query, body):
        if body.get("name") in VMS:
            return self.fail(409, "name_taken", f"the name is taken ({VMS[body['name']]['id']}, stopped)", {"field": "name"})
        size = {k: body.get(k, one[k]) for k in ("cpus", "memory")}
        following = size if {"cpus", "memory"} & set(body) and one["state"] == "running" else None
        return self.answer(200, one | {"name": body.get("name", one["name"]), "next": following, "changed": body.get("restart") != "always"})

    def put_files(self, one, query, body):
        """It has read all; what comes of it waits for server.goes_on, and is no success."""
        self.server.goes_on.wait(30)
        return self.fail(507, "no_space", "4 MB are free in the guest")

    def post_start(self, one, query, body):
        changed, resumed = one["state"] != "running", one["state"] in ("paused", "suspended")
        return self.result(200, one | {"state": "running", "changed": changed, "resumed": resumed, "took_ms": 1300})

    def post_stop(self, one, query, body):
        changed = one["state"] == "running"
        return self.result(200, one | {"state": "stopped", "changed": changed, "forced": False, "took_ms": 400})

    def post_restart(self, one, query, body):
        return self.result(200, one | {"state": "running", "took_ms": 1700})

    def post_kill(self, one, query, body):
        return self.result(200, one | {"state": "stopped", "changed": one["state"] == "running", "took_ms": 12})

    def post_pause(self, one, query, body):
        if one["state"] not in ("running", "paused"):
            return self.fail(409, "wrong_state", f"VM '{one['name']}' is {one['state']}", {"hint": f"fcm start {one['name']}"})
        return self.result(200, one | {"state": "paused", "changed": one["state"] == "running", "took_ms": 5})

    def post_resume(self, one, query, body):
        return self.result(200, one | {"state": "running", "changed": one["state"] == "paused", "took_ms": 4})

    def post_suspend(self, one, query, body):
        return self.result(200, one | {"state": "suspended", "changed": one["state"] != "suspended", "took_ms": 320})

    def post_snapshots(self, one, query, body):
        name = body.get("name", one["name"] + "-2")
        if name in SNAPSHOTS:
            return self.fail(409, "name_taken", f"there is a snapshot '{name}' already", {
                "field": "name", "hint": f"choose another name, or fcm snapshot rm {name}"})
        if name.startswith("bench-"):
            self.server.made["snapshot " + name] = snapshot(name, "n3wn3wn3")
        memory = one["state"] != "stopped" and not body.get("disk_only", False)
        return self.result(201, snapshot(name, "n3wn3wn3", one["name"], memory=memory, pause_ms=48 if one["state"] == "running" else 0,
                                         frozen=one["name"] == "web", took_ms=310))

    def post_restore(self, one, query, body):
        if body["snapshot"] not in SNAPSHOTS:
            return self.fail_snapshot(body["snapshot"])
        of = SNAPSHOTS[body["snapshot"]]["vm"]["name"]
        if of != one["name"]:
            return self.fail(409, "wrong_state", f"the snapshot '{body['snapshot']}' is of another VM, {of}", {
                "field": "snapshot", "hint": f"fcm clone {body['snapshot']} makes a VM of it"})
        return self.result(200, one | {"state": "running", "changed": True, "resumed": not body.get("disk_only"), "took_ms": 410})

    def post_clone(self, one, query, body):
        count = body.get("count", 1)
        name = body.get("name", "misty-comet")
        if name.startswith("bench-"):
            self.server.made[name] = vm(name, "n3wn3wn3")
        names = [name] if count == 1 else [f"{name}-{n + 1}" for n in range(count)]
        return self.answer(201, {"vms": [vm(each, "n3wn3wn3", took_ms=210, resumed=True) for each in names]})

    def fail_snapshot(self, name):
        return self.fail(404, "not_found", f"there is no snapshot '{name}'", {"hint": "fcm snapshot ls shows what there is"})

    def snapshot_route(self, parts, body):
        if not parts:
            return self.answer(200, {"snapshots": list(SNAPSHOTS.values())})
        if parts == ["import"]:
            return self.import_snapshot(body)
        one = SNAPSHOTS.get(parts[0]) or self.server.made.get("snapshot " + parts[0]) or next((s for s in SNAPSHOTS.values() if s["id"] == parts[0]), None)
        if one is None:
            return self.fail_snapshot(parts[0])
        if self.command == "DELETE" and one["name"] == "hot":
            return self.fail(409, "busy", "the snapshot 'hot' is in use: a VM is just being made of it, or it is being exported")
        if self.command == "DELETE":
            self.server.made.pop("snapshot " + one["name"], None)
            return self.answer(200, {"id": one["id"], "bytes": one["on_disk"]})
        if parts[1:] == ["clone"]:
            return self.post_clone(None, None, body)
        if parts[1:] == ["export"] and one["name"] == "cold":
            return self.fail(409, "wrong_state", "its VM 'web' had the volume 'data', which has a life of its own and isn't in it")
        return self.send_archive("application/zstd") if parts[1:] == ["export"] else self.answer(200, one)

    def import_snapshot(self, body):
        """One byte is of an image that isn't here."""
        name = parse_qs(urlsplit(self.path).query).get("name", ["moved"])[0]
        if name in SNAPSHOTS:
            return self.fail(409, "name_taken", f"there is a snapshot '{name}' already", {
                "field": "name", "hint": f"choose another name, or fcm snapshot rm {name}"})
        if body["bytes"] == 1:
            return self.fail(404, "no_image", "its disk lies on the image 'debian' (1f3a9c0d5e6f), which isn't here", {"hint": "fcm pull debian"})
        return self.answer(201, snapshot(name, "n3wn3wn3"))

    def get_logs(self, one, query, body):
        return self.answer(200, CONSOLE, "text/plain")

    def post_publish(self, one, query, body):
        return self.answer(200, one | {"publish": [f"0.0.0.0:8080:{port}/tcp" for port in body["publish"]]})

    def post_unpublish(self, one, query, body):
        return self.answer(200, one | {"publish": []})

    def get_wait(self, one, query, body):
        if query["state"] == "removed":
            return self.answer(200, one)
        if query["state"] != one["state"]:
            return self.fail(504, "timeout", f"'{one['name']}' was still {one['state']} after {query['timeout']} s")
        return self.answer(200, one)

    def put_expose(self, one, query, body):
        exposed = expose(one["name"], body["port"], "pending", reason="Caddy isn't running")
        return self.answer(200, one | {"expose": exposed})

    def delete_expose(self, one, query, body):
        return self.answer(200, one | {"expose": None, "changed": one["expose"] is not None})

    def put_ssh_keys(self, one, query, body):
        return self.answer(200, one | {"ssh_keys": body["keys"]})

    def shout(self, protocol):
        """Say hello, and repeat all in capitals."""
        if self.headers.get("Upgrade") != protocol:
            return self.fail(400, "bad_request", f"this route is for Upgrade: {protocol}")
        self.wfile.write(f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\nhello\n".encode())
        while data := self.connection.recv(65536):
            self.connection.sendall(data.upper())
        self.close_connection = True

    def post_exec(self, one, query, body):
        """Says what it was asked, and what came on stdin; "die" is a daemon that ends in the middle."""
        if self.headers.get("Upgrade") != "fcm-stream":
            return self.answer(200, {"pid": 4711} if body.get("detach") else {"exit": 0 if one["name"].startswith("bench-") else 3, "stdout": "out\n", "stderr": ""})
        self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: fcm-stream\r\n\r\n")
        self.close_connection = True

        def send(kind, payload=b"", channel=0):
            self.wfile.write(struct.pack("<IHBB", 1, len(payload), kind, channel) + payload)

        def receive():
            size, kind = struct.unpack("<IHBB", self.rfile.read(8))[1:3]
            return kind, self.rfile.read(size)

        if body["cmd"] == ["die"]:
            return send(DATA, b"one\n", 1)
        if body["cmd"] == ["error"]:
            return send(RES, b"error=it took \x1b[31mtoo long\0code=timeout\0hint=wait\0")
        if body["cmd"] == ["rubbish"]:
            return self.wfile.write(b"\xff" * 100)
        send(DATA, " ".join(body["cmd"]).encode() + b"\n", 1)
        while body.get("stdin") and (frame := receive())[0] != END:
            self.server.seen.append(frame)
            send(DATA, frame[1].upper(), 2)
        return send(END, channel=1) or send(END, channel=2) or send(RES, b"ok=1\0exit=5\0")

    def get_tunnel(self, one, query, body):
        if query["port"] == "1":
            return self.fail(500, "guest", "nothing listens at port 1")
        return self.shout("fcm-tunnel")

    def get_console(self, one, query, body):
        return self.shout("fcm-console")


class UnixServer(ThreadingHTTPServer):
    address_family = socket.AF_UNIX

    def server_bind(self):
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "localhost", 0

    def get_request(self):
        connection, _ = super().get_request()
        return connection, ("local", 0)


def start(path=None, certificate=None):
    """A server on a free port of loopback (with TLS when there is a certificate, a file that also holds its key), or at
    a unix socket (which needs no token), on its own thread."""
    server = UnixServer(str(path), Handler) if path else ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.seen = []
    server.need_token = path is None
    server.step_seconds = 0.0
    server.goes_on = threading.Event()
    server.goes_on.set()
    server.samples = 0
    server.pulled = set()
    server.made = {}  # VMs and snapshots of a bench, which are there until they are removed
    server.url = f"unix://{path}" if path else f"http://127.0.0.1:{server.server_port}"
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.url = f"https://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


def start_tls(folder):
    """The same behind TLS, with a certificate of its own; server.trust is the environment of a client that trusts it."""
    file, certificate = folder / "tls.pem", folder / "crt"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                    "-subj", "/CN=fake", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", file, "-out", certificate],
                   check=True, capture_output=True)
    file.write_text(file.read_text() + certificate.read_text())
    server = start(certificate=file)
    server.trust = {"SSL_CERT_FILE": str(certificate)}
    return server


if __name__ == "__main__":
    import sys

    running = start(sys.argv[1] if len(sys.argv) > 1 else None)
    running.step_seconds = 0.3
    print(running.url, TOKEN, flush=True)
    threading.Event().wait()
