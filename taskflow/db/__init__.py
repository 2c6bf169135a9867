"""SQL: models, sessions, named queries and guarded updates, migrations. The truth lives here."""

# Whoever knows one table knows all: ``Base.metadata`` is complete however it was come by.
from taskflow.db import own_models as own_models
