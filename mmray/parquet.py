"""Parquet that strangers wrote: columns whose values would be unpickled are refused.

Ray Data teaches pyarrow a type whose values are pickles, in every process that imports it. Ray's
own readers refuse files with such columns; pyarrow's do not, and run what is in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from mmray.errors import UserError

PLAIN = frozenset({"arrow.fixed_shape_tensor", "arrow.json", "arrow.uuid", "arrow.bool8"})
"""Extension types of Arrow itself, which are views of plain values."""

TYPE_ERRORS = (ValueError, TypeError, LookupError, AttributeError)
"""What extension types raise where a file lies about them."""


def check(schema: pa.Schema, where: str, columns: Sequence[str] | None = None) -> None:
    """Raise a `UserError` where reading a table would ask other code for its values.

    Args:
        schema: of the table.
        where: the file, for the message.
        columns: those that are read (default: all).
    """
    for field in schema:
        if columns is not None and field.name not in columns:
            continue
        for name in _extensions(field.type):
            if name not in PLAIN:
                raise UserError(
                    f"{where}: column {field.name} is of the type {name}, whose values may run "
                    "code; expected plain values, lists and tensors (arrow.fixed_shape_tensor)"
                )


def _extensions(kind: pa.DataType) -> Iterator[str]:
    """Names of the extension types in a type, however deep."""
    if isinstance(kind, pa.BaseExtensionType):
        yield kind.extension_name
        yield from _extensions(kind.storage_type)
    elif pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        yield from _extensions(kind.value_type)
    else:
        for i in range(kind.num_fields):
            yield from _extensions(kind.field(i).type)
