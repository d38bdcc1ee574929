"""The session options: how ONNX Runtime opens and runs one model's sessions, except execution providers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnxruntime as ort

from frostline_server.errors import LoadError

GRAPH_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
"""Triton's numbers for how far ONNX Runtime rewrites the graph."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """How one model's sessions are made; the defaults are the server's own.

    Attributes:
        intra_op_threads: threads within an operator; 0 takes the server's setting.
        inter_op_threads: threads across operators, if they run in parallel; 0 takes the server's setting.
        parallel: whether independent operators run in parallel.
        graph_level: how far the graph is rewritten; a key of `GRAPH_LEVELS`.
        cpu_arena: whether the CPU's memory is kept between runs.
        memory_pattern: whether memory is planned ahead for a known shape.
        session: further entries of the session's configuration.
        run: entries of each run's configuration.
    """

    intra_op_threads: int = 0
    inter_op_threads: int = 0
    parallel: bool = False
    graph_level: int = 0
    cpu_arena: bool = True
    memory_pattern: bool = True
    session: Mapping[str, str] = field(default_factory=dict)
    run: Mapping[str, str] = field(default_factory=dict)

    def options(self, threads: int) -> ort.SessionOptions:
        """Options for a new session.

        Args:
            threads: within an operator and across operators, where the model does not say.

        Raises:
            LoadError: ONNX Runtime refuses an entry.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.intra_op_threads or threads
        # ONNX Runtime's own choice would be the cores of the host.
        options.inter_op_num_threads = self.inter_op_threads or threads
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL if self.parallel else ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = GRAPH_LEVELS[self.graph_level]
        options.enable_cpu_mem_arena = self.cpu_arena
        options.enable_mem_pattern = self.memory_pattern
        # ONNX Runtime also raises its errors; only fatal ones it cannot raise.
        options.log_severity_level = 4
        # A spinning thread pool would occupy the core that reads the next requests.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        for name, value in self.session.items():
            try:
                options.add_session_config_entry(name, value)
            except Exception as error:  # ONNX Runtime's exceptions share no public base class
                raise LoadError(f"config.pbtxt sets parameters.{name} '{value}': {error}") from error
        return options

    def run_options(self) -> ort.RunOptions:
        """Options for one run at a time."""
        options = ort.RunOptions()
        for name, value in self.run.items():
            options.add_run_config_entry(name, value)
        return options

    def device_run_options(self, graph_id: str) -> ort.RunOptions:
        """Options for runs on a CUDA device that replay, or capture, the graph of this id; -1 for none."""
        options = self.run_options()
        options.add_run_config_entry("gpu_graph_id", graph_id)
        return options
