"""The classification of failed runs: what ONNX Runtime raises becomes the request's fault, or the server's.

The class of the error decides. Running the guilty row again on the CPU would decide too, but needs the weights a second
time. On the CPU an operator that refuses does so because of what it was given, and would again. On a CUDA device the
words tell the device's own failures from the operators'.
"""

import re

from frostline_server.errors import InvalidData, OutOfMemory, RunFailed, RunTimedOut

MAX_MESSAGE = 600
"""In characters; shapes and names fit, and a message of this size travels in the header of an answer."""

# No message worth reading is longer, and the patterns below need not look at megabytes.
_MAX_RAW = 4000

# An operator's own refusal, and ONNX Runtime's check of the inputs before the first operator.
_REFUSAL = re.compile(r"Non-zero status code returned while running|Invalid rank for input|Got invalid dimensions")
# Statuses of an operator that cannot run here, or of what an execution provider runs instead.
_UNABLE = re.compile(
    r"^\[ONNXRuntimeError\] : \d+ : (NOT_IMPLEMENTED|ENGINE_ERROR|EP_FAIL|DEVICE_RESET|MODEL_REQUIRES_COMPILATION)\b"
)
_DEVICE = re.compile(
    r"\b(cuda|cublas|cudnn|cufft|curand|cusparse|nccl|tensorrt|trt)\w*\b[\w ]{0,40}\b(failure|failed|error)",
    re.IGNORECASE,
)
_MEMORY = re.compile(
    r"failed to allocate memory|bad_alloc|out of memory|OUT_OF_MEMORY|ALLOC_FAILED|available memory of \d+ is smaller",
    re.IGNORECASE,
)

# What a run says that was told to end.
_ENDED = re.compile(r"Exiting due to terminate flag being set to true\.?\s*$")

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_STATUS = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |^Error in execution: ")
_NODE = re.compile(r"Non-zero status code returned while running (\S+) node\. Name:'(.*?)' Status Message: ")
_FILE = r"(?:[A-Za-z]:)?[\w./\\+-]*\.(?:cc|cpp|cxx|cu|cuh|h|hpp|inl)"
# CUDA's own errors: "... ; GPU=0 ; hostname=box ; file=/src/cuda_call.cc ; line=129 ; expr=cudaStreamSynchronize(s)".
_CALL_SITE = re.compile(rf" ; (?:hostname=\S*|file={_FILE}|line=\d+)(?= ;|$)")
# A function's parameters, with brackets in brackets three deep, and the types of a template.
_ROUND = r"\((?:[^()]++|\((?:[^()]++|\([^()]*+\))*+\))*+\)"
_SQUARE = r"\[with (?:[^\[\]]++|\[[^\[\]]*+\])*+\]"
_SIGNATURE = (
    rf"[^()]*?(?:operator\(\))?{_ROUND}"
    rf"(?:{_ROUND}|::<lambda{_ROUND}>|::\w+{_ROUND}|\s(?:const|noexcept)\b|\s{_SQUARE})*"
)
# A whole path is followed by the function's signature, a bare file name by its name alone. Then comes the check that
# failed, in C++; it is left out where a sentence follows that says what it means.
_CHECK = r"(?:(?:(?! was false\.).)*+ was false\.(?= \S))?"
# Only at the start of a word, or each of its letters would be tried.
_LOCATION = re.compile(rf"(?<!\S)(?:(?=\S*[/\\]){_FILE}:\d+ (?:{_SIGNATURE})?|{_FILE}:\d+ \S+)\s?{_CHECK}")
# What the C++ library's conversions of text say for themselves.
_CONVERSION = re.compile(r"(?<=: )(sto(?:d|f|ld|i|l|ll|ul|ull))$")


def run_error(error: Exception, device: str) -> RunFailed:
    """What a failed run means to the request that caused it.

    Args:
        error: what ONNX Runtime, or a binding of it, raised.
        device: where the network runs, such as cpu or cuda:0.

    Returns:
        `InvalidData` for what the values and shapes of the request cause, `OutOfMemory`, `RunTimedOut` for a run that was
        told to end, or `RunFailed`; with ONNX Runtime's words, without what only its authors can use.
    """
    raw = str(error)[:_MAX_RAW]
    words = cleaned(raw)
    # The names of operators are the model's own, and may be any words.
    said = _NODE.sub("", raw)
    if isinstance(error, MemoryError) or _MEMORY.search(said):
        return OutOfMemory(f"the network ran out of memory: {words}; send fewer rows or smaller tensors in one request")
    if _ENDED.search(raw):
        return RunTimedOut(words)
    unable = _UNABLE.search(raw) or (device != "cpu" and _DEVICE.search(said))
    if unable or not _REFUSAL.search(raw):
        return RunFailed(f"the network failed: {words}")
    return InvalidData(f"the network does not take this data: {words}")


def cleaned(words: str) -> str:
    """ONNX Runtime's message without colours, places in its source code and C++ signatures, in one line."""
    words = _COLOUR.sub("", words[:_MAX_RAW]).partition("\nStacktrace:")[0]
    words = " ".join(words.split())
    words = _LOCATION.sub("", _CALL_SITE.sub("", _STATUS.sub("", words)))
    words = _NODE.sub(_operator, f"{words} ")
    words = re.sub(r":$", ": ONNX Runtime gives no reason", " ".join(words.split()))
    words = _CONVERSION.sub(r"a text is not a number that fits (\1)", words)
    return words if len(words) <= MAX_MESSAGE else f"{words[:MAX_MESSAGE]}..."


def _operator(found: re.Match[str]) -> str:
    kind, name = found.groups()
    return f"{kind} node '{name}': " if name else f"{kind} node: "
