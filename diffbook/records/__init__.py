"""Recorded runs and trained checkpoints, with where they come from.

    record = records.load("lm-cpu")        # every run of an experiment: curves, measures, device …
    record.paired("loss").text()           # DIFF - Transformer over seeds, with its interval
    model = records.model("lm-cpu/diff-0") # the trained model itself

A record is a JSON file of a fixed schema. It is checked when it is read, so that a truncated or
edited file is an error and never a wrong number on a page. "How the runs were made" on the site
says how to make each one again.
"""

from diffbook.records.compare import VERDICTS, Claim, Paired, Standing, paired_interval
from diffbook.records.record import (
    SCHEMA,
    Record,
    RecordError,
    Run,
    available,
    best,
    load,
    model,
    read,
)

__all__ = [
    "SCHEMA", "VERDICTS", "Claim", "Paired", "Record", "RecordError", "Run", "Standing",
    "available", "best", "load", "model", "paired_interval", "read",
]
