"""The tables are plain enough for every database that a site may have."""

from __future__ import annotations

import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.schema import CreateIndex, CreateTable

from orchestrator.schema import metadata


@pytest.mark.parametrize("database", ["sqlite", "mysql", "postgresql"])
def test_every_table_can_be_made(database: str) -> None:
    dialect = make_url(f"{database}://").get_dialect()()
    for table in metadata.sorted_tables:
        text = str(CreateTable(table).compile(dialect=dialect))
        assert text.strip().startswith("CREATE TABLE")
        for index in table.indexes:
            assert "INDEX" in str(CreateIndex(index).compile(dialect=dialect))


def test_nothing_of_one_database_alone_is_used() -> None:
    for table in metadata.sorted_tables:
        for column in table.columns:
            assert column.server_default is None and not column.computed and not column.identity
