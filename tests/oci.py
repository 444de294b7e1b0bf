"""OCI image layouts, as umoci and skopeo read them."""
import hashlib
import json


def layout(path, layers, config):
    """Make one with one image, named x; the image's id."""
    blobs = path / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(kind, data):
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": "sha256:" + digest, "size": len(data)}

    tars = [put("layer.v1.tar", data) for data in layers]
    made = put("config.v1+json", json.dumps({"architecture": "amd64", "os": "linux", "config": config,
                                             "rootfs": {"type": "layers", "diff_ids": [t["digest"] for t in tars]}}).encode())
    manifest = put("manifest.v1+json", json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                                                   "config": made, "layers": tars}).encode())
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "x"}
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return made["digest"].removeprefix("sha256:")
