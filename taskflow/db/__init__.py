"""SQL: models, sessions, named queries and guarded updates, migrations. The truth lives here."""
