"""Classifies a user's own images and draws the network's inputs and outputs."""

from collections.abc import Sequence
from pathlib import Path

from stn_jax.training.classify import Classification, ClassifiedImages, classify
from stn_jax.training.restore import load_seed, pretrained_without_data
from stn_jax.training.workdir import Workdir


def classify_files(
    workdir: str | Path, files: Sequence[str | Path], box: Sequence[float] | None = None
) -> list[Classification]:
    """Classifies a user's images of digits or house numbers with the network of a run's first seed.

    Draws the network's inputs and the transformer's outputs to ``figures/`` in the run's folder.

    Args:
      workdir: the run's folder.
      files: image files, each with one digit; for task svhn with one house number.
      box: location of the house number in a photograph: left, top, right, bottom in pixels.

    Returns:
      A Classification for each file; its ``_asdict()`` is ready for JSON.

    Raises:
      ConfigError, DataError: as :func:`stn_jax.load_run` and
        :func:`stn_jax.training.classify.classify`.
    """
    run, params = load_seed(workdir)
    return _draw(classify(run, params, files, str(workdir), box), picture_path(workdir))


def classify_files_pretrained(
    name: str,
    files: Sequence[str | Path],
    picture: str | Path,
    *,
    folder: str | Path | None = None,
) -> list[Classification]:
    """Classifies a user's images of digits with a pretrained network; needs no data set.

    Args:
      name: see :func:`stn_jax.load_pretrained`.
      files: image files, each with one digit.
      picture: the PNG to draw, with the network's inputs and the transformer's outputs.
      folder: folder of the weights; None: the package's own.

    Returns, Raises: as :func:`classify_files`, and PretrainedError as
    :func:`stn_jax.training.restore.evaluate_pretrained`.
    """
    run, variables = pretrained_without_data(name, folder)
    return _draw(classify(run, variables["params"], files, name), Path(picture))


def picture_path(workdir: str | Path) -> Path:
    """The file to which a run's predictions are drawn."""
    return Workdir(workdir).figures / "images.png"


def _draw(found: ClassifiedImages, picture: Path) -> list[Classification]:
    from stn_jax.report import figures

    captions = [str(prediction) for prediction in found.predictions]
    figures.pictures(
        found.inputs, found.aligned, captions, picture, found.outlines, sources=found.readings
    )
    return found.predictions
