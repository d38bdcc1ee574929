"""A short training job, as a user's own script that is started by torchrun: MODELS RUNS DATA."""

import sys
from pathlib import Path

from rich.console import Console

from frostline_training import pipeline
from frostline_training.config import Hyperparameters, Mlp, Recipe
from frostline_training.errors import TrainingError
from tests.support import foreign

RECIPE = Recipe(
    name="short",
    data="digits",
    network=Mlp(hidden=(64,), dropout=0.2, norm="batch"),
    hyperparameters=Hyperparameters(epochs=12),
    calibrate=False,  # its answers are compared with those of a network that is not
)


def main() -> int:
    """Train and publish."""
    foreign.quicken()
    models, runs, data = sys.argv[1:]
    recipe = RECIPE.model_copy(update={"data": data})
    try:
        published = pipeline.run(recipe, models=Path(models), device="cpu", console=Console(), runs=Path(runs))
    except TrainingError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    # A thread that outlives the group may abort a process that ends, after all is done. Only Linux names its threads.
    left = sum("gloo" in path.read_text() for path in Path("/proc/self/task").glob("*/comm"))
    sys.stdout.write(f"this process knows version {published.version}, and {left} threads of gloo are left\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
