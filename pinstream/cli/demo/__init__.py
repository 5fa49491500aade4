"""`pinstream demo`: the whole pipeline on the embedded servers, as a newcomer first sees it."""

from pinstream.cli.demo.command import run

__all__ = ["run"]
