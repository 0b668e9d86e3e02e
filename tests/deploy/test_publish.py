"""The built artifact on its way through S3 to a device, as `gdk component publish` and a nucleus take it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import boto3
import moto
import pytest
import yaml

ACCOUNT, REGION = "123456789012", "eu-central-1"


def s3_client(region: str) -> Any:
    make: Any = boto3.client  # boto3 has no types
    return make("s3", region_name=region)


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)


@pytest.mark.parametrize("component", ["bridge", "dashboard", "inference", "model", "simulator"])
def test_an_artifact_comes_back_from_s3_with_the_digest_that_a_nucleus_checks(
    checkout: Path, built: dict[str, Path], component: str
) -> None:
    project = "." if component == "inference" else f"components/{component}"
    ((name, config),) = json.loads((checkout / project / "gdk-config.json").read_text())["component"].items()
    (artifact,) = (path for path in built[component].glob("artifacts/*/*/*") if path.is_file())
    recipe = yaml.safe_load((built[component] / "recipes" / "recipe.yaml").read_text())
    digest = base64.b64encode(hashlib.sha256(artifact.read_bytes()).digest()).decode()
    with moto.mock_aws():
        s3 = s3_client(REGION)
        # What GDK does: the bucket's name gets region and account, the recipe's Uri the whole place.
        bucket = f"{config['publish']['bucket']}-{REGION}-{ACCOUNT}"
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
        s3.upload_file(str(artifact), bucket, f"{name}/{config['version']}/{artifact.name}")
        for manifest in recipe["Manifests"]:
            (entry,) = manifest["Artifacts"]
            assert Path(entry["Uri"]).name == artifact.name
            entry["Uri"] = f"s3://{bucket}/{name}/{config['version']}/{artifact.name}"
            # What the cloud adds to the recipe when the version is created.
            entry |= {"Digest": digest, "Algorithm": "SHA-256"}
        for manifest in recipe["Manifests"]:
            (entry,) = manifest["Artifacts"]
            place = urlparse(entry["Uri"])
            received = s3.get_object(Bucket=place.netloc, Key=place.path.lstrip("/"))["Body"].read()
            assert entry["Algorithm"] == "SHA-256"
            assert base64.b64decode(entry["Digest"]) == hashlib.sha256(received).digest()
            with zipfile.ZipFile(io.BytesIO(received)) as archive:
                assert archive.testzip() is None
                assert "__main__.py" in archive.namelist()


def test_the_bucket_of_a_publisher_has_a_name_that_s3_takes(checkout: Path) -> None:
    for project in (".", "components/bridge", "components/dashboard", "components/model", "components/simulator"):
        ((_, config),) = json.loads((checkout / project / "gdk-config.json").read_text())["component"].items()
        bucket = f"{config['publish']['bucket']}-{config['publish']['region']}-{ACCOUNT}"
        assert len(bucket) <= 63
        with moto.mock_aws():
            s3_client("us-east-1").create_bucket(Bucket=bucket)
