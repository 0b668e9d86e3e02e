"""`ml-inference package`: a model directory from a booster file or a SageMaker archive.

The booster is opened in a child process with limits on memory and time: nobody has checked it yet.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ml_inference.cli.options import OptionError, add_table_options, dialect, names
from ml_inference.model.manifest import Feature, ModelError
from ml_inference.model.trust import SIGNATURE_FILE
from ml_inference.offline.chunks import TableError
from ml_inference.offline.files import table_files
from ml_inference.workbench.packaging.child import package_in_child
from ml_inference.workbench.packaging.errors import PackagingError
from ml_inference.workbench.packaging.request import Report, Request
from ml_inference.workbench.packaging.sources import local_file
from ml_inference.workbench.writer import UNSIGNED, require_target


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="booster (.json, .ubj, or without an extension) or model.tar.gz; s3://bucket/key, too",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the model directory")
    parser.add_argument("--name", help="of the model, as in results (default: the directory's name)")
    parser.add_argument("--version", default="1.0.0", help="of the model, as in results (%(default)s)")
    features = parser.add_mutually_exclusive_group()
    features.add_argument("--features", metavar="A,B,...", help="names in the order of the training columns")
    features.add_argument(
        "--features-file", type=Path, metavar="FILE", help="JSON list of {name, unit, minimum, maximum} in that order"
    )
    parser.add_argument("--unit", action="append", default=[], metavar="NAME=UNIT", help="may be repeated")
    parser.add_argument("--threshold", type=float, help="a score from here on is abnormal (binary:logistic: 0.5)")
    parser.add_argument("--classes", metavar="A,B,...", help="names of the classes of a multi-class model")
    parser.add_argument("--normal-class", metavar="A", help="the class that stands for normal operation")
    parser.add_argument(
        "--data",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="readings (CSV, JSON lines, Parquet, or a folder of them) for golden readings and what is usual; repeatable",
    )
    parser.add_argument(
        "--categories",
        action="append",
        default=[],
        metavar="NAME=A,B,...",
        help="texts that stand for a categorical feature's codes 0, 1, ... in messages; repeatable",
    )
    parser.add_argument(
        "--allow-missing", metavar="A,B,...", help="features that a reading may lack (null or absent), or all"
    )
    add_table_options(parser.add_argument_group("how FILE is written"))
    parser.add_argument("--expected", metavar="COLUMN", help="column of FILE with the scores that the model must give")
    parser.add_argument(
        "--tolerance", type=float, default=1e-5, help="by how much they may differ, relative beyond 1 (%(default)g)"
    )
    parser.add_argument(
        "--limits-from-data", action="store_true", help="reject readings more than the range of FILE away from it"
    )
    parser.add_argument(
        "--trees",
        type=_trees,
        default="best",
        metavar="best|all|N",
        help="boosting rounds to serve: up to the booster's best_iteration, as scikit-learn's wrapper predicts (best, the "
        "default), all of them, as Booster.predict does, or the first N",
    )
    parser.add_argument("--member", metavar="PATH", help="the booster in an archive that holds several")


def run(arguments: argparse.Namespace) -> int:
    """Package; 0 when the model directory is written, else 1 with the reason."""
    try:
        require_target(arguments.out, _name(arguments), arguments.version)
        signed = (arguments.out / SIGNATURE_FILE).is_file()
        with local_file(arguments.source) as source:
            report = package_in_child(_request(arguments, source))
    except (PackagingError, ModelError, TableError, OptionError) as error:
        print(f"ml-inference package: {error}", file=sys.stderr)
        return 1
    if signed:
        report.warnings.append(UNSIGNED)
    _print(arguments.out, report)
    return 0


def _request(arguments: argparse.Namespace, source: Path) -> Request:
    out: Path = arguments.out.resolve()
    data = table_files(arguments.data)
    for file in data:
        if not file.is_file():
            raise PackagingError(f"{file}: {'is not a file' if file.exists() else 'does not exist'}")
    if not data and (arguments.expected or arguments.limits_from_data):
        raise PackagingError("--expected and --limits-from-data need --data")
    return Request(
        source=source.resolve(),
        label=arguments.source,
        out=out,
        name=_name(arguments),
        version=arguments.version,
        features=_features(arguments),
        units=dict(map(_unit, arguments.unit)),
        threshold=arguments.threshold,
        classes=_names(arguments.classes),
        normal_class=arguments.normal_class,
        data=[file.resolve() for file in data],
        dialect=dialect(arguments),
        categories=dict(map(_categories, arguments.categories)),
        allow_missing=list(names(arguments.allow_missing or "")),
        expected=arguments.expected,
        tolerance=arguments.tolerance,
        limits_from_data=arguments.limits_from_data,
        trees=arguments.trees,
        member=arguments.member,
    )


def _name(arguments: argparse.Namespace) -> str:
    return arguments.name or re.sub(r"[^A-Za-z0-9._+-]", "-", arguments.out.resolve().name)


def _features(arguments: argparse.Namespace) -> list[Feature] | None:
    path: Path | None = arguments.features_file
    try:
        if path is not None:
            return TypeAdapter(list[Feature]).validate_json(path.read_bytes())
        names = _names(arguments.features)
        return None if names is None else [Feature(name=name) for name in names]
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise PackagingError(f"{path or '--features'}: {where} {problem['msg']}") from error
    except OSError as error:
        raise PackagingError(f"{path}: {error.strerror}") from error


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _categories(text: str) -> tuple[str, list[str]]:
    name, separator, texts = text.partition("=")
    if not separator or not names(texts):
        raise PackagingError(f"--categories {text}: expected NAME=A,B,...")
    return name, list(names(texts))


def _unit(text: str) -> tuple[str, str]:
    name, separator, unit = text.rpartition("=")
    if not separator:
        raise PackagingError(f"--unit {text}: expected NAME=UNIT")
    return name, unit


def _trees(text: str) -> str | int:
    if text in ("best", "all"):
        return text
    if text.isdigit():
        return int(text)
    raise argparse.ArgumentTypeError("expected best, all or a number of rounds")


def _print(out: Path, report: Report) -> None:
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(
        f"{out}: {report.name} {report.version}: {len(report.features)} features, {report.objective}, "
        f"written by xgboost {report.xgboost_version}, {report.golden} golden readings"
    )
