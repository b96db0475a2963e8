"""The exchange: averaging, codec, partners, protocol, transport."""
