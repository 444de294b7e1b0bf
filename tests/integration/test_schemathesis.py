"""schemathesis reads docs/openapi.yaml and asks the daemon for what it says there, in good ways and bad ones: no answer of 5xx that
isn't documented, no status, content type, header or body that isn't.

It is installed from the package registry, pinned by hash (schemathesis.txt); where that can't be reached this is a named skip.
"""
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BUILD
from host import TOP, Failed

HOST = {"fake": True, "config": "stop_seconds = 1\nboot_seconds = 2\n"}
PINNED = Path(__file__).parent / "schemathesis.txt"
HOOKS = Path(__file__).parent / "schemathesis_hooks.py"
CHECKS = ("status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,"
          "unsupported_method")
EXAMPLES = 6  # for each route
WAIT = ("vm_wait", "events")  # by design: what they refuse is in test_bad_input.py
# Who they ask isn't there, or what they wait for doesn't come, so 503 and 504 are right.
LATE = ("images_pull", "registry_check", "vm_tunnel", "vms_create", "vm_start", "vm_clone", "snapshot_clone", "vm_restore", "images_build")
LAST = ("vm_destroy", "park")  # they take away what the others need


@pytest.fixture(scope="module")
def library():
    """The folder that schemathesis is in."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("schemathesis is pinned for Python 3.11")
    folder = (Path(BUILD) / f"schemathesis-{hashlib.sha256(PINNED.read_bytes()).hexdigest()[:16]}").resolve()
    if (folder / "complete").exists():
        return folder
    done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:",
                           "--require-hashes", "--upgrade", "--target", folder, "-r", PINNED], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=False, timeout=240)
    assert "HASHES" not in done.stderr, done.stderr[-800:]
    if done.returncode != 0:
        pytest.skip(f"schemathesis can't be had: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    (folder / "complete").touch()
    return folder


@pytest.fixture(autouse=True)
def web(host):
    """What the document's examples speak of."""
    host.create("web", labels={"team": "red"})
    host.api.post("/v1/vms/web/snapshots", {"name": "warm"}).ok(201)
    host.api.post("/v1/volumes", {"name": "data"}).ok(201)
    yield
    host.remove_all()


def run(host, library, seconds, checks, *options):
    """One run of that many seconds; it may make some examples less than it wants to."""
    pid = host.daemon.pid
    argv = [sys.executable, "-m", "schemathesis.cli", "run", TOP / "docs/openapi.yaml", "--url", "http://127.0.0.1:7777", "--checks", checks,
            "--phases", "examples,coverage,fuzzing", "--max-examples", EXAMPLES, "--max-time", seconds, "--seed", os.environ.get("FCM_SEED", "1"),
            "--request-timeout", "20", "--no-shrink", "--continue-on-failure", "--warnings", "off", "-H", f"Authorization: Bearer {host.api.token}"]
    done = host.run(*argv, *options, check=False, timeout=seconds + 60,
                    env={"PYTHONPATH": str(library), "SCHEMATHESIS_HOOKS": str(HOOKS), "PYTHONDONTWRITEBYTECODE": "1"})
    (host.work / "schemathesis.log").write_text(done.stdout + done.stderr)
    if done.returncode != 0:
        raise Failed(done.stdout[-12000:] + done.stderr[-2000:])
    assert host.daemon.poll() is None and host.daemon.pid == pid


def named(option, names):
    return [word for name in names for word in (option, name)]


def test_all_but_a_few(host, library):
    run(host, library, 30, "not_a_server_error," + CHECKS, *named("--exclude-operation-id", (*WAIT, *LATE, *LAST)))


def test_those_that_may_be_late(host, library):
    run(host, library, 15, CHECKS, *named("--include-operation-id", LATE))


def test_those_that_take_away(host, library):
    run(host, library, 8, "not_a_server_error," + CHECKS, *named("--include-operation-id", LAST))
