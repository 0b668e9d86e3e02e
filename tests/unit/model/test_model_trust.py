import base64
import json
import stat
from pathlib import Path

import pytest

from ml_inference.cli.main import main
from ml_inference.model.bundle import load_model
from ml_inference.model.manifest import ModelError
from ml_inference.model.trust import check_signature, decode_public_key, key_id
from ml_inference.model.verification import verify_in_child
from support.damage import copy_of, edit_manifest, replace_booster

# RFC 8032, section 7.1, test 2: a signature that neither of our libraries made.
RFC_PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
RFC_MESSAGE = b"\x72"
RFC_SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keys")
    assert main(["sign", "keygen", "--out", str(directory)]) == 0
    return directory


@pytest.fixture
def trusted(keys: Path) -> list[str]:
    return [(keys / "model-signing.pub").read_text().strip()]


@pytest.fixture(scope="module")
def signed_once(model_directory: Path, tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Path:
    directory = copy_of(model_directory, tmp_path_factory.mktemp("signed") / "model")
    assert main(["sign", str(directory), "--key", str(keys / "model-signing.pem")]) == 0
    return directory


@pytest.fixture
def signed(signed_once: Path, tmp_path: Path) -> Path:
    return copy_of(signed_once, tmp_path / "model")


def test_a_signed_model_is_ready_for_who_trusts_the_key(signed: Path, trusted: list[str]) -> None:
    assert load_model(signed, trusted_keys=trusted).manifest.name == "small"
    assert verify_in_child(signed, trusted_keys=["A" * 43 + "=", *trusted]).name == "small"


def test_a_signed_model_is_ready_for_who_asks_for_no_signature(signed: Path) -> None:
    assert load_model(signed).manifest.name == "small"


def test_an_unsigned_model_is_refused(model_directory: Path, trusted: list[str]) -> None:
    with pytest.raises(ModelError, match=r"^signature: the model is not signed \(no manifest\.sig\)"):
        load_model(model_directory, trusted_keys=trusted)
    with pytest.raises(ModelError, match=r"^signature: the model is not signed"):
        verify_in_child(model_directory, trusted_keys=trusted)


def test_a_model_signed_by_somebody_else_is_refused(signed: Path) -> None:
    with pytest.raises(ModelError, match=r"^signature: made by key [0-9a-f]{16}, which is not one of TrustedKeys"):
        load_model(signed, trusted_keys=[base64.b64encode(RFC_PUBLIC).decode()])


@pytest.mark.parametrize("change", ["threshold", "layout"])
def test_a_manifest_altered_after_it_was_signed_is_refused(signed: Path, trusted: list[str], change: str) -> None:
    if change == "threshold":
        edit_manifest(signed, threshold=0.9)
    else:
        path = signed / "manifest.json"
        path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(ModelError, match=r"^signature: the manifest was altered after key"):
        load_model(signed, trusted_keys=trusted)


def test_a_signature_under_the_name_of_a_trusted_key_is_refused(signed: Path, trusted: list[str]) -> None:
    path = signed / "manifest.sig"
    forged = json.loads(path.read_text()) | {"signature": base64.b64encode(RFC_SIGNATURE).decode()}
    path.write_text(json.dumps(forged))
    with pytest.raises(ModelError, match=r"^signature: the manifest was altered"):
        load_model(signed, trusted_keys=trusted)


def test_a_booster_exchanged_after_the_manifest_was_signed_is_refused(signed: Path, trusted: list[str]) -> None:
    path = signed / "booster.ubj"
    path.write_bytes(path.read_bytes()[:-1] + b"]")
    with pytest.raises(ModelError, match=r"^checksum: "):
        load_model(signed, trusted_keys=trusted)
    replace_booster(signed, path.read_bytes())
    with pytest.raises(ModelError, match=r"^signature: the manifest was altered"):
        load_model(signed, trusted_keys=trusted)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"format": 2, "key_id": "0000000000000000", "signature": ""}', "format Input should be 1"),
        ('{"key_id": "0000000000000000", "signature": "", "more": 1}', "more Extra inputs"),
        ('{"key_id": "0000000000000000", "signature": "AAAA"}', "does not hold 64 bytes"),
        ('{"algorithm": "none", "key_id": "0000000000000000", "signature": ""}', "algorithm Input should be 'ed25519'"),
        ("x" * 5_000, "larger than 4096 bytes"),
    ],
)
def test_a_signature_file_that_is_none_is_refused(signed: Path, trusted: list[str], content: str, reason: str) -> None:
    (signed / "manifest.sig").write_text(content)
    with pytest.raises(ModelError, match=f"^signature: .*{reason}"):
        load_model(signed, trusted_keys=trusted)


def test_the_signature_scheme_is_the_one_of_rfc_8032(tmp_path: Path) -> None:
    signature = {"key_id": key_id(RFC_PUBLIC), "signature": base64.b64encode(RFC_SIGNATURE).decode()}
    (tmp_path / "manifest.sig").write_text(json.dumps(signature))
    trusted = [base64.b64encode(RFC_PUBLIC).decode()]
    assert check_signature(tmp_path, RFC_MESSAGE, trusted) == key_id(RFC_PUBLIC)
    with pytest.raises(ModelError, match="altered"):
        check_signature(tmp_path, b"\x73", trusted)


@pytest.mark.parametrize("key", ["", "AAAA", "A" * 44, "A" * 42 + "é=", "-----BEGIN PUBLIC KEY-----"])
def test_what_is_no_public_key_is_told_so(model_directory: Path, key: str) -> None:
    with pytest.raises(ValueError, match="not an Ed25519 public key"):
        decode_public_key(key)
    with pytest.raises(ModelError, match=r"^signature: TrustedKeys: not an Ed25519 public key"):
        load_model(model_directory, trusted_keys=[key])


def test_a_private_key_is_for_its_owner_alone_and_never_overwritten(
    keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private = keys / "model-signing.pem"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    before = private.read_bytes()
    assert before.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert main(["sign", "keygen", "--out", str(keys)]) == 1
    assert "File exists" in capsys.readouterr().err
    assert private.read_bytes() == before


def test_making_keys_prints_the_configuration_that_trusts_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sign", "keygen", "--out", str(tmp_path)]) == 0
    configuration = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert configuration == {"TrustedKeys": [(tmp_path / "model-signing.pub").read_text().strip()]}


def test_a_model_that_a_device_would_refuse_is_not_signed(
    model_directory: Path, tmp_path: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = copy_of(model_directory, tmp_path / "model")
    edit_manifest(directory, objective="reg:squarederror")
    assert main(["sign", str(directory), "--key", str(keys / "model-signing.pem")]) == 1
    assert "objective: " in capsys.readouterr().err
    assert not (directory / "manifest.sig").exists()


def test_what_is_no_private_key_is_told_so(signed: Path, keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sign", str(signed), "--key", str(keys / "model-signing.pub")]) == 1
    assert "is not an unencrypted private key in PEM" in capsys.readouterr().err
    assert main(["sign", str(signed)]) == 1
    assert "needs --key FILE" in capsys.readouterr().err
    assert main(["sign", str(signed), "--key", str(keys / "nowhere")]) == 1
    assert "nowhere: No such file" in capsys.readouterr().err
