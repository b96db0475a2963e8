"""The connections that two peers keep for their trades of rounds."""
