"""Files of events that are not ROOT files: CSV, JSON lines, Parquet and Avro, plain or compressed, here or far away."""

from __future__ import annotations

from mlaas.data.files import EventFile
from mlaas.errors import DataError


def open_table(path: str, dtype: str) -> EventFile:
    """Open a file of events of the format `dtype`: "csv", "json", "parquet" or "avro" (see `sources.detect`).

    path: a local path or a URL, as `sources.resolve` returns it. Raises DataError when the file is missing, empty, damaged or of another format.
    """
    match dtype:
        case "csv":
            from mlaas.data.formats.csv import CsvFile

            return CsvFile(path)
        case "json":
            from mlaas.data.formats.json import JsonFile

            return JsonFile(path)
        case "parquet":
            from mlaas.data.formats.parquet import ParquetFile

            return ParquetFile(path)
        case "avro":
            from mlaas.data.formats.avro import AvroFile

            return AvroFile(path)
        case _:
            raise DataError(f"{path}: the format {dtype!r} is not a table; allowed are csv, json, parquet and avro")
