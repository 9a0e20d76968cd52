"""Packages: every room by itself, and the configuration, which lies beside them."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["ffalora_cli", "ffalora_cli.*"]), "ffalora_cli.configs"])
