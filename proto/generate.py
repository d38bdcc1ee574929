"""Generate the Python modules of `frostline/pb` from the contracts in this folder.

The contracts import each other by plain file name, as every language expects. Python needs the
package in the path, so the compiled descriptors are renamed before protoc writes the modules.

    python proto/generate.py [OUTPUT_FOLDER]
"""

import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

CONTRACTS = ("model_config.proto", "inference.proto", "predictor.proto")
PACKAGE = "frostline/pb"
ROOT = Path(__file__).resolve().parent.parent


def generate(output: Path) -> None:
    """Write `<output>/frostline/pb/*_pb2.py` and their stubs; exits with protoc's own message if it fails."""
    with tempfile.TemporaryDirectory() as scratch:
        compiled = Path(scratch) / "contracts.binpb"
        _protoc(f"-I{ROOT / 'proto'}", f"--descriptor_set_out={compiled}", "--include_source_info", *CONTRACTS)
        descriptors = FileDescriptorSet.FromString(compiled.read_bytes())
        for file in descriptors.file:
            file.name = f"{PACKAGE}/{file.name}"
            file.dependency[:] = [f"{PACKAGE}/{name}" for name in file.dependency]
        compiled.write_bytes(descriptors.SerializeToString())
        output.mkdir(parents=True, exist_ok=True)
        _protoc(
            f"--descriptor_set_in={compiled}",
            f"--python_out={output}",
            f"--pyi_out={output}",
            f"--grpc_python_out={output}",
            *(f"{PACKAGE}/{name}" for name in CONTRACTS),
        )
        # The model configuration has no service, and an empty stub would only mislead.
        (output / PACKAGE / "model_config_pb2_grpc.py").unlink()
        for module in (output / PACKAGE).glob("*_pb2.py"):
            module.write_text(_in_our_pool(module.read_text(encoding="utf-8")), encoding="utf-8")


def _in_our_pool(code: str) -> str:
    """A generated module that knows its contract in the package's own pool; see `frostline/pb/__init__.py`."""
    for generated, ours in (
        (
            "from google.protobuf import descriptor_pool as _descriptor_pool\n",
            "from frostline.pb import POOL as _pool\n",
        ),
        ("_descriptor_pool.Default()", "_pool"),
    ):
        if code.count(generated) != 1:
            sys.exit(f"protoc's modules are no longer as this expects: {generated.strip()}")
        code = code.replace(generated, ours)
    return code


def _protoc(*arguments: str) -> None:
    if code := protoc.main(["protoc", *arguments]):
        sys.exit(code)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
