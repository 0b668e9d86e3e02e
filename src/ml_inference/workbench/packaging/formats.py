"""Tells what a file is by its first bytes, and for what XGBoost 3.2 does not load, how to convert it.

It never parses: a pickle runs whatever its author wants when it is read, so the only safe thing to do is to recognise one.
"""

from __future__ import annotations

from enum import Enum

from ml_inference.workbench.packaging.errors import PackagingError

HEAD_BYTES = 65_536
"""What `kind_of` wants to see of a file."""

_CONVERT = (
    'convert it with xgboost 3.0.5 (pip install xgboost==3.0.5; python -c "import xgboost; '
    "xgboost.Booster(model_file='xgboost-model').save_model('booster.json')\") and package booster.json; feature names are "
    "lost on the way, so give them with --features"
)
_UNPICKLE = (
    "if you trust it, load it where it was made, with the packages that wrote it, save it with "
    "booster.save_model('booster.json') (model.get_booster() first, for scikit-learn's wrapper), and package that"
)


class Kind(Enum):
    """What a file is."""

    JSON = "a booster in JSON"
    UBJSON = "a booster in UBJSON"
    LEGACY = "a booster in xgboost's old binary format"
    PICKLE = "a Python pickle"
    DUMP = "a text dump of trees"
    TAR = "a tar archive"
    ZIP = "a zip archive"
    EMPTY = "empty"
    UNKNOWN = "no booster"


def kind_of(head: bytes) -> Kind:
    """Recognise a file.

    Args:
        head: Its first `HEAD_BYTES` bytes.
    """
    text = head.lstrip()
    for kind, holds in (
        (Kind.EMPTY, not head),
        (Kind.TAR, head[:2] == b"\x1f\x8b" or head[257:262] == b"ustar"),
        (Kind.ZIP, head[:4] == b"PK\x03\x04"),
        # The magic word came with xgboost 1.0; before it, a file began with the base score, 0.5 in nearly all.
        (Kind.LEGACY, head[:4] in (b"binf", b"bs64", b"\x00\x00\x00?")),
        # Protocols 2 to 5; protocol 0 is text that names the module; joblib writes either.
        (Kind.PICKLE, (head[:1] == b"\x80" and head[1:2] <= b"\x05") or b"cxgboost." in head or b"ccopy_reg" in head),
        (Kind.DUMP, text[:1] == b"[" or text[:8] == b"booster["),
        # As xgboost itself decides: a brace before a quote is JSON, before anything else UBJSON.
        (Kind.JSON, text[:1] == b"{" and text[1:].lstrip()[:1] in (b'"', b"}")),
        (Kind.UBJSON, head[:1] == b"{"),
    ):
        if holds:
            return kind
    return Kind.UNKNOWN


def looks_like_booster(name: str, head: bytes) -> bool:
    """Whether a file in an archive is one to choose from.

    Args:
        name: Its path in the archive.
        head: Its first `HEAD_BYTES` bytes.
    """
    kind = kind_of(head)
    # SageMaker's name for whatever its containers wrote: `xgboost-model`, or `xgboost-model-<fold>` of a cross-validation.
    if name.rsplit("/", 1)[-1].startswith("xgboost-model"):
        return True
    return kind in (Kind.LEGACY, Kind.PICKLE) or (kind in (Kind.JSON, Kind.UBJSON) and b"learner" in head)


def require_loadable(head: bytes, what: str) -> Kind:
    """Refuse what is not JSON or UBJSON, and say how to convert it.

    Args:
        head: The file's first `HEAD_BYTES` bytes.
        what: Names the file in the message.

    Raises:
        PackagingError: With the way out.
    """
    kind = kind_of(head)
    if kind in (Kind.JSON, Kind.UBJSON):
        return kind
    advice = {
        Kind.LEGACY: f", which xgboost no longer reads since 3.1; {_CONVERT}",
        Kind.PICKLE: f", which can run anything when it is read, so it never is; {_UNPICKLE}",
        Kind.DUMP: ", for people; save the booster with save_model('booster.json') instead of dump_model",
        Kind.ZIP: "; unpack it and package the booster inside",
    }.get(kind, "; expected one saved with booster.save_model('booster.json'), or SageMaker's model.tar.gz")
    raise PackagingError(f"{what}: is {kind.value}{advice}")
