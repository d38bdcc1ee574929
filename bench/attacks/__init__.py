"""Attacks on a server: raw connections that waste its memory and time, with an honest client beside them.

The attacker, the honest client and the server are three processes. Nothing here imports the server's front end: what an
attacker sends is made from RFC 9113 and gRPC's wire format.
"""
