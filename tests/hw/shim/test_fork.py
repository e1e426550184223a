"""A child after fork(): the parent's interpreter is refused, its own works, and the parent's is none the worse."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import os, sys
import numpy as np
import delegate
from delegate import interpreter_module
from delegate.tools import registry

device = sys.argv[1]
content = (registry.models_folder() / "mobilenet_digits.tflite").read_bytes()

def make():
    loaded = delegate.load(device=device, cache_dir="off")
    made = interpreter_module().Interpreter(model_content=content, experimental_delegates=[loaded])
    made.allocate_tensors()
    return made

def run(made, seed):
    details = made.get_input_details()[0]
    image = np.random.default_rng(seed).integers(0, 256, details["shape"]).astype(details["dtype"])
    made.set_tensor(details["index"], image)
    made.invoke()
    return made.get_tensor(made.get_output_details()[0]["index"]).tobytes()

parent = make()
expected = run(parent, 1), run(parent, 2)
assert expected[0] != expected[1]
child = os.fork()
if not child:
    try:
        run(parent, 2)
        print("the parent's interpreter ran")
    except RuntimeError as error:
        print("refused:", error)
    del parent
    print("same", run(make(), 1) == expected[0])
    sys.stdout.flush()
    os._exit(0)
print("child", os.waitpid(child, 0)[1])
print("same", (run(parent, 1), run(parent, 2)) == expected)
"""


@pytest.mark.parametrize("device", ["simulator", "rocket", "rknpu"])
def test_fork(stand_in, device):
    lines = stand_in().run([sys.executable, "-c", SCRIPT, device], cwd=ROOT).stdout.splitlines()
    assert f"device {device} was opened by process" in lines[0]
    assert "make a new interpreter here" in lines[0]
    assert lines[1:] == ["same True", "child 0", "same True"]


@pytest.mark.parametrize("driver", ["rocket", "rknpu"])
def test_memory_takes_no_descriptors(stand_in, driver):
    """As many buffers as a process may have descriptors; the views outlive the buffers, and then the mappings go."""
    text = """
import os, resource, sys
from delegate.hw.device import open_device
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
device = open_device(sys.argv[1])
count = lambda: (len(os.listdir("/proc/self/fd")), open("/proc/self/maps").read().count("npu buffer"))
before = count()
memories = [device.allocate(4096) for _ in range(200)]
for number, memory in enumerate(memories):
    memory.view[:] = number
print(count()[0] - before[0], count()[1] - before[1] > 0)
views = [memory.view[5:] for memory in memories]
for memory in memories:
    device.free(memory)
del memories, memory
print([int(view[0]) for view in views] == [number % 256 for number in range(200)])
del views
print(count()[1] - before[1])
"""
    assert stand_in().run([sys.executable, "-c", text, driver], cwd=ROOT).stdout.split() == ["0", "True", "True", "0"]
