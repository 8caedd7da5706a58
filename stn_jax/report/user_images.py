"""A user's own pictures: what a network says of them, and a picture of what it saw."""

from collections.abc import Sequence
from pathlib import Path

import jax

from stn_jax.training.classify import Answer, Classified, classify
from stn_jax.training.restore import load, pretrained_alone
from stn_jax.training.workdir import Workdir


def answer_files(
    workdir: str | Path, files: Sequence[str | Path], box: Sequence[float] | None = None
) -> list[Answer]:
    """Classifies a user's images of digits, or of house numbers, with a run's first network.

    Draws what the network was given and what its transformer made of it to ``figures/`` in the
    run's folder.

    Args:
      workdir: the run's folder.
      files: image files, one digit in each; for task svhn one house number.
      box: where in a photograph the house number is: left, top, right, bottom in pixels.

    Returns:
      An Answer for each file, which says where it is doubtful; its ``_asdict()`` is ready for JSON.

    Raises:
      ConfigError, DataError: as :func:`stn_jax.training.restore.load`, for files that are not
        images, where the run's data set is neither of gray images nor of house numbers, and for a
        box that does not fit.
    """
    run, state = load(workdir)
    params = jax.tree.map(lambda x: x[0], state["params"])
    return _drawn(classify(run, params, files, str(workdir), box), picture_of(workdir))


def answer_files_pretrained(
    name: str,
    files: Sequence[str | Path],
    picture: str | Path,
    *,
    folder: str | Path | None = None,
) -> list[Answer]:
    """Classifies a user's images of digits with a network of the package; needs no data set.

    Args:
      name: see :func:`stn_jax.load_pretrained`.
      files: image files, one digit in each.
      picture: the PNG to draw what the network was given and what its transformer made of it.
      folder: of the weights; the package's own where None.

    Returns, Raises: as :func:`answer_files`, and PretrainedError as
    :func:`stn_jax.training.restore.evaluate_pretrained`.
    """
    run, variables = pretrained_alone(name, folder)
    return _drawn(classify(run, variables["params"], files, name), Path(picture))


def picture_of(workdir: str | Path) -> Path:
    """Where the picture of a run's answers is drawn."""
    return Workdir(workdir).figures / "images.png"


def _drawn(found: Classified, picture: Path) -> list[Answer]:
    from stn_jax.report import figures

    captions = [str(answer) for answer in found.answers]
    figures.pictures(
        found.seen, found.aligned, captions, picture, found.outlines, sources=found.readings
    )
    return found.answers
