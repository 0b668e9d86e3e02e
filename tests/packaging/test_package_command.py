import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from ml_inference.cli.main import main
from ml_inference.model.bundle import load_model
from ml_inference.model.isolation import run_isolated
from ml_inference.workbench.packaging import child
from ml_inference.workbench.packaging.child import package_in_child
from ml_inference.workbench.packaging.errors import PackagingError
from ml_inference.workbench.packaging.request import Request
from support.damage import crashing, filling

DATA = Path(__file__).parent / "data"
LETTERS = "a,b,c,d,e,f,g,h,i,j,k,l,m"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket="models")
        yield "models"


def test_a_sagemaker_archive_in_s3_becomes_a_model_that_is_ready(
    s3: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        tar.add(DATA / "sagemaker-3.0.5", arcname="xgboost-model")
    boto3.client("s3").upload_file(str(tmp_path / "model.tar.gz"), s3, "job-1/output/model.tar.gz")
    source = f"s3://{s3}/job-1/output/model.tar.gz"
    options = ["--features", LETTERS, "--unit", "a=mm", "--unit", "b=mm/s", "--version", "2.0.0", "--threshold", "200"]
    assert main(["package", source, "--out", str(tmp_path / "press line"), *options]) == 0
    said = capsys.readouterr()
    assert "press-line 2.0.0: 13 features, reg:squarederror, written by xgboost 3.0.5, " in said.out
    manifest = load_model(tmp_path / "press line").manifest
    assert (manifest.source, manifest.threshold) == (source, 200.0)
    assert [feature.unit for feature in manifest.features[:3]] == ["mm", "mm/s", ""]
    assert main(["verify", str(tmp_path / "press line")]) == 0


def test_features_come_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = [{"name": name, "unit": "K", "minimum": -100.0, "maximum": 200.0} for name in LETTERS.split(",")]
    (tmp_path / "features.json").write_text(json.dumps(listed))
    arguments = ["package", str(DATA / "sagemaker-3.0.5"), "--out", str(tmp_path / "model")]
    assert main([*arguments, "--features-file", str(tmp_path / "features.json")]) == 0
    assert {feature.maximum for feature in load_model(tmp_path / "model").manifest.features} == {200.0}
    (tmp_path / "features.json").write_text('[{"name": "a", "max": 3}]')
    assert main([*arguments, "--features-file", str(tmp_path / "features.json")]) == 1
    assert "features.json: 0.max Extra inputs are not permitted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere"], "nowhere: does not exist"),
        ([str(DATA / "sagemaker-1.7.6")], "old binary format"),
        ([str(DATA / "sagemaker-3.0.5")], "holds no names; give its 13 with --features"),
        ([str(DATA / "sagemaker-3.0.5"), "--features", "timestamp"], "the message's envelope uses that key"),
        ([str(DATA / "regression-1.6.2.json"), "--unit", "mm"], "--unit mm: expected NAME=UNIT"),
        ([str(DATA / "regression-1.6.2.json"), "--data", "nowhere"], "nowhere: does not exist"),
        ([str(DATA / "regression-1.6.2.json"), "--expected", "x"], "--expected and --limits-from-data need --data"),
        ([str(DATA / "regression-1.6.2.json"), "--features-file", "nowhere"], "nowhere: No such file"),
        ([str(DATA / "regression-1.6.2.json"), "--version", "a b"], "version: 'a b' is not 1 to 128 of A-Z, "),
        (["nowhere", "--name", "Press Linie 3 (Ü)"], "name: 'Press Linie 3 (Ü)' is not 1 to 128 of A-Z, "),
    ],
)
def test_what_cannot_be_packaged_is_one_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    assert main(["package", *arguments, "--out", str(tmp_path / "model")]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("ml-inference package: ")
    assert reason in said.err
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_something_else_is_refused_before_anything_is_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    assert main(["package", "s3://models/never-asked", "--out", str(tmp_path)]) == 1
    assert "contains non-model files (precious.txt)" in capsys.readouterr().err


def test_a_signed_model_that_is_replaced_has_to_be_signed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = ["package", str(DATA / "sagemaker-3.0.5"), "--features", LETTERS, "--out", str(tmp_path / "model")]
    assert main(package) == 0
    assert "signed" not in capsys.readouterr().err
    assert main(["sign", "keygen", "--out", str(tmp_path)]) == 0
    assert main(["sign", str(tmp_path / "model"), "--key", str(tmp_path / "model-signing.pem")]) == 0
    assert main(package) == 0
    assert "warning: the model that was replaced was signed, this one is not" in capsys.readouterr().err
    assert not (tmp_path / "model" / "manifest.sig").exists()


def test_decimal_commas_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "german.csv"
    data.write_text(LETTERS.replace(",", ";") + "\n" + ";".join(["0,1257"] * 13) + "\n")
    package = ["package", str(DATA / "sagemaker-3.0.5"), "--features", LETTERS, "--out", str(tmp_path / "model")]
    assert main([*package, "--data", str(data)]) == 1
    assert (
        "line 2: column 'a' holds 0,1257, a number with a decimal comma: read it with --decimal ,"
        in capsys.readouterr().err
    )
    assert main([*package, "--data", str(data), "--decimal", ","]) == 0


def test_a_booster_that_crashes_the_loader_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "hostile"
    source.write_bytes(crashing((DATA / "sagemaker-3.0.5").read_bytes()))
    assert main(["package", str(source), "--out", str(tmp_path / "model"), "--features", LETTERS]) == 1
    assert capsys.readouterr().err == f"ml-inference package: {source}: opening it crashed XGBoost (SIGSEGV)\n"


def test_a_booster_that_fills_the_memory_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "hostile"
    source.write_bytes(filling((DATA / "sagemaker-3.0.5").read_bytes()))
    assert main(["package", str(source), "--out", str(tmp_path / "model"), "--features", LETTERS]) == 1
    assert "it asks for more memory than there is" in capsys.readouterr().err


def test_a_booster_that_hangs_is_told_so_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".other.kept").mkdir()

    def writing_when_it_is_killed(*arguments: Any, **limits: Any) -> object:
        (tmp_path / ".model.abc").mkdir()
        return run_isolated(*arguments, **limits)

    monkeypatch.setattr(child, "run_isolated", writing_when_it_is_killed)
    source = DATA / "regression-1.6.2.json"
    request = Request(source=source, label="b", out=tmp_path / "model", name="n", version="1")
    with pytest.raises(PackagingError, match=r"^b: opening it took longer than 0\.5 seconds$"):
        package_in_child(request, seconds=0.1)
    assert [path.name for path in tmp_path.iterdir()] == [".other.kept"]
