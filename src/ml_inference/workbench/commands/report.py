"""`ml-inference report`: what a recording shows, as one HTML file, judged as on a device."""

from __future__ import annotations

import argparse
import sys
from datetime import timezone
from pathlib import Path

from ml_inference.cli.options import OptionError, add_table_options, dialect
from ml_inference.model.bundle import load_verified
from ml_inference.model.manifest import ModelError
from ml_inference.offline.chunks import TableError
from ml_inference.offline.files import table_files
from ml_inference.offline.replay import Source
from ml_inference.scoring.judgement import Judgement
from ml_inference.workbench.recording.report import render
from ml_inference.workbench.recording.story import play


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        nargs="+",
        action="extend",
        metavar="FILE",
        help="the recording: CSV, JSON lines or Parquet; several files, and folders of them, are one recording",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="the model directory")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the report goes: report.html")
    parser.add_argument("--threshold", type=float, help="a score from here on is abnormal (default: the model's)")
    parser.add_argument(
        "--debounce",
        type=int,
        default=1,
        metavar="N",
        help="readings in a row that change a machine's state (%(default)s)",
    )
    add_table_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the report; 0, or 1 with the reason."""
    try:
        judgement = Judgement(threshold=arguments.threshold, debounce_readings=arguments.debounce)
        table = Source(table_files(arguments.data), dialect(arguments), arguments.timezone or timezone.utc)
        story = play(load_verified(arguments.model), table, judgement)
        name = arguments.data[0].name + (f" and {len(table.files) - 1} more" if len(table.files) > 1 else "")
        if not story.machines:
            why = f": {story.first_rejection}" if story.first_rejection else ""
            raise TableError(f"{name}: no reading could be scored{why}")  # noqa: TRY301 - one place tells
        arguments.out.write_text(render(story, name), encoding="utf-8")
    except (ModelError, TableError, OptionError) as error:
        print(f"ml-inference report: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"ml-inference report: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    alarms = sum(len(machine.alarms) for machine in story.machines.values())
    print(
        f"{arguments.out}: {len(story.machines)} machines, {story.scored} readings, {story.rejected} rejected, {alarms} alarms"
    )
    return 0
