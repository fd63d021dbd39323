"""Sweeps fit a grid of options; each record is written to disk at once, so a stopped sweep can be continued."""

from tensornet_interp.contents import explain_missing_names
from tensornet_interp.sweep.fits import Grid, parameters, sweep
from tensornet_interp.sweep.records import load_records
from tensornet_interp.tables import Record, to_frame

__all__ = ["Grid", "Record", "load_records", "parameters", "sweep", "to_frame"]

explain_missing_names(__name__)
