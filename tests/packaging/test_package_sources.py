from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from ml_inference.workbench.packaging import sources
from ml_inference.workbench.packaging.errors import PackagingError
from ml_inference.workbench.packaging.sources import local_file


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket="models", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        yield "models"


def test_an_object_is_fetched_and_removed_again(bucket: str) -> None:
    key = "jobs/a b?c#d/output/model.tar.gz"
    boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=b"x" * 3_000_000)
    with local_file(f"s3://{bucket}/{key}") as path:
        assert path.read_bytes() == b"x" * 3_000_000
    assert not path.exists()


def test_an_object_that_is_too_large_is_not_fetched(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_SOURCE_BYTES", 10)
    boto3.client("s3").put_object(Bucket=bucket, Key="model", Body=b"x" * 11)
    with pytest.raises(PackagingError, match="is larger than 10 bytes"), local_file(f"s3://{bucket}/model"):
        pass


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("s3://models/nothing", "cannot be fetched: .*NoSuchKey"),
        ("s3://nobodys/model", "cannot be fetched: .*NoSuchBucket"),
        ("s3://Not_A_Bucket!/model", "cannot be fetched: "),
        ("s3://models", "expected s3://bucket/key"),
        ("s3://models/", "expected s3://bucket/key"),
        ("s3:///model", "expected s3://bucket/key"),
    ],
)
def test_what_cannot_be_fetched_is_told_in_one_line(bucket: str, source: str, reason: str) -> None:
    with pytest.raises(PackagingError, match=f"^{source}: {reason}") as refused, local_file(source):
        pass
    assert "\n" not in str(refused.value)


def test_a_local_file_stays_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "booster").write_bytes(b"x")
    with local_file(str(tmp_path / "booster")) as path:
        assert path == tmp_path / "booster"
    assert path.exists()
    with pytest.raises(PackagingError, match="nowhere: does not exist"), local_file(str(tmp_path / "nowhere")):
        pass
    with pytest.raises(PackagingError, match="is not a file"), local_file(str(tmp_path)):
        pass
