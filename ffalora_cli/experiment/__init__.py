"""Wiring only: builds the parts of a run, drives the simulation, feeds the records."""

from ffalora_cli.experiment.observer import Observer
from ffalora_cli.experiment.population import client_table
from ffalora_cli.experiment.run import run

__all__ = ["Observer", "client_table", "run"]
