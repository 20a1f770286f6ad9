"""The tables. Plain types only, so that SQLite, MariaDB and PostgreSQL hold the same."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text

metadata = MetaData()

# SQLite numbers rows by itself only for INTEGER keys.
_Id = BigInteger().with_variant(Integer, "sqlite")

buffers = Table(
    "buffers",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("sid", String(40), nullable=False, unique=True),
    Column("bbid", BigInteger, nullable=False, index=True),
    Column("type", String(16), nullable=False),
    Column("name", String(64), nullable=False, index=True),
    # The name while it is taken, else NULL: a unique key lets NULL stand many times in every database.
    Column("alive_name", String(64), nullable=True, unique=True),
    Column("uid", BigInteger, nullable=False),
    Column("gid", BigInteger, nullable=False),
    Column("user", String(255), nullable=False),
    Column("step", String(16), nullable=False, index=True),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("scoped", Boolean, nullable=False),
    Column("create_time", Float(53), nullable=False),
    Column("end_time", Float(53), nullable=True),
    Column("memory", BigInteger, nullable=False),
    Column("cores", BigInteger, nullable=False),
    Column("storage", BigInteger, nullable=False),
    Column("datanodes", Integer, nullable=False),
    Column("path", Text, nullable=False),
    Column("data_src", Text, nullable=True),
    Column("data_dst", Text, nullable=True),
    Column("destroy_job", BigInteger, nullable=True),
    Column("discard", Boolean, nullable=False),
    # Of an SBB: what fsync waits for, and bytes of a file that lie together on one server.
    Column("sync", String(16), nullable=True),
    Column("stripe", BigInteger, nullable=True),
)

# Which dataset a buffer writes: digests (SHA-256) of where it is and of which file is there.
writers = Table(
    "writers",
    metadata,
    Column("buffer_id", _Id, ForeignKey("buffers.id"), primary_key=True),
    Column("place", String(64), nullable=False, index=True),
    Column("file", String(64), nullable=True, index=True),
)

allocations = Table(
    "allocations",
    metadata,
    Column("buffer_id", _Id, ForeignKey("buffers.id"), primary_key=True),
    Column("datanode", String(255), primary_key=True),
    Column("volume_group", String(255), nullable=True),
    Column("memory", BigInteger, nullable=False),
    Column("cores", BigInteger, nullable=False),
    Column("storage", BigInteger, nullable=False),
    # How the datanode serves it (JSON list of ebb.model.Mount), once it is ready.
    Column("mounts", Text, nullable=True),
)

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", BigInteger, primary_key=True, autoincrement=False),
    Column("uid", BigInteger, nullable=False),
    Column("gid", BigInteger, nullable=False),
    Column("user", String(255), nullable=False),
    Column("step", String(16), nullable=False, index=True),
    Column("ran", Boolean, nullable=False),
    Column("changed", Float(53), nullable=False),
    Column("request", Text, nullable=False),
)

links = Table(
    "links",
    metadata,
    Column("job_id", BigInteger, ForeignKey("jobs.job_id"), primary_key=True),
    Column("buffer_id", _Id, ForeignKey("buffers.id"), primary_key=True),
    Column("creates", Boolean, nullable=False),
    Column("uses", Boolean, nullable=False),
    Column("destroys", Boolean, nullable=False),
    Column("admitted", Boolean, nullable=False),
    Index("links_by_buffer", "buffer_id"),
)
