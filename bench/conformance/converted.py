"""Models of scikit-learn as its converter writes them: `python -m bench.conformance.converted FOLDER FILE`.

No package on PyPI carries an ONNX file that reads texts, so skl2onnx, in FOLDER, makes one of a fixed pipeline.
"""

import sys
from pathlib import Path

TEXTS = {
    "animals": ["the cat sat on the mat", "dogs bark at night", "a cat and a dog", "birds sing in the morning"],
    "finance": ["stocks fell on monday", "the market rose", "bank shares fell at noon", "bonds rose at night"],
}


def main(packages: str, file: str) -> None:
    """Write a classifier of texts: strings [N, 1] to a label, also a string, and two probabilities."""
    sys.path.append(packages)
    import skl2onnx  # type: ignore[import-not-found]  # noqa: PLC0415  found in `packages` alone
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415  takes seconds to import
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415  as above
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415  as above

    labels = [label for label, texts in TEXTS.items() for _ in texts]
    # Changing case needs a locale of the machine in ONNX Runtime, which few containers have.
    pipeline = make_pipeline(TfidfVectorizer(lowercase=False), LogisticRegression())
    pipeline.fit([text for texts in TEXTS.values() for text in texts], labels)
    string = skl2onnx.common.data_types.StringTensorType([None, 1])
    model = skl2onnx.to_onnx(
        pipeline,
        initial_types=[("text", string)],
        options={"zipmap": False},
        target_opset={"": 18, "ai.onnx.ml": 3},
    )
    Path(file).write_bytes(model.SerializeToString())


if __name__ == "__main__":
    main(*sys.argv[1:])
