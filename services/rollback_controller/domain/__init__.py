"""Pure decisions about rollbacks, rehearsals."""
