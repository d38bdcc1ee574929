"""What becomes of each request, for operators: traces and the access log, both off the request's own path."""
