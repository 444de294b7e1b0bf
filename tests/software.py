"""The root file system of software that people run, for test_software_guest.py: made of Debian's packages and kept in the cache. In
the test host, where no mirror is reached, it is beside the other assets."""
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
CACHE = Path(os.environ["XDG_CACHE_HOME"]) / "fcm" if os.environ.get("XDG_CACHE_HOME") else TOP / ".cache"
NAME = "software.tar"

MADE = """set -eu
. images/lib.sh
. images/debian.sh
. /etc/os-release
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
packages=(nginx-light redis-server postgresql)
# A compiler of queries, which it does without and which is half of all.
slim+=('path-exclude=/usr/lib/*/libLLVM*' 'path-exclude=/usr/lib/postgresql/*/lib/llvmjit*' 'path-exclude=/usr/lib/postgresql/*/lib/bitcode/*')
bootstrap
"""


def path():
    """A tar with nginx, redis and postgresql."""
    there = Path(os.environ.get("FCM_ASSETS") or ".") / NAME
    if there.exists():
        return there
    parts = [MADE, *((TOP / name).read_text() for name in ("images/lib.sh", "images/debian.sh", "/etc/os-release"))]
    kept = CACHE / f"software-{hashlib.sha256(''.join(parts).encode()).hexdigest()[:16]}.tar"
    if not kept.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        for old in CACHE.glob("software-*.tar"):
            old.unlink(missing_ok=True)
        # Two that make it at one time take one as good as the other.
        with tempfile.NamedTemporaryFile(dir=CACHE, delete=False) as new:
            subprocess.run(["bash", "-c", MADE], cwd=TOP, check=True, stdout=new, timeout=400)
        os.rename(new.name, kept)
    return kept
