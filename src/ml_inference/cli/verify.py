"""`ml-inference verify`: whether a model directory can be trusted to score on this machine.

What the recipe's `install` runs, so that a bad model stops its deployment and the version before it stays. The checks run
in a child process: a booster that crashes XGBoost is an exit code of 1 with a reason, like any other.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ml_inference.model.manifest import ModelError, parse_manifest, read_manifest_bytes
from ml_inference.model.verification import VERIFY_SECONDS, NotReady, Ready, ready, verify_in_child


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="holds manifest.json and the booster")
    parser.add_argument(
        "--trusted-key",
        action="append",
        default=[],
        metavar="KEY",
        help="Ed25519 public key in base64, may be repeated; the model must then be signed by one of them",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=VERIFY_SECONDS,
        metavar="SECONDS",
        help="longest that it may take (%(default)g)",
    )
    parser.add_argument(
        "--component",
        action="store_true",
        help="also put one of its readings through the component's code, without a nucleus",
    )
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")
    parser.add_argument(
        "--in-process", action="store_true", help="check in this process, which a damaged booster can crash"
    )


def run(arguments: argparse.Namespace) -> int:
    """Verify; 0 when every check holds, else 1 with the reason."""
    try:
        verdict: Ready | NotReady = _verify(arguments)
        if arguments.component:
            _rehearse(arguments)
    except ModelError as error:
        verdict = NotReady(reason=str(error))
    except _BrokenComponentError as error:
        verdict = NotReady(reason=f"component: {error}")
    if arguments.json:
        print(verdict.model_dump_json())
    elif isinstance(verdict, Ready):
        print(
            f"{arguments.directory}: {verdict.name} {verdict.version} is ready: {verdict.features} features, "
            f"{verdict.objective}, {verdict.golden} golden scores{', signed by a trusted key' if verdict.signed else ''}"
        )
    else:
        print(f"{arguments.directory}: not usable: {verdict.reason}", file=sys.stderr)
    return 0 if verdict.ready else 1


class _BrokenComponentError(Exception):
    """The model is good, and the component's code is not."""


def _rehearse(arguments: argparse.Namespace) -> None:
    try:
        # Only here: it imports XGBoost and the SDK.
        import ml_inference.cli.run  # noqa: F401, PLC0415 - as the recipe's `run` does
        from ml_inference.serving.rehearsal import rehearse  # noqa: PLC0415

        rehearse(arguments.directory, arguments.timeout)
    except ModelError:
        raise
    except Exception as error:  # a version may be broken in any way
        name = "" if type(error).__name__ == "RehearsalError" else f"{type(error).__name__}: "
        raise _BrokenComponentError(f"{name}{error}") from error


def _verify(arguments: argparse.Namespace) -> Ready:
    directory: Path = arguments.directory
    content = read_manifest_bytes(directory)
    if arguments.in_process:
        # Only here: it imports XGBoost, which the parent of a child need not hold as well.
        from ml_inference.model.bundle import load_model  # noqa: PLC0415

        expected = parse_manifest(content)
        manifest = load_model(directory, trusted_keys=arguments.trusted_key, expected=expected).manifest
    else:
        manifest = verify_in_child(directory, trusted_keys=arguments.trusted_key, seconds=arguments.timeout)
    return ready(manifest, content, signed=bool(arguments.trusted_key))
