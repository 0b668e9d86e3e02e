"""The child process that packages: reads a request from standard input, writes what became of it to standard output."""

from __future__ import annotations

import sys

from ml_inference.model.manifest import ModelError
from ml_inference.offline.chunks import TableError
from ml_inference.workbench.packaging.build import build
from ml_inference.workbench.packaging.errors import PackagingError
from ml_inference.workbench.packaging.request import Answer, Request

if __name__ == "__main__":
    try:
        answer = Answer(report=build(Request.model_validate_json(sys.stdin.buffer.read())))
    except (PackagingError, ModelError, TableError) as error:
        answer = Answer(error=str(error))
    sys.stdout.write(answer.model_dump_json())
