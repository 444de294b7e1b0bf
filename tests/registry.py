"""Debian's docker-registry in a host: plain, with passwords, with tokens, with TLS; and images in it, put there by skopeo."""
import base64
import http.server
import json
import os
import signal
import subprocess
import threading
import time
import urllib.parse

from host import wait_for
from oci import layout

USER, PASSWORD, IDENTITY = "ann", "s3cret", "refresh me/+="
HTPASSWD = "ann:$2b$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK\n"  # that password
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


def certificate(path, name):
    """A key and a certificate of its own for `name`; (certificate, key)."""
    cert, key = path / f"{name}.crt", path / f"{name}.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2", "-subj",
                    f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"], check=True, capture_output=True)
    return cert, key


class Registry:
    """One at `address`. `blobs` is another one, whose images it has; `more` is what its config says beside `http`."""

    def __init__(self, host, path, address, blobs=None, tls=None, more=""):
        self.host, self.path, self.address, self.child = host, path, address, None
        self.path.mkdir(exist_ok=True)
        self.root = blobs.root if blobs else path / "blobs"
        self.ids = blobs.ids if blobs else {}
        cert = f"  tls:\n    certificate: {tls[0]}\n    key: {tls[1]}\n" if tls else ""
        (path / "r.yml").write_text(f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {self.root}\nhttp:\n  addr: {address}\n{cert}{more}")
        self.start()

    @classmethod
    def with_passwords(cls, host, path, address, **kwargs):
        path.mkdir()
        (path / "htpasswd").write_text(HTPASSWD)
        return cls(host, path, address, more=f"auth:\n  htpasswd:\n    realm: here\n    path: {path}/htpasswd\n", **kwargs)

    @classmethod
    def with_tokens(cls, host, path, address, server, **kwargs):
        return cls(host, path, address, more=f"auth:\n  token:\n    realm: http://{server.address}/token\n    service: here\n"
                                             f"    issuer: tokens\n    rootcertbundle: {server.cert}\n", **kwargs)

    def start(self):
        name, port = self.address.split(":")
        with open(self.path / "log", "ab") as log:
            self.child = self.host.spawn(["docker-registry", "serve", str(self.path / "r.yml")], stdout=log, stderr=log)
        wait_for("the registry", lambda: self.host.ns.connect((name, int(port)), 1).close() is None, 10)

    def stop(self):
        os.kill(self.child.pid, signal.SIGTERM)
        self.child.wait(10)

    def fill(self, name, layers, config):
        folder = self.path / name.replace(":", "-").replace("/", "-")
        self.ids[name] = layout(folder, layers, config)
        self.host.run("skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", f"oci:{folder}:x", f"docker://{self.address}/{name}")

    def blob(self, digest):
        """The file of one."""
        return self.root / f"docker/registry/v2/blobs/sha256/{digest[:2]}/{digest}/data"

    def asked(self):
        """How often it was asked for something."""
        return (self.path / "log").read_text().count('"GET /v2/')


class TokenServer:
    """Gives tokens to pull (distribution's docs/spec/auth/token.md and oauth.md) to whoever has the password or the identity token, and
    to nobody else."""

    def __init__(self, host, path, port):
        self.address, self.asked = f"127.0.0.1:{port}", []
        self.cert, self.key = certificate(path, "tokens")
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
                self.answer(query, "token", self.headers.get("Authorization") == BASIC)

            def do_POST(self):
                form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                good = form["grant_type"] == ["refresh_token"] and form["refresh_token"] == [IDENTITY] and not self.headers.get("Authorization")
                self.answer(form, "access_token", good)

            def answer(self, query, key, good):
                outer.asked.append(query)
                body = json.dumps({key: outer.token(query)}).encode() if good else b"{}"
                self.send_response(200 if good else 401)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = host.ns.inside(lambda: http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def token(self, query):
        def text(data):
            return base64.urlsafe_b64encode(data).rstrip(b"=")

        access = []
        for scope in query.get("scope", []):
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        x5c = ["".join(line for line in self.cert.read_text().splitlines() if "-----" not in line)]
        claims = {"iss": "tokens", "sub": USER, "aud": query["service"][0], "exp": now + 60, "nbf": now - 60, "iat": now, "jti": str(now),
                  "access": access}
        head = text(json.dumps({"typ": "JWT", "alg": "RS256", "x5c": x5c}).encode()) + b"." + text(json.dumps(claims).encode())
        sign = subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.key], input=head, capture_output=True, check=True).stdout
        return (head + b"." + text(sign)).decode()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
