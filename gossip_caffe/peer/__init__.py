"""The agent: wires the rooms below into one lifecycle."""
