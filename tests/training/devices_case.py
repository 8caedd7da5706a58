"""Trains and evaluates on the devices of this process, for tests/training/test_devices.py.

    python tests/training/devices_case.py TRIALS

TRIALS are a list as JSON, of [fields of a configuration, workdir, step]; at the step, if that is
not null, the process sends itself SIGTERM. Prints a line of JSON for each: the status, the sizes of
the parts, and what was evaluated.
"""

import json
import os
import signal
import sys

import jax

from stn_jax.cli.flags import exit_code
from stn_jax.training import Config, Hooks, processes, train
from stn_jax.training import step as steps
from stn_jax.training.assemble import assemble
from stn_jax.training.placement import Placement
from stn_jax.training.restore import load
from stn_jax.training.run import Run
from stn_jax.training.workdir import Workdir


class KilledAt(Hooks):
    """Sends the process SIGTERM after a step."""

    def __init__(self, step: int):
        self.step = step

    def after_steps(self, step: int) -> None:
        if step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def trained(config: Config, workdir: str, stop: int | None) -> dict:
    said: dict = {"devices": jax.device_count(), "process": jax.process_index()}

    # Whether the whole set is ever on one of several devices, as it was before it was shared out.
    put = Placement.put_examples

    def put_and_look(self, tree):
        shape = tree[0].shape
        alone = [x for x in jax.live_arrays() if x.shape == shape and len(x.devices()) == 1]
        said["whole_on_one"] = said.get("whole_on_one", 0) + len(alone)
        return put(self, tree)

    Placement.put_examples = put_and_look
    # What each device holds of the training set, and of a batch as the network sees it.
    run = assemble(config)
    said["training"] = [len(s.data) for s in run.data.images.addressable_shards]
    if jax.device_count() > 1 and len(config.seeds) == 1:
        said["batch"] = batch_on_a_device(run)
    else:
        kernel = run.init_state()["params"]["head"]["logits"]["kernel"]
        said["seeds"] = [len(s.data) for s in kernel.addressable_shards]

    hooks = None if stop is None else KilledAt(stop)
    try:
        said["status"] = exit_code(lambda: train(config, workdir, hooks))
    except SystemExit as stopped:
        said["status"] = stopped.code
    if said["status"] == 0 and jax.process_count() == 1:
        said["step"] = int(load(workdir)[1]["step"])
        said["result_devices"] = Workdir(workdir).result()["devices"]
    Placement.put_examples = put
    return said


def batch_on_a_device(run: Run) -> int:
    """How many images of a batch a device gets."""
    found = []
    state = run.init_state()
    distorted = steps.distorted_batch

    def watched(*args):
        images, theta = distorted(*args)
        jax.debug.inspect_array_sharding(
            images, callback=lambda s: found.append(s.shard_shape(images.shape)[0])
        )
        return images, theta

    steps.distorted_batch = watched
    run.train_steps()(state, run.empty_metrics(), run.data, 1)
    steps.distorted_batch = distorted
    return found[-1]


def main() -> None:
    processes.join()
    for fields, workdir, stop in json.loads(sys.argv[1]):
        print(json.dumps(trained(Config.from_dict(fields), workdir, stop)), flush=True)


if __name__ == "__main__":
    main()
