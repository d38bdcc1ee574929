"""Hostile models: folders that a sloppy or malicious publisher may put beside good ones, and a server among them."""
