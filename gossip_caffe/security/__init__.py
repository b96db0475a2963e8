"""Identity, certificates, and TLS for every connection. One object, ``Security``, is carried everywhere."""
