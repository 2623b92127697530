"""A registered model as MLflow runs it: paths of sound files in, a table of classes out."""

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from audiolib.inference import Listener, top, whole_files


class SoundClassifier(PythonModel):
    """`predict` takes a list of paths, or a table with the column `path`; params may name `top_k`."""

    def load_context(self, context: Any) -> None:
        """Read the model folder that was logged."""
        self.listener = Listener(context.artifacts["model"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One row for each file and class: file, rank, class, probability; `params` may hold `top_k`, 0 = all classes.

        MLflow makes a table with one column of what it is given: a list of paths, a table, a single path.
        """
        del context
        paths = model_input.iloc[:, 0].tolist()
        count = int((params or {}).get("top_k", 0)) or len(self.listener.classes)
        rows = [
            {"file": heard.path, "rank": rank, "class": name, "probability": probability}
            for heard in whole_files(self.listener.listen(paths))
            for rank, (name, probability) in enumerate(top(heard.values, self.listener.classes, count), start=1)
        ]
        return pd.DataFrame(rows, columns=["file", "rank", "class", "probability"])


set_model(SoundClassifier())
