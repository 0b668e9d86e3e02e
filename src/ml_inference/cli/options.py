"""Options that several commands share: how a table is written."""

from __future__ import annotations

import argparse
import codecs
import csv
from collections.abc import Sequence
from datetime import tzinfo

from ml_inference.offline.chunks import Dialect
from ml_inference.times import TimeError, time_zone


class OptionError(Exception):
    """An option that is not what it should be."""


def add_table_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Declare how a table is written."""
    parser.add_argument(
        "--encoding",
        type=_encoding,
        metavar="NAME",
        help="of the text, such as cp949, latin-1 or utf-16 (default: UTF-8)",
    )
    parser.add_argument(
        "--decimal",
        choices=[".", ","],
        default=".",
        help="what stands before the decimals of a number in CSV (%(default)s)",
    )
    parser.add_argument("--columns", metavar="A,B,...", help="names of the columns of a CSV file without a header")
    parser.add_argument(
        "--missing-value",
        action="append",
        default=[],
        metavar="[COLUMN=]NUMBER",
        help="a number that stands for a missing value, such as -999; repeatable",
    )
    parser.add_argument("--file-column", metavar="NAME", help="add a column with each row's file")
    parser.add_argument(
        "--timezone", type=_zone, metavar="ZONE", help="of times without an offset: Asia/Seoul, +09:00 (default: UTC)"
    )


def dialect(arguments: argparse.Namespace) -> Dialect:
    """How the table is written, as the options say.

    Raises:
        OptionError: An option is not what it should be.
    """
    missing: dict[str, set[float]] = {}
    for text in arguments.missing_value:
        column, _, number = text.rpartition("=")
        try:
            missing.setdefault(column, set()).add(float(number))
        except ValueError as error:
            raise OptionError(f"--missing-value {text!r} is not [COLUMN=]NUMBER") from error
    return Dialect(
        encoding=arguments.encoding,
        decimal=arguments.decimal,
        columns=None if arguments.columns is None else tuple(names(arguments.columns)),
        missing={column: frozenset(numbers) for column, numbers in missing.items()},
        file_column=arguments.file_column,
    )


def table_options(arguments: argparse.Namespace) -> list[str]:
    """The options again, for another process."""
    again = ["--decimal", arguments.decimal]
    for option, value in (
        ("--encoding", arguments.encoding),
        ("--columns", arguments.columns),
        ("--file-column", arguments.file_column),
        ("--timezone", arguments.timezone),
        *(("--missing-value", value) for value in arguments.missing_value),
    ):
        # With "=", since -999 would be taken for an option.
        again += [] if value is None else [f"{option}={value}"]
    return again


def names(text: str) -> Sequence[str]:
    """Names between commas; one that holds a comma stands in double quotes, as in CSV."""
    return [name.strip() for name in next(csv.reader([text], skipinitialspace=True), []) if name.strip()]


def _encoding(text: str) -> str:
    try:
        return codecs.lookup(text).name
    except LookupError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no encoding that Python knows, such as cp949") from error


def _zone(text: str) -> tzinfo:
    try:
        return time_zone(text)
    except TimeError as error:
        raise argparse.ArgumentTypeError(f"the {error}") from error
