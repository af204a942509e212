"""A collection that is added to the list is named in the places that cannot be derived from the list."""

import tomllib
from pathlib import Path
from typing import Any

import app.models
from app.domains.collections import COLLECTIONS

PACKAGES = {entry.service.__module__.removesuffix(".service") for entry in COLLECTIONS}


def contracts(root: Path) -> dict[str, Any]:
    settings = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    return {contract["name"].partition(":")[0]: contract for contract in settings["tool"]["importlinter"]["contracts"]}


def test_every_collection_has_its_layer(root: Path) -> None:
    layers = contracts(root)["Imports run downward"]["layers"]
    assert {name for layer in layers for name in layer.split(" | ")} >= PACKAGES


def test_every_collection_imports_only_public_modules_of_shared(root: Path) -> None:
    kept = contracts(root)["A domain imports only the public modules of shared"]
    assert set(kept["source_modules"]) == PACKAGES


def test_every_model_of_a_collection_is_among_the_models() -> None:
    for entry in COLLECTIONS:
        model = entry.collection.model
        assert getattr(app.models, model.__name__) is model
