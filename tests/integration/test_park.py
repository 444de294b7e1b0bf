"""The host goes down: all VMs end gently, at one time, and come back by their policy; what was stopped stays so."""
from host import counter, wait_for

POLICIES = {"always": "always", "usual": "unless-stopped", "once": "no"}


def states(host):
    return {vm["name"]: vm["state"] for vm in host.api.get("/v1/vms").ok()["vms"]}


def test_park(host):
    host.add_user_token()
    for name, policy in POLICIES.items():
        host.create(name, restart=policy)
    host.create("resting")
    host.api.post("/v1/vms/resting/stop").ok()
    host.ssh("usual", counter("/root/count", 0.2))
    wait_for("the guest to count", lambda: int(host.ssh("usual", "wc -l </root/count")) >= 5)
    before = {name: host.vm(name) for name in POLICIES}
    boot = host.boot_id("usual")

    answer = host.run("fcmd", "--park").stdout
    assert '"parked":3' in answer.replace(" ", "") and '"forced":0' in answer.replace(" ", ""), answer
    for name in POLICIES:
        vm = host.vm(name)
        assert (vm["state"], vm["desired"], vm["reason"]["code"]) == ("stopped", "running", "host_shutdown")

    host.restart_daemon()
    wait_for("the VMs to come back", lambda: states(host)["always"] == states(host)["usual"] == "running", 60)
    assert states(host)["once"] == states(host)["resting"] == "stopped"
    for name in ("always", "usual"):
        assert host.vm(name)["ip"] == before[name]["ip"] and host.vm(name)["reason"] is None
    assert host.boot_id("usual") != boot
    lines = host.ssh("usual", "cat /root/count").split("\n")
    assert lines[-1] == "" and [int(n) for n in lines[:-1]] == list(range(1, len(lines)))
    assert len(lines) > 5

    host.api.post("/v1/vms/once/start").ok()
    assert host.vm("once")["reason"] is None
    host.destroy_all()


def test_nobody_to_ask(host):
    host.stop_daemon()
    done = host.run("fcmd", "--park", check=False)
    assert done.returncode == 6 and "no daemon listens" in done.stderr
    host.start_daemon()
