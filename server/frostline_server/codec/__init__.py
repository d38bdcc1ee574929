"""The message codec: request bytes to rows and outputs to response bytes.

`decoder.RequestDecoder` decodes for all models; `codec.Codec` is of one version.
"""
