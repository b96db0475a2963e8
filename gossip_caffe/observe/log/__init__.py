"""The event log: writing it, following it, and the store's ignored records."""
