"""The registration of a peer in the store: its name, its lease, its record and its rank."""
