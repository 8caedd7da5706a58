"""Trains and evaluates on the devices of this process, for tests/training/test_devices.py.

    python tests/training/devices_case.py FIELDS WORKDIR [STOP_AT]

FIELDS is a configuration as JSON; at step STOP_AT the process sends itself SIGTERM. Prints a line
of JSON: the status, the sizes of the shares, and what was evaluated.
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
from stn_jax.training.workdir import Workdir


class KilledAt(Hooks):
    """Sends the process SIGTERM after a step."""

    def __init__(self, step: int):
        self.step = step

    def after_steps(self, step: int) -> None:
        if step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    processes.join()
    config = Config.from_dict(json.loads(sys.argv[1]))
    workdir = sys.argv[2]
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
    distorted = steps.distorted_batch

    def watched(*args):
        images, theta = distorted(*args)
        jax.debug.inspect_array_sharding(
            images, callback=lambda s: said.update(batch=s.shard_shape(images.shape)[0])
        )
        return images, theta

    state = run.init_state()
    if jax.device_count() > 1 and len(config.seeds) == 1:
        steps.distorted_batch = watched
        make = run.train_steps()
        make(state, run.empty_metrics(), run.data, 1)
        steps.distorted_batch = distorted
    else:
        kernel = state["params"]["head"]["logits"]["kernel"]
        said["seeds"] = [len(s.data) for s in kernel.addressable_shards]

    hooks = None
    if len(sys.argv) > 3:
        hooks = KilledAt(int(sys.argv[3]))
    try:
        said["status"] = exit_code(lambda: train(config, workdir, hooks))
    except SystemExit as stopped:
        said["status"] = stopped.code
    if said["status"] == 0 and jax.process_count() == 1:
        said["step"] = int(load(workdir)[1]["step"])
        said["result_devices"] = Workdir(workdir).result()["devices"]
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
