"""The message codec: request bytes to rows and outputs to response bytes; `codec.Codec` is its face."""
