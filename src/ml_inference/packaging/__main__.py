"""The child process that packages: reads a request from standard input, writes what became of it to standard output."""

from __future__ import annotations

import sys

from ml_inference.model.manifest import ModelError
from ml_inference.packaging.build import build
from ml_inference.packaging.errors import PackagingError
from ml_inference.packaging.request import Answer, Request
from ml_inference.tables import TableError

if __name__ == "__main__":
    try:
        answer = Answer(report=build(Request.model_validate_json(sys.stdin.buffer.read())))
    except (PackagingError, ModelError, TableError) as error:
        answer = Answer(error=str(error))
    sys.stdout.write(answer.model_dump_json())
