"""What Alembic runs: the upgrade, with what ``storage.schema`` handed over.

Alembic loads this file by its path, outside the package: it can import nothing of ours relatively, and needs not.
"""

from alembic import context

given = context.config.attributes
context.configure(
    connection=given["connection"], target_metadata=given["metadata"], version_table=given["version_table"], compare_type=True
)
with context.begin_transaction():
    context.run_migrations()
