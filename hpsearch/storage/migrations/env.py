"""Run by Alembic: our migrations on the connection that `hpsearch.storage.schema` gives, in its transaction.

To write a new revision, add a file under versions/ and raise `tables.REVISION`; a test compares the two with the tables.
"""

from alembic import context

from hpsearch.storage.tables import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
    include_name=lambda name, kind, parents: kind != "table" or str(name).startswith("hps_"),
)
with context.begin_transaction():
    context.run_migrations()
