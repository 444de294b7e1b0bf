"""README.md, as a user reads it: every command that it shows, on a fresh machine, in order. docs/TUTORIAL.md, which begins where
it ends, is run by tests/integration/test_tutorial_guest.py."""
import html
import json
import sys

import pytest

import host as hosts
import product as products

sys.path.insert(0, str(hosts.TOP / "tests"))
import readme  # noqa: E402  pylint: disable=wrong-import-position

RELEASES = ("bookworm",)
DOCUMENT = "README.md"
ADDRESS = "203.0.113.10"  # which the document names, too
SITE = f"web.{ADDRESS.replace('.', '-')}.sslip.io"
# The site that is there already has Caddy make its authority at once.
CADDYFILE = "{\n\tlocal_certs\n}\n\nlocalhost {\n\trespond ok\n}\n"
AUTHORITY = "/var/lib/caddy/.local/share/caddy/pki/authorities/local/root.crt"
HOME = f"/home/{products.USER}"
BLOCKS = readme.blocks((hosts.TOP / DOCUMENT).read_text(encoding="utf-8"))
# The block isn't run, but what it makes is put there; `tiny` for `base`, for Debian's sshd and python cost minutes in a host
# (test_seed_verification.py boots `base`; with FCM_ACCEPTANCE=whole it is here, too).
IMAGES = "fcm image build"


def is_taken(block):
    return not block.why or block.steps[0][0].startswith(IMAGES)


@pytest.fixture(scope="module")
def product(firecracker, package):
    """A host that is somebody's: an address of its own, Caddy whose certificates it trusts, a user who may use sudo."""
    run = firecracker.run
    run(f"ip link add up0 type veth peer name up1; ip link set up0 up; ip link set up1 up; ip addr add {ADDRESS}/24 dev up0; "
        "ip route add default via 203.0.113.1")
    run(f"echo '{ADDRESS} {SITE}' >>/etc/hosts")
    firecracker.put("/etc/caddy/Caddyfile", CADDYFILE)
    run(f"systemctl start caddy; timeout 20 sh -c 'until cat {AUTHORITY} >>/etc/ssl/certs/ca-certificates.crt; do sleep 0.5; done'")
    run(f"useradd -m -s /bin/bash {products.USER}; echo '{products.USER} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/{products.USER}")
    firecracker.put(f"{HOME}/build/packages/bookworm/{package.name}", package.read_bytes())
    firecracker.put(f"{HOME}/readme.py", (hosts.TOP / "tests/readme.py").read_bytes())
    firecracker.put(f"{HOME}/{DOCUMENT}", (hosts.TOP / DOCUMENT).read_bytes())
    run(f"chown -R {products.USER}: {HOME}")
    return products.Product(firecracker, package)


@pytest.mark.parametrize("block", [block for block in BLOCKS if is_taken(block)], ids=lambda block: str(block.line))
def test_block(product, block, kernel_tar, tiny_tar, base_tar):
    if block.why:
        product.add_assets(kernel_tar, tiny=tiny_tar, base=base_tar if hosts.WHOLE else tiny_tar)
        return
    command = f"python3 -B readme.py --run {block.line} {DOCUMENT}"
    done = product.host.run(["su", "-", products.USER, "-c", command], timeout=300)
    (product.host.folder / f"{DOCUMENT}-{block.line}.json").write_text(done.text)
    readme.check(block, json.loads(done.text))


def test_picture():
    """It shows the README's last block of commands (tests/picture.py draws it anew)."""
    picture = (hosts.TOP / "docs/session.svg").read_text(encoding="utf-8")
    for command, _ in BLOCKS[-1].steps:
        assert f">{html.escape(command)}</tspan>" in picture, command


def test_comparison():
    """What isn't there, or comes in another order, is seen; other figures aren't a difference."""
    shown = ["NAME  UP", "web   \x1b[32m3 s\x1b[0m", "db    2m"]
    assert readme.missing(["NAME  UP", "web  53 s", "db  9.5 s"], shown) is None
    assert readme.missing(["...", "db  1 s"], shown) is None
    assert readme.missing(["removed tap_abcdefgh, 6.1 MB"], ["removed tap_a1b2c3d4, 950 B"]) is None
    for wanted in (["web  3 s"], ["NAME  UP", "db  2m"], ["NAME  UP", "web  gone"], ["...", "db  2m", "web  3 s"]):
        assert readme.missing(wanted, shown) in wanted
    assert readme.settled("web: the guest boots\r\x1b[Kweb  up\r\n") == ["web  up"]
