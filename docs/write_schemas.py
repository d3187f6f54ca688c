"""Writes the published JSON Schemas: what `make docs` runs, and what a test holds."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from harness.dataset import Manifest
from harness.reporting.tables import TableFile
from harness.results import Result

FOLDER = Path(__file__).parent
SCHEMAS: dict[str, type[BaseModel]] = {
    "dataset.schema.json": Manifest,
    "result.schema.json": Result,
    "table.schema.json": TableFile,
}


def text(model: type[BaseModel]) -> str:
    """Return the JSON Schema of `model` as it is published."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema |= model.model_json_schema(mode="serialization")
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    for name, model in SCHEMAS.items():
        (FOLDER / name).write_text(text(model), encoding="utf-8")
