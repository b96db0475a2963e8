"""The exchange: its protocol, averaging, codecs, policies and transports; and the consensus of several peers."""
