"""docs/TUTORIAL.md, as a user reads it: every command that it shows, in order, as an ordinary user. README.md, which begins with an
installation, is run in a test host (tests/host/test_readme.py)."""
import json

import pytest
import readme
from host import DASHED, TOP, USER

# The site that is there already has Caddy make its authority at once.
HOST = {"caddyfile": "{\n\tlocal_certs\n}\n\nlocalhost {\n\trespond ok\n}\n"}
TEXT = (TOP / "docs/TUTORIAL.md").read_text(encoding="utf-8")
BLOCKS = [block for block in readme.blocks(TEXT) if not block.why]
HOME = f"/home/{USER}"


@pytest.fixture(scope="module")
def reader(host):
    """A user with a token and the document, which tells of the driver that is here. Caddy's certificates are trusted; the image
    `base` is `tiny`, for nothing here needs the ruby and python of the real one."""
    host.start_caddy()
    host.make_known(f"site.{DASHED}.sslip.io")
    host.run("sh", "-c", f"cat {host.CA} >>/etc/ssl/certs/ca-certificates.crt")
    host.api.post("/v1/images/tag", {"image": "tiny", "tag": "base"}).ok()
    host.add_user_token()
    vmm = host.api.get("/v1").ok()["vmm"]
    here = f"{vmm['driver']} (kvm)" if vmm["accel"] == "kvm" else "qemu (tcg: no usable KVM)"
    (host.work / "TUTORIAL.md").write_text(TEXT.replace("firecracker (kvm)", here), encoding="utf-8")
    host.run("install", "-m", "644", host.work / "TUTORIAL.md", TOP / "tests/readme.py", HOME)
    yield USER
    host.remove_all()
    for image in ("base", "shop"):
        host.api.delete(f"/v1/image?ref={image}").ok()


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: str(block.line))
def test_block(host, reader, block):
    done = host.run("/usr/bin/python3", "-B", f"{HOME}/readme.py", "--run", block.line, f"{HOME}/TUTORIAL.md", user=reader)
    readme.check(block, json.loads(done.stdout))
